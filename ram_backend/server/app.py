"""FastAPI app factory: routes, lifespan, exception handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Receive

from ram_backend import __version__
from ram_backend.errors import InputError, NotAvailable, RamError
from ram_backend.jobs.service import JobService
from ram_backend.labelstudio.request_models import PredictRequest, SetupRequest, WebhookRequest, read_request
from ram_backend.projects.keys import parse_project
from ram_backend.server import handlers
from ram_backend.server.middleware import SMALL_BODY_BYTES, Access, BodyReader, Refused, RequestMiddleware, on_error
from ram_backend.server.model import ModelLoader, await_shared
from ram_backend.server.prometheus import ServerMetrics
from ram_backend.server.services import Services
from ram_backend.settings import Settings

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BODY = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}, "required": True}}

routes = APIRouter()


def create_app(settings: Settings, *, jobs: JobService | None = None, model: ModelLoader | None = None) -> FastAPI:
    """The app that Label Studio talks to. Nothing is loaded or opened before it starts (lifespan).

    Args:
        settings: of the server.
        jobs: where training is asked for; None: in the settings' database.
        model: None: the settings' one, opened and loaded in the background.

    Raises:
        SettingsError: the settings don't fit together.
    """
    metrics = ServerMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = Services(settings, metrics, jobs=jobs, model=model)
        app.state.services = services
        services.start()
        try:
            yield
        finally:
            await asyncio.to_thread(services.close)

    app = FastAPIOffline(
        title="ram-backend",
        version=__version__,
        description="Image tags with a confidence each, for Label Studio.",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,  # the address of a redirect would have the request's Host
    )
    app.include_router(routes)
    app.state.bodies = BodyReader(settings.max_body_bytes, settings.request_seconds)
    app.add_middleware(RequestMiddleware, access=Access(settings), metrics=metrics)
    for kind in (RamError, Refused, HTTPException):
        app.add_exception_handler(kind, on_error)
    return app


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Opened = Annotated[Services, Depends(_services)]


def _body(model: type[M]) -> Any:
    """Dependency: a request's body; parsing a large one would hold up all requests of this process."""

    async def received(request: Request, services: Opened) -> AsyncIterator[M]:
        async with request.app.state.bodies.read(request) as body:
            if len(body) <= SMALL_BODY_BYTES:
                yield read_request(model, body)
            else:
                with services.body_process.in_use(), NamedTemporaryFile() as file:  # pickling holds the lock
                    path = Path(file.name)
                    await asyncio.to_thread(path.write_bytes, body)
                    body.clear()
                    yield await asyncio.to_thread(services.body_process.run, read_request, model, path)

    return Depends(received)


@routes.head("/health", include_in_schema=False)
@routes.get("/health")
async def health(services: Opened) -> JSONResponse:
    """Reports liveness and state."""
    return JSONResponse(
        {
            "status": "UP",
            "version": __version__,
            "bundle": services.settings.bundle,
            "model": services.model.state,
            "database": services.project_cache.problem is None,
        }
    )


@routes.get("/ready")
async def ready(services: Opened) -> JSONResponse:
    """200 when the model is loaded, else 503 and why; and which projects aren't served their version."""
    state = services.model.state
    content = {"status": state, "error": services.model.problem, "quarantined": services.swap.failures}
    return JSONResponse(content, status_code=200 if state == "ready" else 503)


@routes.post("/setup", openapi_extra=_BODY)
async def setup(services: Opened, body: Annotated[SetupRequest, _body(SetupRequest)]) -> JSONResponse:
    """Label Studio connects a project, or checks that it is reachable: answers its model version."""
    return JSONResponse({"model_version": await handlers.setup(services, body)})


@routes.post("/predict", openapi_extra=_BODY)
async def predict(
    request: Request, services: Opened, body: Annotated[PredictRequest, _body(PredictRequest)]
) -> Response:
    """Predictions for tasks: one each, in order."""
    answer = await _unless_gone(asyncio.create_task(handlers.predict(services, body)), request.receive)
    return Response(status_code=499) if answer is None else JSONResponse(answer)


@routes.post("/webhook", openapi_extra=_BODY)
async def webhook(services: Opened, body: Annotated[WebhookRequest, _body(WebhookRequest)]) -> JSONResponse:
    """Receives an event; START_TRAINING comes here too."""
    return JSONResponse(await handlers.webhook(services, body))


@routes.get("/versions")
async def versions(services: Opened, project: str | None = None) -> JSONResponse:
    """Model versions that are served now, of one project ("1.1795452148", or its number) or of all."""
    found: set[str] = set()
    for known in services.project_cache.projects():
        key = known.key
        if known.label_config and project in (None, str(key.id), f"{key.id}.{key.created}"):
            with suppress(InputError, NotAvailable):  # its own request says so
                await services.identity()
                ref = services.swap.ref(key)
                config = await await_shared(services.snapshots.resolve(known, known.label_config, ref))
                found.add(config.model_version)
    return JSONResponse({"versions": sorted(found)})


@routes.get("/jobs")
def jobs(services: Opened, project: str | None = None) -> JSONResponse:  # in a thread: it waits for the database
    """Training and what follows it: what is asked for, running and done, of one project or of all."""
    if project is not None:
        parse_project(project)
    rows = services.jobs.table.jobs(None if project is None else services.project(project).key)
    return JSONResponse({"jobs": [job.to_json() for job in rows]})


@routes.get("/metrics")
def metrics(services: Opened) -> Response:  # in a thread: it may wait for the database
    """Prometheus metrics."""
    services.metrics.count_jobs(services.jobs)
    return Response(generate_latest(services.metrics.registry), media_type=_METRICS_TYPE)


async def _unless_gone(work: asyncio.Task[T], receive: Receive) -> T | None:
    """The result of a request's work; None where the caller went away: the work is cancelled."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.create_task(gone())
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)
