"""What the person who starts the server decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from calotype.safety.policy import Safety


@dataclass(frozen=True)
class Limits:
    """What one client may ask for; all of it is decided before any work.

    body                  bytes of a JSON body
    upload                bytes of a body that carries a picture
    bodies                bytes of all bodies that are held at once
    upload_pixels         of a picture sent in
    pictures              of one job
    pixels                of one picture asked for
    steps                 of one picture
    queued_by_client      pictures that one client may have waiting
    queued                pictures that may wait in all
    submissions_a_minute  requests that start work, per client
    read_seconds          within which a request must have arrived whole
    connections           at once
    streams_by_client     of events, at once
    """

    body: int = 2**20
    upload: int = 2**25
    bodies: int = 2**28
    upload_pixels: int = 2**24
    pictures: int = 64
    pixels: int = 2**21
    steps: int = 150
    queued_by_client: int = 256
    queued: int = 2048
    submissions_a_minute: float = 240
    read_seconds: float = 30
    connections: int = 512
    streams_by_client: int = 64


@dataclass(frozen=True)
class Settings:
    """
    data      folder of the job store and the finished pictures
    models    files and folders to serve besides the shipped models, by the names clients use
    default   the model of requests that name none
    token     what clients must show; None on loopback only
    hosts     names clients may reach the server by, besides its addresses and localhost
    memory    bytes that loaded models may take; None for half of this machine's
    device    torch's name for it; None for the best one here
    threads   of the CPU; None for torch's choice, of each replica for an even share of the cores
    replicas  processes that draw beside this one; None for none: it draws itself
    verbose   whether prompts appear in the log
    safety    the content check, the block list, what pictures tell of themselves
    offload   whether a model's networks come to the device one at a time
    precision of the networks that draw: float32, bf16, fp16; None for what suits the device
    folder    where LoRAs, textual inversions and ControlNets lie that clients may name; None for none
    """

    data: Path
    models: dict[str, Path] = field(default_factory=dict)
    default: str | None = None
    token: str | None = None
    hosts: tuple[str, ...] = ()
    memory: int | None = None
    device: str | None = None
    threads: int | None = None
    replicas: int | None = None
    verbose: bool = False
    limits: Limits = field(default_factory=Limits)
    safety: Safety = field(default_factory=Safety)
    folder: Path | None = None
    offload: bool = False
    precision: str | None = None

    @property
    def shipped(self) -> bool:
        """Whether nothing but what comes with Calotype draws here."""
        return not self.models and self.folder is None
