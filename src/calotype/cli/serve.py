"""`calotype serve`: a page and an HTTP API over the same requests."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated

import typer

from calotype.cli import safety as guards
from calotype.cli.drawing import in_precision
from calotype.errors import InputError

TOKEN = "CALOTYPE_TOKEN"


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A file or folder to serve besides the shipped models, or NAME=PATH; again for more."
        ),
    ] = None,
    default: Annotated[str | None, typer.Option(help="The model of requests that name none.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.")] = 7860,
    data: Annotated[
        Path | None, typer.Option(help="Folder of jobs and pictures. Default: calotype in the user's data.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token that clients must show; or set {TOKEN}.")
    ] = None,
    host_name: Annotated[
        list[str] | None,
        typer.Option(help="A name clients may reach it by, besides its address; again for more."),
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="GB that models may take. Default: half of all.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda …. Default: the best one here.")] = None,
    offload: Annotated[
        bool, typer.Option("--offload", help="A model's networks on the device one at a time: less memory.")
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(help="Of networks that draw: float32, bf16, fp16. Default: bf16 on a GPU that has it."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's choice.")] = None,
    replicas: Annotated[
        int | None,
        typer.Option(help="Processes that draw, by Ray, here or on the cluster RAY_ADDRESS. Default: none."),
    ] = None,
    max_pictures: Annotated[int | None, typer.Option(help="Of one job.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Of one picture.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Of one picture.")] = None,
    max_queued: Annotated[int | None, typer.Option(help="Pictures that may wait in all.")] = None,
    max_queued_by_client: Annotated[
        int | None, typer.Option(help="Pictures of one client that may wait.")
    ] = None,
    max_rate: Annotated[float | None, typer.Option(help="Requests a minute and client.")] = None,
    content_check: guards.ContentCheck = None,
    content_threshold: guards.Threshold = None,
    block_list: guards.Words = None,
    metadata: guards.Metadata = "full",
    watermark: guards.Mark = False,
    sign: guards.Sign = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Write prompts into the log.")] = False,
) -> None:
    """Serve the page and the HTTP API, on this machine alone unless told otherwise."""
    from dataclasses import replace

    token = _token(token_file)
    if token is None and not _is_loopback(host):
        raise InputError(
            f"host is {host}, which other machines can reach; give a token with --token-file or {TOKEN}."
        )
    for name, value in (("threads", threads), ("memory", memory), ("replicas", replicas)):
        if value is not None and value <= 0:
            raise InputError(f"{name} is {value}; give a number above 0.")
    if not 0 <= port <= 65535:
        raise InputError(f"port is {port}; give a number from 0 to 65535.")
    from calotype.checkpoints.collection import models_folder

    try:
        from calotype.server.run import serve
        from calotype.server.settings import Limits, Settings
        from calotype.tasks.studio import pick_device
    except ModuleNotFoundError as error:
        raise InputError(
            f"`calotype serve` needs {error.name}; install it with pip install 'calotype[server]'."
        ) from None
    given = {
        "pictures": max_pictures,
        "pixels": max_pixels,
        "steps": max_steps,
        "queued": max_queued,
        "queued_by_client": max_queued_by_client,
        "submissions_a_minute": max_rate,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if value < 1:
            raise InputError(f"The limit of {name} is {value}; give a number of at least 1.")
    in_precision(precision, pick_device(device))
    settings = Settings(
        data=(data or _data_folder()).expanduser(),
        models=_models(model or []),
        folder=models_folder(),
        default=default,
        token=token,
        hosts=tuple(host_name or ()),
        memory=None if memory is None else int(memory * 1e9),
        device=device,
        offload=offload,
        precision=precision,
        threads=threads,
        replicas=replicas,
        verbose=verbose,
        limits=replace(Limits(), **chosen),  # type: ignore[arg-type]
        safety=guards.safety(content_check, content_threshold, block_list, metadata, watermark, sign),
    )
    serve(settings, host, port)


def _token(file: Path | None) -> str | None:
    """From the file or the environment; a command line can be read by everyone on the machine."""
    where = TOKEN if file is None else file
    try:
        told = os.environ.get(TOKEN, "") if file is None else file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"The token file {file} cannot be read; write the token into it.") from None
    token = told.strip()
    if file is None and not token:
        return None
    if len(token) < 16:
        raise InputError(f"The token in {where} has {len(token)} characters; make one of at least 16.")
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _models(given: list[str]) -> dict[str, Path]:
    """Names for paths: the one given, or the file's."""
    from calotype.checkpoints import shelf

    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        place = shelf.find(path if equals and "/" not in name else text)
        name = name if equals and "/" not in name else place.stem
        if not name or name in found:
            raise InputError(f"Two models are called {name!r}; give them names as NAME=PATH.")
        found[name] = place
    return found


def _data_folder() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "calotype"
