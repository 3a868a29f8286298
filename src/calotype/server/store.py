"""Jobs and their pictures on disk: what was accepted survives the process.

A picture is written under a temporary name, flushed, renamed, and only then entered; a process that dies
between the two draws it again, to the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import PIL.Image

from calotype.errors import InputError, OutputError
from calotype.safety.content import Verdict
from calotype.tasks.guiding import MOST_CONTROLS
from calotype.tasks.picture import Picture, write_png
from calotype.tasks.request import Request, ResolvedRequest
from calotype.tasks.restoration import Restoration, RestoredPicture
from calotype.tasks.source import Source

log = logging.getLogger("calotype.server")

State = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[str, ...] = get_args(State)
Whose = Literal["request", "server"]
OVER: tuple[State, ...] = ("done", "failed", "cancelled")

PICTURES = ("image", "mask", "kernel")
"""Fields of requests that are pictures of the client's."""

CONTROLS = tuple(f"control-{place}" for place in range(MOST_CONTROLS))
"""What the pictures of a request's ControlNets are called beside them, in their order."""

Asked = ResolvedRequest | Restoration

_SCHEMA = """
create table jobs (
    number integer primary key autoincrement, id text unique not null, client text not null,
    created real not null, started real, finished real, state text not null, request text not null,
    error text, whose text, notices text not null default '[]'
);
create index jobs_by_state on jobs (state);
create table pictures (
    job text not null references jobs (id) on delete cascade, place integer not null,
    content text, primary key (job, place)
) without rowid;
pragma user_version = 2;
"""

_FROM_1 = "alter table pictures add column content text; pragma user_version = 2;"


@dataclass(frozen=True)
class Job:
    """One request and how far it is.

    number    counts all jobs of this store, for pages of a list
    client    who asked
    created   seconds since 1970, as are `started` and `finished`
    request   resolved: the seed is chosen, so that a restart draws the same pictures
    error     in one sentence, and whose it is
    pictures  places in the request of those that are finished
    content   what the content check said of each of them; None where it was off
    """

    number: int
    id: str
    client: str
    created: float
    started: float | None
    finished: float | None
    state: State
    request: Asked
    error: str | None
    whose: Whose | None
    notices: tuple[str, ...]
    pictures: tuple[int, ...]
    content: tuple[Verdict | None, ...] = ()


_PLAIN = ("number", "id", "client", "created", "started", "finished", "state")


