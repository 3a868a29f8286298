"""The whole server as one ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from calotype import __version__
from calotype.errors import BlockedPromptError, CalotypeError, InputError, OutputError
from calotype.safety import content
from calotype.server import (
    a1111,
    a1111_controls,
    a1111_lists,
    a1111_pictures,
    catalogue,
    health,
    native,
    openai,
)
from calotype.server.desk import Desk
from calotype.server.fences import Fences
from calotype.server.models import Models
from calotype.server.refusal import Refusal, payload
from calotype.server.settings import Settings
from calotype.server.store import Store

PAGE = Path(__file__).parent / "page"


def create(settings: Settings) -> fastapi.FastAPI:
    """The application, its store opened and its worker not yet begun: that is the lifespan's.

    Raises OutputError, CheckpointError and InputError where it cannot serve.
    """
    safety = settings.safety
    if not settings.shipped and safety.checks(shipped=False):
        content.require()  # others will look at what is drawn here: never unchecked by accident
    models = Models.of(settings)
    store, replicas = Store(settings.data), None
    if settings.replicas is None:
        desk = Desk(settings, store, models)
    else:
        from calotype.server.replicas import Replicas  # Ray is heavy

        try:
            replicas = Replicas(settings, settings.replicas)
        except CalotypeError:
            store.close()
            raise
        desk = Desk(settings, store, models, replicas.easels, replicas)

    @asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        desk.live.bind(asyncio.get_running_loop())
        desk.worker.start()
        yield
        desk.stopping.set()
        await asyncio.to_thread(desk.worker.stop)
        if replicas is not None:
            await asyncio.to_thread(replicas.close)
        desk.store.close()

    app = fastapi.FastAPI(
        title="Calotype",
        version=__version__,
        description="Stable Diffusion over HTTP: jobs, OpenAI's images, AUTOMATIC1111's interface.",
        lifespan=lifespan,
        docs_url=None,  # its page would fetch scripts from afar
        redoc_url=None,
    )
    app.state.desk = desk
    for router in (
        native.router,
        catalogue.router,
        openai.router,
        a1111.router,
        a1111_lists.router,
        a1111_pictures.router,
        a1111_controls.router,
        health.router,
    ):
        app.include_router(router)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.add_exception_handler(CalotypeError, _calotype)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unforeseen)
    app.add_middleware(Fences, settings=settings)
    return app


def _answer(request: fastapi.Request, refusal: Refusal) -> JSONResponse:
    body = payload(request.url.path, refusal.status, refusal.kind, str(refusal))
    return JSONResponse(body, refusal.status, refusal.headers)


def _calotype(request: fastapi.Request, error: Exception) -> JSONResponse:
    if isinstance(error, Refusal):
        return _answer(request, error)
    if isinstance(error, BlockedPromptError):
        return _answer(request, Refusal(400, "content_policy_violation", str(error)))
    if isinstance(error, InputError):
        return _answer(request, Refusal(422, "invalid_request", str(error)))
    if isinstance(error, OutputError):
        return _answer(request, Refusal(507, "cannot_be_written", str(error)))
    return _answer(request, Refusal(500, "failed", str(error)))


def _http(request: fastapi.Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kinds = {404: "not_found", 405: "method_not_allowed"}
    sentences = {
        404: f"There is nothing at {request.url.path[:200]}; /openapi.json lists what there is.",
        405: f"{request.url.path[:200]} does not take {request.method}; /openapi.json lists what it takes.",
        400: "The body is no JSON; send a JSON object.",
    }
    status = error.status_code
    refusal = Refusal(status, kinds.get(status, "invalid_request"), sentences.get(status, str(error.detail)))
    refusal.headers = dict(error.headers or {})
    return _answer(request, refusal)


def _invalid(request: fastapi.Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["loc"] == ("body",):
        message = "The body is no JSON object; send one, with Content-Type: application/json."
        return _answer(request, Refusal(422, "invalid_request", message))
    where = ".".join(str(place) for place in first["loc"] if place != "body")
    message = f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}."
    return _answer(request, Refusal(422, "invalid_request", message))


def _unforeseen(request: fastapi.Request, error: Exception) -> JSONResponse:
    # Starlette logs the traceback; the client learns no more than that it was not their mistake
    return _answer(
        request,
        Refusal(500, "internal_error", f"The server made a mistake ({type(error).__name__}); see its log."),
    )
