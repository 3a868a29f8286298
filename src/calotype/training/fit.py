"""One run from start or checkpoint to its end report: what the command line and the Python call share."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from calotype.errors import DataError, TrainingError
from calotype.models import precision
from calotype.training.ahead import Ahead
from calotype.training.config import TrainConfig, to_json
from calotype.training.devices import new_accelerator
from calotype.training.ema import Ema
from calotype.training.folder import RunFolder, write_text
from calotype.training.loop import NotFiniteError, StepReport, autocast, new_optimizer, train
from calotype.training.objective import Objective, recipe_of
from calotype.training.order import BatchOrder
from calotype.training.page import markdown, took
from calotype.training.plan import Plan as Plan
from calotype.training.posthoc import LENGTHS, write_snapshots
from calotype.training.private import Private
from calotype.training.recompute import recompute
from calotype.training.resuming import refuse_another
from calotype.training.sharding import gathered, shard, whole
from calotype.training.state import TrainState, read_checkpoint, read_facts


@dataclass(frozen=True)
class Progress:
    """What a watcher is told after each step."""

    report: StepReport
    steps: int
    images_per_second: float
    seconds_left: float


C = TypeVar("C", bound=TrainConfig)


def training_device(plan: Plan) -> torch.device:
    """Where a run computes: CUDA if there is one and the plan allows it."""
    return torch.device("cpu" if plan.device == "cpu" or not torch.cuda.is_available() else "cuda")


def settled(config: C, plan: Plan) -> C:
    """The configuration with its precision decided: the person's own, else that of the run which goes on,
    else what the device is fast in.

    Raises TrainingError where a run that goes on computes in what this device would have to emulate.
    """
    if config.precision != "auto":
        return config
    fast = precision.for_training(training_device(plan))
    checkpoints = RunFolder.checkpoints_in(plan.folder) if plan.resume else []
    if not checkpoints:
        return replace(config, precision=fast)
    kept = json.loads(read_facts(checkpoints[-1])["config"]).get("precision")
    if kept == "bf16" and fast != "bf16":
        raise TrainingError(
            f"The run in {plan.folder} computes in bf16, for which this machine has no units; resume it on "
            "one that has, start a new run here with --init-from, or go on slowly with --set precision=bf16."
        )
    return replace(config, precision=kept)


class Run:
    """A prepared run; iterate `steps()` and then call `finish()`.

    Raises TrainingError when the folder's run does not match what is asked for, naming the fields.
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainConfig,
        plan: Plan,
        order: BatchOrder,
        facts: Mapping[str, Any],
        names: Sequence[str] = (),
        private: Private | None = None,
    ) -> None:
        """`facts` (data, model) stay what they are from a run to its continuation, as the config does.

        `names` are those of the pictures that `order` counts; `private` makes the gradients private.
        """
        if plan.threads is not None:
            torch.set_num_threads(plan.threads)
        self.accelerator = new_accelerator(plan.device)
        world = self.accelerator.num_processes
        if config.batch % (world * config.accumulate):
            raise TrainingError(
                f"batch is {config.batch}, which {world} processes cannot share evenly "
                f"in {config.accumulate} parts each; give a multiple of {world * config.accumulate}."
            )
        if private is not None and world > 1:
            raise TrainingError(f"A private run is one process; this is one of {world}.")
        if self.accelerator.device.type == "cpu":
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if plan.fsdp:  # whose parts lie in one piece, in the plain order
            objective.to(self.accelerator.device)
            shard(objective, self.accelerator.device, world)
        else:
            objective.to(  # type: ignore[call-overload]
                self.accelerator.device, memory_format=torch.channels_last
            )
        if config.recompute:
            for part in (objective, *objective.still()):
                recompute(part)
        self.objective, self.config, self.plan, self.order = objective, config, plan, order
        self._names = names
        self.main = self.accelerator.is_main_process
        self._takes_part = self.main or plan.fsdp
        """In measuring, drawing and writing, which of a model in parts all processes do together."""
        averages = tuple(Ema(objective, length) for length in LENGTHS) if config.snapshot_every else ()
        self.state = TrainState(
            objective,
            new_optimizer(config, objective),
            Ema(objective, config.ema_length),
            averages=averages,
        )
        self._private = private
        if private is not None:
            private.attach(objective, self.state.optimizer)
        part, mine = config.batch // world, self.accelerator.process_index
        self._share = slice(part * mine, part * (mine + 1)) if private is None else slice(None)
        self._facts = {
            **facts,
            "config": to_json(config),
            "threads": torch.get_num_threads(),
            "processes": world,
            **({"fsdp": True} if plan.fsdp else {}),
            "torch": torch.__version__,
        }
        self.folder = RunFolder(plan.folder, resume=plan.resume, main=self.main)
        self.started = time.monotonic()
        self._spent = 0.0
        self._stopping = False
        checkpoints = self.folder.checkpoints() if plan.resume else []
        if checkpoints:
            try:
                self._take_up(checkpoints[-1])
            except TrainingError:
                self.folder.close()
                raise
        elif self.main:
            write_text(
                plan.folder / "config.json",
                json.dumps(self._facts | {"config": json.loads(to_json(config))}, indent=1),
            )
            if private is not None:
                private.keep_key()

    def _take_up(self, checkpoint: Path) -> None:
        stored = read_facts(checkpoint)
        refuse_another(self.plan, self.config, self._facts, stored)
        read_checkpoint(checkpoint, self.state)
        self._spent = float(stored["seconds"])
        if self.main:
            self.folder.rewind(self.state.step)

    @property
    def seconds(self) -> float:
        """Wall time of this run so far, its earlier sittings included."""
        return self._spent + time.monotonic() - self.started

    def batches(self, step: int) -> dict[str, torch.Tensor]:
        """This process's part of batch `step`."""
        return self.objective.batch(self.order.indices(step), step, self._share)

    def steps(self) -> Any:
        """Train to the end or the time limit, yielding Progress; log, draw and save on the way."""
        board = self.new_board() if self.main else None
        config = self.config
        window, since = time.monotonic(), self.state.step
        speed = 0.0
        # a CPU has no time to spare beside the update
        batches = Ahead(self.batches, config.steps) if self.accelerator.device.type != "cpu" else None
        try:
            for report in train(config, self.state, batches or self.batches, self.accelerator, self._private):
                step, now = report.step, time.monotonic()
                speed = (step - since) * config.batch / (now - window)
                if step - since >= 20:
                    window, since = now, step
                if self.main and config.log_every and step % config.log_every == 0:
                    self._log(board, report, speed)
                if self._takes_part:
                    if self._due(config.evaluate_every, step):
                        self.evaluate(board, step)
                    if self._due(config.sample_every, step):
                        self.sample(board, step)
                    if self._due(config.snapshot_every, step):
                        write_snapshots(self.plan.folder, step, self.state.averages, self.main)
                    if self._due(config.checkpoint_every, step):
                        self.save()
                left = (config.steps - step) * config.batch / max(speed, 1e-9)
                yield Progress(report, config.steps, speed, left)
                if self._ends(now):
                    break
            if self._takes_part:
                self.save()
        except DataError:  # a picture of a shard that cannot be read: what was learnt so far is kept
            if self.main and not self.plan.fsdp:  # the other processes read others
                self.save()
            raise
        except NotFiniteError as error:
            if self._takes_part:
                raise self._kept(error) from error
            raise
        finally:
            if batches is not None:
                batches.close()
            if board is not None:
                board.close()
            self.folder.close()

    def _ends(self, now: float) -> bool:
        """Whether to stop after this step; processes agree, as none can go on alone."""
        ends = self._stopping or now - self.started > self.plan.minutes * 60
        if self.accelerator.num_processes > 1:
            wishes = torch.tensor(float(ends), device=self.accelerator.device)
            ends = float(self.accelerator.reduce(wishes)) > 0
        return ends

    def _kept(self, error: NotFiniteError) -> TrainingError:
        """Keep the state before the batch that failed, if that is sound, and say which pictures it held."""
        if all(bool(whole(value).isfinite().all()) for value in self.objective.parameters()):
            self.save()
        if not self._names or not self.main:
            return error
        listed = self.plan.folder / "not-finite.json"
        pictures = [self._names[i] for i in self.order.indices(error.step).tolist()]
        write_text(listed, json.dumps({"batch": error.step, "pictures": pictures}, indent=1) + "\n")
        return TrainingError(f"{error} The batch's pictures are listed in {listed}.")

    def _due(self, every: int, step: int) -> bool:
        return bool(every) and (step % every == 0 or step == self.config.steps)

    def new_board(self) -> Any:
        """TensorBoard's writer, in the run's folder."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.plan.folder / "tensorboard"), purge_step=self.state.step)

    def _log(self, board: Any, report: StepReport, speed: float) -> None:
        record = {
            **report.parts,
            "learning_rate": report.learning_rate,
            "gradient_norm": report.gradient_norm,
            "images_per_second": speed,
        }
        self.folder.log({"step": report.step, "seconds": round(self.seconds, 2), **record})
        for name, value in record.items():
            board.add_scalar(name, value, report.step)

    def evaluate(self, board: Any, step: int) -> None:
        """Measure the averaged weights on what is held out, and write that down."""
        with self._averaged(), autocast(self.config, self.accelerator.device):
            found = self.objective.evaluate()
        if not self.main:
            return
        if found:
            self.folder.log({"step": step, "seconds": round(self.seconds, 2), **found})
        for name, value in found.items():
            board.add_scalar(name, value, step)

    def sample(self, board: Any, step: int) -> None:
        """Draw a sheet with the averaged weights."""
        with self._averaged(), autocast(self.config, self.accelerator.device):
            pictures = self.objective.samples()
        if self.main and pictures is not None:
            self.folder.write_samples(step, pictures)
            board.add_images("samples", (pictures.clamp(-1, 1) + 1) / 2, step)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within the block the objective is put to use, whole, with the averaged weights."""
        self.objective.eval()
        with self.state.ema.applied(), gathered(self.objective):
            yield

    def save(self) -> None:
        """Write a checkpoint."""
        facts = self._facts | {"seconds": round(self.seconds, 2), "step": self.state.step}
        tensors = self.state.tensors()
        if self.main:
            self.folder.write_checkpoint(tensors, facts, self.config.keep_checkpoints)

    def stop(self) -> None:
        """Ask the run to end after the step it is in, with a checkpoint."""
        self._stopping = True

    def finish(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Write the averaged weights (the objective's `product`) and the end report; returns the report.

        Of several processes the main one writes.
        """
        seen = self.state.step * self.config.batch
        report = {
            "finished": self.state.step == self.config.steps,
            "step": self.state.step,
            "steps": self.config.steps,
            "precision": self.config.precision,
            "images_seen": seen,
            "epochs": round(seen / self.order.count, 3),
            "seconds": round(self.seconds, 1),
            "images_per_second": round(seen / self.seconds, 2),
            **{name: value for name, value in self._facts.items() if name != "config"},
            **({"privacy": self._private.spent(self.state.step)} if self._private else {}),
            **extra,
        }
        if self._takes_part:
            with self._averaged():
                if self.main:
                    product = self.plan.folder / self.objective.product
                    self.objective.export(product, recipe_of(self.config, report))
        if not self.main:
            return report
        report |= took(self.plan.folder, self.config, self.state.step)
        history = self.folder.history()
        write_text(self.plan.folder / "report.json", json.dumps(report, indent=1) + "\n")
        write_text(self.plan.folder / "report.md", markdown(report, history))
        return report
