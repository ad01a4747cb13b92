"""The admin's page, mounted on the server's app by `cli/serve`: views, and actions behind buttons."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.staticfiles import StaticFiles

from ram_backend import __version__
from ram_backend.console.actions import ACTIONS
from ram_backend.console.charts import bars_per_day, before_and_after
from ram_backend.console.report import plotted, report_values, share
from ram_backend.console.statistics import CorrectedPhoto, statistics_of
from ram_backend.errors import InputError, ProjectNotFound, RamError
from ram_backend.images.decode import thumbnail
from ram_backend.images.guard import is_loopback
from ram_backend.jobs.schedules import KINDS
from ram_backend.labelstudio.provisioning import Check
from ram_backend.labelstudio.task_images import ImageReference
from ram_backend.models.calibration import cost_thresholds
from ram_backend.projects.project import Project, TrustedHost
from ram_backend.server.app import Opened
from ram_backend.server.handlers import snapshot_of
from ram_backend.server.middleware import Refused
from ram_backend.server.services import Services
from ram_backend.settings import Settings
from ram_backend.versions.directory import engine_folder
from ram_backend.versions.records import ServedVersion

TOKEN_HEADER = "x-ram-page-token"
TAGS = 200
"""Tags in one table, the most corrected ones."""

THUMBNAIL = 240
THUMBNAILS_AT_ONCE = 2
JOBS = 15

LATEST_JOBS = 1000
"""Latest jobs of all projects among which each project's is looked for."""

WAIT_S = 2.0
"""How long a view waits for a snapshot that is being built."""

_HERE = Path(__file__).parent
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Checker = Callable[[Settings, Project, TrustedHost | None], Iterable[Check]]


def mount(app: FastAPI, *, check: Checker) -> None:
    """Adds the page to the server's app, at "/" and below "/projects".

    `check` looks at a project's connection with Label Studio, from both sides.
    """
    app.include_router(_Page(check).router)
    app.mount("/console", StaticFiles(directory=_HERE / "static"), name="console")


async def _admitted(services: Opened, request: Request) -> None:
    """Refuses (403) browsers on other machines, without a login."""
    if not services.settings.basic_auth_user and not is_loopback(request.headers.get("host", "")):
        message = "Without a login (RAM_BASIC_AUTH_USER, RAM_BASIC_AUTH_PASS) the page is for localhost alone."
        raise Refused(403, "LoginNeeded", message)


async def _known(services: Opened, reference: str) -> Project:
    project = services.project(reference)
    if services.project_cache.get(project.key) is None:
        raise ProjectNotFound(f"There is no project {reference[:40]!r}: `ram-backend project list` has them.")
    return project


Known = Annotated[Project, Depends(_known)]


