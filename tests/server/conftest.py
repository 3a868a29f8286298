"""A live server on a free port of 127.0.0.1, with the tiny model and a store of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn

from calotype.checkpoints import shelf
from calotype.server.app import create
from calotype.server.desk import Desk
from calotype.server.easel import Easel
from calotype.server.models import Models
from calotype.server.settings import Limits, Settings
from calotype.server.store import Store

TOKEN = "a-token-of-the-tests"


@dataclass(frozen=True)
class Live:
    address: str
    desk: Desk

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60, trust_env=False, **options)  # type: ignore[arg-type]


def run(settings: Settings, port: int = 0) -> Iterator[Live]:
    app = create(settings)
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.desk)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def tiny_settings(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        data=tmp_path_factory.mktemp("server"), models={"tiny": tiny_file}, default="tiny", threads=1
    )


@pytest.fixture(scope="session")
def live(tiny_settings: Settings) -> Iterator[Live]:
    yield from run(tiny_settings)


@pytest.fixture
def small(tiny_file: Path, tmp_path: Path) -> Iterator[Live]:
    """One that allows little and wants a token."""
    limits = Limits(
        body=2000, upload=2000, pictures=4, pixels=32 * 32, steps=20, queued_by_client=5, read_seconds=1
    )
    settings = Settings(
        tmp_path / "data", {"tiny": tiny_file}, "tiny", TOKEN, ("calotype.example",), limits=limits
    )
    yield from run(settings)


def tiny_desk(
    tiny_file: Path, folder: Path, easels: Callable[[Models], Sequence[Easel]] = lambda _: ()
) -> Iterator[Desk]:
    settings = Settings(folder / "data", {"tiny": tiny_file}, "tiny")
    models = Models({**shelf.shipped(), **settings.models}, "tiny", "cpu", None)
    desk = Desk(settings, Store(settings.data), models, easels(models))
    yield desk
    desk.worker.stop()
    desk.store.close()


@pytest.fixture
def desk(tiny_file: Path, tmp_path: Path) -> Iterator[Desk]:
    """A desk whose worker has not begun."""
    yield from tiny_desk(tiny_file, tmp_path)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the server has: the last bits of sums depend on how many share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
