"""Whether the server lives, whether it is ready, and its numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

import fastapi
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from calotype.server.desk import Desk
from calotype.server.native import AnyDesk
from calotype.server.refusal import Refusal

router = fastapi.APIRouter()


@router.get("/healthz", response_class=PlainTextResponse)
def healthz() -> str:
    """The process answers."""
    return "ok\n"


@router.get("/readyz", response_class=PlainTextResponse)
def readyz(desk: AnyDesk) -> str:
    """It accepts work: the store can be written and the worker runs.  Else Refusal (503)."""
    if desk.stopping.is_set() or not desk.worker.is_alive():
        raise Refusal(503, "not_ready", "The server is starting or stopping; ask again in a minute.")
    desk.store.counts()
    return "ready\n"


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(desk: AnyDesk) -> PlainTextResponse:
    registry = CollectorRegistry()
    registry.register(_Numbers(desk))
    return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4")


class _Numbers(Collector):
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        desk, counts = self._desk, self._desk.row.counts
        jobs = GaugeMetricFamily("calotype_jobs", "Jobs in the store.", labels=["state"])
        for state, count in desk.store.counts().items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily(
            "calotype_pictures_waiting", "Pictures queued or being drawn.", desk.row.queued()
        )
        yield GaugeMetricFamily("calotype_models_loaded", "Models in memory.", len(desk.memory.loaded()))
        for name, about, value in (
            ("batches", "Batches drawn since the start.", counts.batches),
            ("pictures", "Pictures finished since the start.", counts.pictures),
            ("steps", "Sampler steps of pictures since the start.", counts.steps),
            ("drawing_seconds", "Seconds spent drawing since the start.", counts.seconds),
        ):
            yield CounterMetricFamily(f"calotype_{name}", about, value)
