"""Jobs: shared batches, cancelling, restarts, failures; every picture is the one its request makes alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.checkpoints import memory, native, shelf
from calotype.errors import CalotypeError, InputError, OutputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.server.desk import Desk
from calotype.server.models import Models
from calotype.server.native import view
from calotype.server.refusal import Refusal
from calotype.server.settings import Settings
from calotype.server.store import Job, Store
from calotype.tasks import picture
from calotype.tasks.generate import generate
from calotype.tasks.picture import Picture
from calotype.tasks.request import Request
from calotype.tasks.studio import Studio


def until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


def over(desk: Desk, job: Job) -> Job:
    until(lambda: desk.job(job.id).state in ("done", "failed", "cancelled"))
    return desk.job(job.id)


def check_pixels(desk: Desk, job: Job) -> None:
    """Every picture of the job is, to the bit, the one that its own request makes alone."""
    assert job.pictures == tuple(range(job.request.pictures))
    model = desk.models.get(job.request.model).model
    for place in job.pictures:
        image, record = picture.read(desk.store.path(job.id, place))
        asked = job.request.alone(place)
        assert record.request == asked
        (alone,) = [event for event in generate(model, asked) if isinstance(event, Picture)]
        assert alone.image.tobytes() == image.tobytes()


def test_the_store_waits_for_the_disk(tmp_path: Path) -> None:
    """A commit returns when the disk has it, whatever the build of SQLite does by itself."""
    store = Store(tmp_path)
    found = {
        name: store._database.execute(f"pragma {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    }
    store.close()
    assert found == {"journal_mode": "wal", "synchronous": 2}


def test_requests_share_a_batch_and_keep_their_pixels(desk: Desk) -> None:
    common = {"steps": 3, "sampler": "euler_a"}
    jobs = [
        desk.submit(Request(prompts="a red apple", seed=900, **common), "one"),
        desk.submit(Request(prompts=["a green car", "苹果"], seed=3, **common), "two"),
        desk.submit(Request(prompts="a red apple", seed=3, steps=4, sampler="euler_a"), "three"),
        desk.submit(Request(prompts="a green car", count=2, seed=2**64 - 2, **common), "four"),
    ]
    assert [desk.row.position(job.id) for job in jobs] == [0, 1, 2, 3]
    desk.worker.start()
    for job in jobs:
        done = over(desk, job)
        assert (done.state, done.error) == ("done", None)
        check_pixels(desk, done)
    assert desk.row.counts.batches == 2  # the one of four steps alone
    assert desk.row.counts.pictures == 6
    assert desk.row.position(jobs[0].id) is None


def test_texts_of_other_lengths_are_drawn_apart(desk: Desk) -> None:
    long = "a red apple, " * 12
    jobs = [
        desk.submit(Request(prompts=prompt, seed=1, steps=2, prompt_syntax="a1111"), "one")
        for prompt in ("a red apple", long, "a (green:1.2) car")
    ]
    desk.worker.start()
    for job in jobs:
        check_pixels(desk, over(desk, job))
    assert desk.row.counts.batches == 2


def test_a_long_job_lets_a_short_one_by(desk: Desk) -> None:
    long = desk.submit(Request(prompts="a red apple", count=64, steps=1, width=128, height=128), "one")
    short = desk.submit(Request(prompts="a red apple", steps=1), "two")
    desk.worker.start()
    assert over(desk, short).state == "done"
    assert desk.job(long.id).state == "running"
    desk.cancel(long.id)


class Gate:
    """A sampler's steps, let through one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.reached = threading.Event()
        self.go = threading.Event()
        events = Studio.events

        def held(studio: Studio, request: Request) -> Iterator[Any]:
            for event in events(studio, request):
                if type(event).__name__ == "Progress":
                    self.steps += 1
                    self.reached.set()
                    assert self.go.wait(60)
                yield event

        monkeypatch.setattr(Studio, "events", held)