class Store:
    """SQLite, one connection for all threads.  Raises OutputError where the folder cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        try:
            for part in ("pictures", "uploads"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)  # prompts and pictures are the owner's
            self._held = (folder / "lock").open("w")
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            raise OutputError(
                f"The folder {folder} is another server's; stop that one or give another with --data."
            ) from None
        except OSError as error:
            raise OutputError(f"The folder {folder} cannot be used: {error.strerror}.") from None
        try:
            self._database = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False)
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = full")  # some builds' default loses the last commits
            self._database.execute("pragma foreign_keys = on")
            version = self._database.execute("pragma user_version").fetchone()[0]
            if version < 2:
                self._database.executescript(_SCHEMA if version == 0 else _FROM_1)
        except sqlite3.Error as error:
            self.close()
            raise OutputError(
                f"{folder / 'jobs.sqlite'} is no job store ({error}); move it away or give another --data."
            ) from None
        for partial in (folder / "pictures").glob(".*.tmp"):
            partial.unlink(missing_ok=True)
        rows = self._database.execute("select id from jobs where state in ('queued', 'running')")
        needed = {name for (name,) in rows}
        for upload in (folder / "uploads").iterdir():
            if upload.name.partition("-")[0] not in needed:
                upload.unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            self._database.close()
            self._held.close()

    def add(self, client: str, request: Asked) -> Job:
        """A new job, queued, and the pictures it begins from; its name cannot be guessed.

        OutputError where it cannot be written, and nothing of it stays.
        """
        name = secrets.token_hex(16)
        try:
            for field, source in sources(request).items():
                write_png(self._upload(name, field), source.read())
            self._write(
                "insert into jobs (id, client, created, state, request) values (?, ?, ?, 'queued', ?)",
                (name, client, time.time(), request.model_dump_json()),
            )
        except OutputError as error:
            self.discard(name)
            raise self._unplaced(error) from None
        job = self.get(name)
        assert job is not None
        return job

    def get(self, name: str) -> Job | None:
        found = self._jobs("where id = ?", (name,))
        return found[0] if found else None

    def page(self, limit: int, before: int | None = None, state: str | None = None) -> list[Job]:
        """The newest first; `before` is the number of the last job of the page before."""
        return self._jobs(
            "where number < ? and (? is null or state = ?) order by number desc limit ?",
            (2**62 if before is None else before, state, state, limit),
        )

    def waiting(self) -> list[Job]:
        """Jobs that are not over, the oldest first."""
        return self._jobs("where state in ('queued', 'running') order by number", ())

    def counts(self) -> dict[str, int]:
        with self._lock:
            rows = self._database.execute("select state, count(*) from jobs group by state").fetchall()
        return dict.fromkeys(STATES, 0) | dict(rows)

    def mark(
        self,
        name: str,
        state: State,
        error: str | None = None,
        whose: Whose | None = None,
    ) -> None:
        """A state is entered; one that is over stays."""
        column = "started" if state == "running" else "finished"
        now = None if state == "queued" else time.time()
        self._write(
            f"update jobs set state = ?, error = ?, whose = ?, {column} = coalesce({column}, ?)"
            " where id = ? and state in ('queued', 'running')",
            (state, error, whose, now, name),
        )

    def note(self, name: str, text: str) -> None:
        """A notice for the person, once."""
        with self._lock:
            job = self.get(name)
            if job is not None and text not in job.notices:
                self._write(
                    "update jobs set notices = ? where id = ?", (json.dumps([*job.notices, text]), name)
                )

    def uploads(self, job: Job) -> dict[str, PIL.Image.Image]:
        """The pictures a job begins from, by field; OutputError where one is lost."""
        found = {}
        for field in sources(job.request):
            try:
                with PIL.Image.open(self._upload(job.id, field)) as opened:
                    found[field] = opened.convert("RGB")
            except OSError as error:
                raise OutputError(f"The {field} of job {job.id} is lost ({error}); send it again.") from None
        return found

    def discard(self, name: str) -> None:
        """Forget what was uploaded for a job."""
        for field in (*PICTURES, *CONTROLS):
            self._upload(name, field).unlink(missing_ok=True)

    def _upload(self, name: str, field: str) -> Path:
        return self.folder / "uploads" / f"{name}-{field}.png"

    def keep(self, name: str, place: int, picture: Picture | RestoredPicture) -> None:
        """Write a finished picture; OutputError where that fails."""
        try:
            picture.save(self.path(name, place))
        except OutputError as error:
            raise self._unplaced(error) from None
        content = picture.record.content if isinstance(picture, Picture) else picture.content
        told = None if content is None else json.dumps(asdict(content))
        self._write(
            "insert or ignore into pictures (job, place, content) values (?, ?, ?)", (name, place, told)
        )

    def path(self, name: str, place: int) -> Path:
        """Where a picture is, or will be; both parts are the server's own."""
        return self.folder / "pictures" / f"{name}-{place}.png"

    def delete(self, job: Job) -> None:
        """Forget a job and its pictures."""
        self._write("delete from jobs where id = ?", (job.id,))
        for place in range(job.request.pictures):
            self.path(job.id, place).unlink(missing_ok=True)

    def _write(self, statement: str, values: Iterable[Any]) -> None:
        try:
            with self._lock, self._database:
                self._database.execute(statement, tuple(values))
        except sqlite3.Error as error:
            raise OutputError(f"The job store, jobs.sqlite, cannot be written: {error}.") from None

    def _unplaced(self, error: OutputError) -> OutputError:
        """What may be told to clients: without the folder."""
        return OutputError(str(error).replace(f"{self.folder}/", ""))

    def _jobs(self, where: str, values: tuple[Any, ...]) -> list[Job]:
        columns = ", ".join((*_PLAIN, "request", "error", "whose", "notices"))
        with self._lock:
            rows = self._database.execute(f"select {columns} from jobs {where}", values).fetchall()
            return [job for job in map(self._job, rows) if job is not None]

    def _job(self, row: tuple[Any, ...]) -> Job | None:
        """None for one that cannot be read, as another version may have written it: the others go on."""
        found = self._database.execute(
            "select place, content from pictures where job = ? order by place", (row[1],)
        ).fetchall()
        *plain, request, error, whose, notices = row
        try:
            fields = json.loads(request)
            asked: Asked = Restoration(**fields) if "task" in fields else ResolvedRequest(**fields)
        except (InputError, ValueError):
            log.warning("The job %s in %s cannot be read, and is passed by.", row[1], self.folder)
            return None
        return Job(
            **dict(zip(_PLAIN, plain, strict=True)),
            request=asked,
            error=error,
            whose=whose,
            notices=tuple(json.loads(notices)),
            pictures=tuple(place for place, _ in found),
            content=tuple(None if told is None else Verdict(**json.loads(told)) for _, told in found),
        )


def sources(request: Request | Restoration) -> Mapping[str, Source]:
    """The pictures a request begins from or is guided by, by field."""
    found = {name: getattr(request, name, None) for name in PICTURES}
    if isinstance(request, Request):
        found |= zip(CONTROLS, (control.picture for control in request.controls), strict=False)
    return {name: source for name, source in found.items() if source is not None}
