"""Several processes, of this machine or of a cluster, that draw for one server: a Ray Serve deployment.

The front stays the one process it is without: fences, jobs, events, page.  Ray places the replicas, sends
each batch to one that is free, and starts another where one dies.  Ray listens on every address of this
machine, and nothing tells it otherwise; so it lets in nobody without a token, made anew for each start.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import PIL.Image

from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import CalotypeError, InputError
from calotype.safety.provenance import Signer
from calotype.server.board import Board
from calotype.server.easel import Event, Lost, Measure, Stepped, Wished
from calotype.server.joined import Joined
from calotype.server.painter import At, Painter, Told
from calotype.server.refusal import Refusal
from calotype.server.settings import Settings
from calotype.tasks import restore
from calotype.tasks.picture import Picture
from calotype.tasks.request import ResolvedRequest
from calotype.tasks.restoration import Restoration, RestoredPicture
from calotype.tasks.studio import pick_device

NAME = "calotype"
CLUSTER = "RAY_ADDRESS"
OBJECT_STORE = 2**28
"""Bytes of shared memory on this machine: pictures on their way."""

MOST_MEASURES = 1000
"""Sizes whose batches are known at once."""


class Replicas:
    """The deployment, running; `easels` draw in it, one for each replica.

    Raises InputError where Ray is not installed, CalotypeError where it does not start.
    """

    def __init__(self, settings: Settings, count: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine
        os.environ.setdefault("RAY_worker_niceness", "0")  # to draw is no work for idle hours
        self._own = not os.environ.get(CLUSTER)
        if self._own:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        try:
            import ray
            from ray import serve
        except ModuleNotFoundError as error:
            raise InputError(
                f"`calotype serve --replicas` needs {error.name}; install it with "
                "pip install 'calotype[server,ray]'."
            ) from None
        self._ray: Any = ray
        self._serve: Any = serve
        cores = os.cpu_count() or 1
        threads = settings.threads or max(1, cores // count)
        needs = {"num_cpus": 1, "num_gpus": int(pick_device(settings.device).type == "cuda")}
        try:
            if self._own:
                ray.init(
                    address="local",
                    num_cpus=max(cores, count),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE,
                    log_to_driver=False,
                    configure_logging=False,
                )
            else:
                ray.init(log_to_driver=False, configure_logging=False)
            serve.start(proxy_location="Disabled")  # requests come through our own fences only
            board = ray.remote(Board).options(num_cpus=0, max_restarts=-1).remote()
            painter: Any = serve.deployment(
                Painter,
                name="Painter",
                num_replicas=count,
                max_ongoing_requests=1,
                ray_actor_options=needs,
                logging_config={"enable_access_log": False, "log_level": "WARNING"},
            )
            # neither the token nor the key to sign with leaves this process
            sent = replace(settings, token=None, safety=replace(settings.safety, signer=None))
            handle = serve.run(painter.bind(sent, threads, board), name=NAME, route_prefix=None)
        except Exception as error:
            self.close()
            raise CalotypeError(f"The replicas do not start ({error!s:.300}).") from None
        self._handle = handle.options(stream=True)
        self._said: dict[int, tuple[str, ...]] = {}
        self.easels = [_Far(i, self, board, settings.safety.signer) for i in range(count)]

    def words(self, method: str, *given: Any) -> Iterator[Any]:
        """What a replica that is free tells of a piece of work; left, it stops there within a step.

        Raises Lost where the replica is gone, and the errors it met.
        """
        answer = getattr(self._handle, method).remote(*given)
        ended = False
        try:
            for word in answer:
                if isinstance(word, Told):
                    ended = True
                    self._said[word.replica] = word.loaded
                    word.check()
                else:
                    yield word
        except self._ray.exceptions.RayTaskError as error:  # not met by our own code there
            raise CalotypeError(f"The replica failed: {error.cause!r:.300}") from None
        except (self._ray.exceptions.RayError, self._serve.exceptions.RayServeException) as error:
            raise Lost(f"The replica that drew is gone ({type(error).__name__}).") from None
        finally:
            if not ended:
                with suppress(self._ray.exceptions.RayError):  # it may be gone already
                    answer.cancel()

    def loaded(self) -> list[str]:
        """Models in memory of any replica, as each said last."""
        return list(dict.fromkeys(name for names in self._said.values() for name in names))

    def load(self, name: str) -> None:
        """Into a replica that is free.  Refusal or CalotypeError as `Models.load`."""
        for _ in self.words("load", name):
            pass

    def unload(self, name: str) -> None:
        raise Refusal(
            409,
            "replicas_unload_themselves",
            f"Replicas keep {name} until another model needs its place; nothing need be done.",
        )

    def close(self) -> None:
        """The replicas end, and with them what else of Ray was started for them."""
        with suppress(Exception):  # the end is the end, whatever Ray says of it
            self._serve.shutdown() if self._own else self._serve.delete(NAME)
        self._ray.shutdown()


class _Far:
    """An easel in whichever replica is free."""

    def __init__(self, number: int, replicas: Replicas, board: Any, signer: Signer | None) -> None:
        self._number, self._replicas, self._board, self._signer = number, replicas, board, signer
        self._measures: dict[tuple[str, int, int], Measure] = {}
        self._tokenizers: dict[str, Tokenizer | None] = {}

    def measure(self, asked: ResolvedRequest) -> Measure:
        key = (asked.model, asked.width, asked.height)
        if key not in self._measures:
            (found,) = self._replicas.words("measure", asked)
            tokenizer = self._tokenizers.setdefault(asked.model, found.tokenizer)  # megabytes: one a model
            if len(self._measures) == MOST_MEASURES:
                self._measures.clear()
            self._measures[key] = replace(found, tokenizer=tokenizer)
        return self._measures[key]

    def draw(self, asked: Joined, wished: Wished) -> Iterator[Event]:
        told: tuple[int, ...] = ()

        def tell() -> None:
            nonlocal told
            if told != (now := tuple(wished())):
                self._board.wish.remote(self._number, now)
                told = now

        tell()
        for event in self._replicas.words("draw", self._number, asked):
            if isinstance(event, Stepped):
                tell()
            yield replace(event, signer=self._signer) if isinstance(event, Picture) else event

    def restore(
        self, asked: Restoration, uploads: Mapping[str, PIL.Image.Image], watch: restore.Watch
    ) -> Iterator[RestoredPicture]:
        for word in self._replicas.words("restore", asked, uploads):
            if isinstance(word, At):
                watch(word.done, word.total)
            else:
                yield replace(word, signer=self._signer)