def test_cancelling_answers_at_once_and_ends_with_the_step(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    job = desk.submit(Request(prompts="a red apple", steps=100), "one")
    waiting = desk.submit(Request(prompts="a red apple", steps=99), "one")
    desk.worker.start()
    assert gate.reached.wait(60)
    assert desk.cancel(waiting.id).state == "cancelled"
    assert desk.cancel(job.id).state == "cancelled"
    gate.go.set()
    until(lambda: desk.row.counts.batches == 1)
    assert gate.steps == 1
    assert desk.job(job.id).pictures == ()
    assert desk.cancel(job.id).state == "cancelled"
    again = desk.submit(Request(prompts="a red apple", steps=1), "one")
    assert over(desk, again).state == "done"


def test_one_leaves_the_batch_and_the_others_stay(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    first, second = (desk.submit(Request(prompts="a red apple", steps=2, seed=i), "one") for i in (1, 2))
    desk.worker.start()
    assert gate.reached.wait(60)
    desk.cancel(first.id)
    gate.go.set()
    check_pixels(desk, over(desk, second))
    assert desk.job(first.id).state == "cancelled"
    assert not desk.store.path(first.id, 0).exists()


def restarted(desk: Desk) -> Desk:
    desk.store.close()
    return Desk(desk.settings, Store(desk.settings.data), desk.models)


def test_jobs_survive_a_restart(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two batches of one job, another still waiting: both are finished by the next server."""
    finished = threading.Event()
    keep = Store.keep

    def kept(store: Store, *what: Any) -> None:
        keep(store, *what)
        finished.set()

    monkeypatch.setattr(Store, "keep", kept)
    monkeypatch.setattr("calotype.server.easel.batch_size", lambda *_: 2)
    gate = Gate(monkeypatch)
    job = desk.submit(Request(prompts="a red apple", count=3, steps=2), "one")
    other = desk.submit(Request(prompts="a green car", steps=3), "one")
    gate.go.set()
    desk.worker.start()
    assert finished.wait(60)
    desk.worker.stop()
    before = {path.name: path.stat().st_mtime_ns for path in (desk.settings.data / "pictures").iterdir()}
    assert desk.job(job.id).state == "running"
    again = restarted(desk)
    assert again.job(job.id).state == "queued"
    again.worker.start()
    try:
        for name in (job, other):
            done = over(again, name)
            assert done.state == "done"
            check_pixels(again, done)
        for path, when in before.items():  # what was finished is not drawn twice
            assert (desk.settings.data / "pictures" / path).stat().st_mtime_ns == when
    finally:
        again.worker.stop()
        again.store.close()


def test_a_job_that_died_before_its_last_word_is_done(desk: Desk) -> None:
    job = desk.submit(Request(prompts="a red apple", steps=1), "one")
    desk.store._write("insert into pictures (job, place) values (?, 0)", (job.id,))
    again = restarted(desk)
    assert again.job(job.id).state == "done"
    again.store.close()


def test_one_server_per_folder(desk: Desk) -> None:
    with pytest.raises(OutputError, match="another server's"):
        Store(desk.settings.data)


def test_a_position_is_null_only_where_the_state_is_over(desk: Desk) -> None:
    """Also for a job that ended between the two looks: who waits for null would miss its last picture."""
    job = desk.submit(Request(prompts="a red apple", steps=1), "someone")
    desk.cancel(job.id)
    assert view(desk, job).position == 0
    assert view(desk, desk.job(job.id)).position is None


def test_a_job_that_cannot_be_read_is_passed_by(desk: Desk) -> None:
    """As after an upgrade: the others are listed, and go on."""
    job = desk.submit(Request(prompts="a red apple", steps=1), "someone")
    strange = desk.submit(Request(prompts="a red apple", steps=1), "someone")
    folder = desk.store.folder
    desk.store._write("update jobs set request = ? where id = ?", ('{"prompts": ["x"], "of": 2}', strange.id))
    upload = folder / "uploads" / f"{strange.id}-image.png"
    upload.touch()
    desk.store.close()
    store = Store(folder)
    assert [found.id for found in store.waiting()] == [found.id for found in store.page(9)] == [job.id]
    assert store.get(strange.id) is None
    assert upload.exists()
    store.close()


def test_no_folder_and_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be used"):
        Store(tmp_path / "file")
    (tmp_path / "jobs.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(OutputError, match="no job store"):
        Store(tmp_path)


def test_a_full_disk_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutputError("out.png cannot be written: no space left on device.")

    monkeypatch.setattr(Picture, "save", full)
    jobs = [desk.submit(Request(prompts="a red apple", steps=1), "one") for _ in range(2)]
    desk.worker.start()
    for job in jobs:
        done = over(desk, job)
        assert (done.state, done.whose) == ("failed", "server")
        assert "no space left" in str(done.error)
    monkeypatch.undo()
    assert over(desk, desk.submit(Request(prompts="a red apple", steps=1), "one")).state == "done"


def test_a_store_that_cannot_be_written_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job = desk.submit(Request(prompts="a red apple", steps=1), "one")

    def full(*_: object) -> None:
        raise OutputError("The job store cannot be written: disk full.")

    monkeypatch.setattr(Store, "_write", full)
    desk.worker.start()
    done = over(desk, job)
    assert done.state == "failed"
    assert "disk full" in str(done.error)


def test_only_the_bad_picture_of_a_batch_fails(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Studio.events

    def moody(studio: Studio, request: Request) -> Iterator[Any]:
        if "green" in " ".join(request.prompts):
            raise MemoryError
        yield from events(studio, request)

    monkeypatch.setattr(Studio, "events", moody)
    good, bad = (desk.submit(Request(prompts=text, steps=1), "one") for text in ("red", "green"))
    desk.worker.start()
    assert over(desk, good).state == "done"
    assert "MemoryError" in str(over(desk, bad).error)


def test_what_only_the_sampler_can_know_is_the_requests_fault(desk: Desk) -> None:
    wrong = desk.submit(Request(prompts="a red apple", sampler="lms", sampler_options={"order": 0.5}), "one")
    desk.worker.start()
    assert over(desk, wrong).whose == "request"


def test_deleting_takes_everything(desk: Desk) -> None:
    job = desk.submit(Request(prompts="a red apple", steps=1), "one")
    desk.worker.start()
    over(desk, job)
    path = desk.store.path(job.id, 0)
    assert path.exists()
    desk.delete(job.id)
    assert not path.exists()
    with pytest.raises(Refusal, match="no job"):
        desk.job(job.id)


def test_models_leave_when_memory_is_short(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.safetensors" for name in "abc"}
    for path in files.values():
        native.save(path, tiny_model)
    models = Models(files, None, "cpu", None)
    one = models.known["a"].memory
    assert one == 4 * sum(p.numel() for part in tiny_model.parts().values() for p in part.parameters())
    models.budget = 2 * one
    models.get("a")
    models.get("b")
    models.get("a")
    models.get("c")
    assert models.loaded() == ["a", "c"]
    models.unload("a")
    assert models.loaded() == ["c"]
    models.budget = one - 1
    with pytest.raises(Refusal, match="larger --memory"):
        models.get("b")
    with pytest.raises(Refusal, match="no model 'icon5'"):
        models.named("icon5")
    with pytest.raises(InputError, match="no model to serve"):
        Models({}, None, "cpu", None)


def test_offloaded_models_take_the_room_of_one_network(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    native.save(tmp_path / "a.safetensors", tiny_model)
    files = {"a": tmp_path / "a.safetensors"}
    whole, one = Models(files, None, "cpu", None), Models(files, None, "cpu", None, offload=True)
    parts = tiny_model.parts().values()
    assert one.known["a"].memory == 4 * max(sum(p.numel() for p in part.parameters()) for part in parts)
    assert one.known["a"].memory < whole.known["a"].memory
    assert one.get("a").model.offload is not None
    assert whole.get("a").model.offload is None
    pictures = [models.get("a").generate("a red apple", seed=1, steps=1) for models in (whole, one)]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_a_model_larger_than_the_budget_draws_from_16_bits(
    tiny_model: LatentDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native.save(tmp_path / "a.safetensors", tiny_model)
    files = {"a": tmp_path / "a.safetensors"}
    monkeypatch.setattr(memory, "LEAST_STAYING", 0)
    whole = Models(files, None, "cpu", None)
    room = whole.known["a"].memory
    short = Models(files, None, "cpu", room - 1)
    assert 0.5 * room < short.known["a"].memory < 0.6 * room
    pictures = [models.get("a").generate("a red apple", seed=1, steps=1) for models in (whole, short)]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    convolution = short.get("a").model.denoiser.network.middle.block1.conv1  # type: ignore[union-attr]
    assert convolution.weight.dtype == torch.float16
    with pytest.raises(Refusal, match="larger --memory"):
        Models(files, None, "cpu", room // 2).get("a")


def test_models_draw_in_the_precision_that_the_owner_chose(
    tiny_model: LatentDiffusion, tmp_path: Path
) -> None:
    native.save(tmp_path / "a.safetensors", tiny_model)
    files = {"a": tmp_path / "a.safetensors"}
    plain, short = Models(files, None, "cpu", None), Models(files, None, "cpu", None, precision="bf16")
    assert short.known["a"].memory * 2 == plain.known["a"].memory
    assert short.get("a").model.dtype == torch.bfloat16
    made = [models.get("a").pictures("a red apple", seed=1, steps=1)[0] for models in (plain, short)]
    assert [picture.record.precision for picture in made] == ["float32", "bf16"]
    assert Models.of(Settings(tmp_path, device="cpu", precision="bf16")).dtype == torch.bfloat16
    with pytest.raises(InputError, match="precision is 'int8'"):
        Models(files, None, "cpu", None, precision="int8")


def test_limits_are_decided_before_work(desk: Desk) -> None:
    for fields, message in (
        ({"steps": 151}, "for 151 steps"),
        ({"count": 65}, "for 65 pictures"),
        ({"width": 2048, "height": 2048}, "pixels a picture"),
        ({"model": "/etc/passwd"}, "no model"),
        ({"width": 33}, "multiple of 4"),
    ):
        with pytest.raises(CalotypeError, match=message):
            desk.submit(Request(prompts="a red apple", **fields), "one")
    for _ in range(4):
        desk.submit(Request(prompts="a red apple", count=64), "one")
    with pytest.raises(Refusal, match="You have 256 pictures waiting") as refused:
        desk.submit(Request(prompts="a red apple"), "one")
    assert refused.value.status == 429
    assert desk.submit(Request(prompts="a red apple"), "two").state == "queued"


def test_a_shipped_model_serves(desk: Desk) -> None:
    if "icons" not in shelf.shipped():
        pytest.skip("this package has no icons model")
    job = desk.submit(Request(prompts="a red apple", model="icons", steps=1, seed=7), "one")
    desk.worker.start()
    assert over(desk, job).state == "done"
    image, record = picture.read(desk.store.path(job.id, 0))
    assert image.size == (record.request.width, record.request.height)