class _Page:
    def __init__(self, check: Checker) -> None:
        self._check = check
        self._token = secrets.token_urlsafe(32)
        self._templates = Environment(
            loader=PackageLoader("ram_backend.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._thumbnails = asyncio.Semaphore(THUMBNAILS_AT_ONCE)
        self.router = APIRouter(dependencies=[Depends(_admitted)], include_in_schema=False)
        views: dict[str, Callable[..., Any]] = {
            "/": self._projects,
            "/projects/{reference}": self._project,
            "/projects/{reference}/connection": self._connection,
            "/projects/{reference}/tag": self._tag,
            "/projects/{reference}/report": self._report,
            "/projects/{reference}/engine": self._engine,
            "/projects/{reference}/photos/{task}": self._photo,
        }
        for path, view in views.items():
            self.router.add_api_route(path, view, methods=["GET"])
        self.router.add_api_route("/projects/{reference}/{action}", self._act, methods=["POST"])

    async def _projects(self, services: Opened) -> HTMLResponse:
        rows = await asyncio.to_thread(_overview, services)
        return self._render(services, "projects.html", rows=rows)

    async def _project(self, services: Opened, project: Known, reference: str) -> HTMLResponse:
        thresholds, problem = await _thresholds_in_force(services, project)
        facts = await asyncio.to_thread(_facts, services, project)
        facts["thresholds"] = thresholds
        facts["problems"] = [each for each in (problem, project.extra_params_error) if each]
        return self._render(services, "project.html", reference=reference, **facts)

    async def _connection(self, services: Opened, project: Known) -> HTMLResponse:
        def look() -> list[Check]:
            trusted_host = services.jobs.projects.changes().trusted_host
            return list(self._check(services.settings, project, trusted_host))

        return self._render(services, "connection.html", findings=await asyncio.to_thread(look))

    async def _tag(self, services: Opened, project: Known, reference: str, name: str) -> HTMLResponse:
        statistics = await asyncio.to_thread(statistics_of, services.ledger, project)
        shown = {"tag": name, "photos": (statistics.photos or {}).get(name, ())}
        return self._render(services, "tag.html", reference=reference, project=project, **shown)

    async def _report(self, services: Opened, project: Known) -> HTMLResponse:
        values = await asyncio.to_thread(report_values, services.jobs, services.settings, project)
        return self._render(services, "report.html", layout="base.html", **values)

    async def _engine(self, services: Opened, project: Known) -> Response:
        """The report of the last engine job, with its styles and pictures inside."""
        path = engine_folder(services.settings.versions_dir, project.key) / "report.html"
        if not await asyncio.to_thread(path.is_file):
            raise ProjectNotFound(f"No worker has looked at the labels of project {project.key} yet.")
        inside = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        return FileResponse(path, headers={**_HEADERS, "Content-Security-Policy": inside})

    async def _photo(self, services: Opened, project: Known, task: int, image: str) -> Response:
        """A thumbnail of a corrected photo, fetched as `/predict` fetches it."""
        statistics = await asyncio.to_thread(statistics_of, services.ledger, project)
        photo = statistics.photo(task, image)
        if photo is None:
            raise ProjectNotFound(f"Project {project.key} has no corrected photo of task {task}.")
        async with self._thumbnails:
            data = await asyncio.to_thread(_thumbnail, services, project, photo)
        headers = {**_HEADERS, "Cache-Control": "private, max-age=3600"}
        return Response(data, media_type="image/jpeg", headers=headers)

    async def _act(
        self, request: Request, services: Opened, project: Known, action: str, given: Annotated[dict[str, Any], Body()]
    ) -> dict[str, str]:
        token = request.headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise Refused(403, "PageToken", "The page's token is missing or old: reload the page.")
        if action not in ACTIONS:
            raise InputError(f"There is no action {action[:40]!r} (known: {', '.join(ACTIONS)}).")
        return {"message": await asyncio.to_thread(ACTIONS[action], services.jobs, project.key, given)}

    def _render(self, services: Services, template: str, **values: object) -> HTMLResponse:
        html = self._templates.get_template(template).render(
            token=self._token,
            version=__version__,
            bundle=services.settings.bundle,
            model=services.model.state,
            share=share,
            **values,
        )
        return HTMLResponse(html, headers=_HEADERS)


def _facts(services: Services, project: Project) -> dict[str, Any]:
    key, jobs = project.key, services.jobs
    statistics = statistics_of(services.ledger, project)
    versions = jobs.versions.list(key)
    return {
        "project": project,
        "served": jobs.versions.served(key),
        "statistics": statistics,
        "tags": statistics.tags[:TAGS],
        "tags_left": max(0, len(statistics.tags) - TAGS),
        "new": jobs.new_corrections(key)[key],
        "days": bars_per_day(statistics.per_day, datetime.now(UTC).date()),
        "versions": versions[::-1],
        "plot": before_and_after([row for each in versions if (row := plotted(each))]),
        "jobs": jobs.table.jobs(key, limit=JOBS),
        "schedules": jobs.schedules.schedules(key),
        "kinds": KINDS,
        "checked": (engine_folder(services.settings.versions_dir, key) / "report.html").is_file(),
        "options": project.admin_options,
        "extra": ", ".join(project.extra_params.to_json()),
    }


def _thumbnail(services: Services, project: Project, photo: CorrectedPhoto) -> bytes:
    data = services.task_images(project).fetch(ImageReference(photo.task, photo.reference))
    limits = services.settings.max_image_pixels, services.settings.max_image_bytes
    return services.processes.decode(thumbnail, data, THUMBNAIL, *limits, f"image of task {photo.task}")


def _overview(services: Services) -> list[dict[str, Any]]:
    """All projects, by number."""
    jobs = services.jobs
    served = {each.key: each for each in jobs.versions.changes().served}
    by_age = sorted(jobs.table.jobs(limit=LATEST_JOBS), key=lambda job: job.requested_at)
    latest = {job.key: job for job in by_age}
    new = jobs.new_corrections(*(project.key for project in services.project_cache.projects()))
    return [
        {"key": key, "served": served.get(key, ServedVersion(key)), "new": each, "job": latest.get(key)}
        for key, each in new.items()
    ]


async def _thresholds_in_force(services: Services, project: Project) -> tuple[dict[str, dict[str, Any]], str | None]:
    """By scored text the threshold that is served now; or why there is none.

    "value" is in [0, 1], "source" is "settings", a version or the bundle.
    """
    try:
        async with asyncio.timeout(WAIT_S):
            snapshot = await snapshot_of(services, project, project.label_config)
    except TimeoutError:
        return {}, "The project's tags are still being prepared: their thresholds follow."
    except RamError as error:
        return {}, str(error)
    source = snapshot.config.bundle.name if snapshot.version is None else snapshot.version.ref.name
    found: dict[str, dict[str, Any]] = {}
    for name, control in snapshot.config.controls.items():
        if (tagger := snapshot.taggers.get(name)) is None:
            continue
        own = cost_thresholds(tagger.thresholds, control.add_cost)
        for columns, given in zip(control.columns, control.thresholds, strict=True):
            for column in columns:
                value = float(own[column]) if given is None else given
                said = source if given is None else "settings"
                found[control.texts[column]] = {"value": value, "source": said}
    return found, None
