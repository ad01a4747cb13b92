"""`ram-backend doctor`: what is there, and what to do about what is missing."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import typer
from redis.exceptions import RedisError
from rich.markup import escape
from rich.table import Table
from urllib3 import PoolManager, make_headers
from urllib3.exceptions import HTTPError

from ram_backend import __version__
from ram_backend.cli.label_studio_checks import check_label_studio, check_projects
from ram_backend.cli.opening import existing_database
from ram_backend.cli.output import out
from ram_backend.database.engine import Database
from ram_backend.errors import DatabaseUnavailable, RamError
from ram_backend.images.guard import redacted
from ram_backend.jobs.job import QUEUES, Job
from ram_backend.jobs.queue import JobQueue
from ram_backend.jobs.valkey import connect, running_url
from ram_backend.labelstudio.diagnosis import Finding, State
from ram_backend.models.starter.bundle import starter_digest
from ram_backend.models.store import find_bundle, list_bundles
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.table import VersionTable
from ram_backend.vocabulary.embeddings import open_text_encoder

LOW_DISK = 5_000_000_000
TIMEOUT_S = 3.0
SILENT_S = 420.0
"""RQ's workers give a sign of life at least every seven minutes."""

WAITING_S = 15.0
REFUSALS = {
    'ram_refused_total{what="projects"}': ("projects for want of room", "raise RAM_MAX_PROJECTS, or set a login"),
    'ram_refused_total{what="new_tags"}': ("requests with too many new tags", "raise RAM_MAX_NEW_TAGS"),
    'ram_refused_total{what="events"}': (
        "webhooks of projects with too many events",
        "they come with the next training",
    ),
    "ram_projects_evicted": ("projects that were set up and never used went", "see who connects them, or set a login"),
    "ram_unknown_events_total": ("events of projects that are not connected", "connect them, or remove their webhooks"),
}
"""By metric of the server: of what there was too much, and the remedy."""


def doctor() -> None:
    """Say what is there (bundles, device, disk, database, workers, Label Studio) and what to do about what is missing.

    Each step between Label Studio and this backend is looked at from both sides.

    Exit status 1 where something is set up but does not work.
    """
    findings = list(examine(load_settings()))
    table = Table("", "what", "found", title=f"ram-backend {__version__}", title_justify="left")
    colours = {State.ok: "green", State.note: "yellow", State.bad: "red"}
    for finding in findings:
        found = f"{finding.found}\n-> {finding.remedy}" if finding.remedy else finding.found
        table.add_row(f"[{colours[finding.state]}]{finding.state}[/]", escape(finding.what), escape(found))
    out.print(table, soft_wrap=False)
    if any(finding.state is State.bad for finding in findings):
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """All checks; one that fails doesn't prevent the others."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _python, _data_folder, _bundles, _served_bundle, _device,
        _queue, _database, _refusals, check_label_studio, check_projects,
    )  # fmt: skip
    for check in checks:
        try:
            yield from check(settings)
        except RamError as error:
            yield Finding(check.__name__.removeprefix("check").strip("_").replace("_", " "), State.bad, str(error))


def _python(settings: Settings) -> Iterator[Finding]:
    yield Finding("Python", State.ok, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("threads", State.ok, f"{settings.cpu_threads()} for inference (RAM_THREADS)")


def _data_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        remedy = f"make {existing} a folder that you may write to, or set RAM_DATA_DIR to one"
        yield Finding("data folder", State.bad, f"{folder} can't be written", remedy)
        return
    free = shutil.disk_usage(existing).free
    low = free < LOW_DISK
    remedy = "free some space, or set RAM_DATA_DIR to a larger disk: an imported RAM takes about 1 GB" if low else ""
    yield Finding("data folder", State.note if low else State.ok, f"{folder}, {free / 1e9:.0f} GB free", remedy)


def _bundles(settings: Settings) -> Iterator[Finding]:
    for entry in list_bundles(settings.bundles_dir):
        yield Finding(
            f"bundle {entry.name}", State.ok if entry.problem is None else State.bad, entry.problem or entry.summary
        )
    if not any(entry.kind != "starter" for entry in list_bundles(settings.bundles_dir)):
        remedy = "ram-backend bundles pull ram-plus (3 GB), or `ram-backend bundles import` for a file that you have"
        yield Finding("RAM weights", State.note, "none: only the small starter bundle is here", remedy)


def _served_bundle(settings: Settings) -> Iterator[Finding]:
    if settings.bundle == "starter" and not (settings.bundles_dir / "starter").exists():
        yield Finding("RAM_BUNDLE", State.ok, "starter (installs itself at its first use)")
        return
    bundle = find_bundle(settings.bundle, settings.bundles_dir)
    known = f"{bundle.name}: {len(bundle.vocabulary)} tags"
    if settings.bundle == "starter" and bundle.digest != starter_digest():
        remedy = f"stop everything and remove {bundle.path}: this release's is installed; projects then learn anew"
        yield Finding("RAM_BUNDLE", State.note, f"{known}; it came with another release of the package", remedy)
    else:
        yield Finding("RAM_BUNDLE", State.ok, known)
    if bundle.text_encoder is None:
        yield Finding("new tags", State.note, f"{bundle.name} has no text encoder: only its own tags can be scored")
        return
    try:
        encoder = open_text_encoder(bundle.text_encoder, settings)
        yield Finding("new tags", State.ok, f"any text can be a tag, embedded by {encoder.id}")
    except RamError as error:
        yield Finding("new tags", State.note, str(error))


def _device(settings: Settings) -> Iterator[Finding]:
    import torch

    cuda = torch.cuda.is_available()
    found = f"{torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda})" if cuda else "CPU, no CUDA device"
    wanted = f"torch {torch.__version__}; RAM_DEVICE={settings.device}, RAM_PRECISION={settings.precision}"
    if settings.device == "cuda" and not cuda:
        remedy = "install a driver and a CUDA build of torch, or set RAM_DEVICE=auto"
        yield Finding("device", State.bad, f"{found}; {wanted}", remedy)
    else:
        yield Finding("device", State.ok, f"{found}; {wanted}")


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        database = existing_database(settings)
    except DatabaseUnavailable as error:
        remedy = "see that it runs, and RAM_DATABASE_URL; the server goes on serving what it has meanwhile"
        yield Finding("database", State.bad, str(error), remedy)
        return
    if database is None:
        yield Finding("database", State.ok, "none yet: made at the first start of server, worker or command")
        return
    yield Finding("database", State.ok, f"{database.shown} answers")
    yield from _jobs(settings, database)
    yield from _versions(database)


def _queue(settings: Settings) -> Iterator[Finding]:
    """Redis, and the workers that look into its queues."""
    from rq import Worker

    url = running_url(settings)
    start = "start `ram-backend worker`, or `ram-backend serve --with-worker`"
    if settings.redis_url is None:
        yield Finding("Redis", State.ok, "not set (RAM_REDIS_URL): tagging does not need it")
    if url is None:
        yield Finding("workers", State.note, "none: no server and no worker runs on this data folder", start)
        return
    try:
        with connect(url, TIMEOUT_S) as connection:
            version = connection.info("server").get("redis_version", "?")
            workers = Worker.all(connection=connection)
            ours = [each for each in workers if set(each.queue_names()) & set(QUEUES.values())]
    except (RedisError, RamError, ValueError, OSError) as error:
        if settings.redis_url is not None:
            found = f"{redacted(settings.redis_url)}: {error}"
            yield Finding("Redis", State.bad, found, "start it, or correct or unset RAM_REDIS_URL")
        found = f"the queue doesn't answer ({type(error).__name__})"
        yield Finding("workers", State.bad, found, "see RAM_REDIS_URL")
        return
    if settings.redis_url is not None:
        yield Finding("Redis", State.ok, f"{redacted(settings.redis_url)} answers, version {version}")
    alive = [each for each in ours if _age_s(each.last_heartbeat) < SILENT_S]
    if alive:
        busy = sum(each.get_state() == "busy" for each in alive)
        yield Finding("workers", State.ok, f"{len(alive)}, of which {busy} at work")
    else:
        yield Finding("workers", State.note, "none: nothing is learned, and no predictions are pushed", start)


def _refusals(settings: Settings) -> Iterator[Finding]:
    """What the server on this machine has refused or put out for want of room, by its metrics."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    login = make_headers(basic_auth=":".join(settings.basic_auth() or ())) if settings.basic_auth() else {}
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/metrics"
    try:
        answer = PoolManager().request("GET", url, headers=login, timeout=TIMEOUT_S, retries=False)
    except HTTPError:
        return  # none runs
    for name, (what, remedy) in REFUSALS.items():
        count = re.search(rf"^{re.escape(name)} (\d+)", answer.data.decode("utf-8", "replace"), re.MULTILINE)
        if count is not None and int(count[1]):
            yield Finding("refused", State.note, f"{count[1]} {what} since the server's start", remedy)


def _jobs(settings: Settings, database: Database) -> Iterator[Finding]:
    queue = JobQueue(database)
    waiting = queue.due(WAITING_S)
    if waiting:
        found = f"{len(waiting)} wait for a worker, the first one for {_age_s(waiting[0].not_before):.0f} s"
        yield Finding("jobs", State.bad, found, "see that a worker runs: `ram-backend worker`")
    latest: dict[Any, Job] = {}
    for job in queue.jobs(limit=200):
        seen = job.heartbeat_at
        if not job.is_open:
            latest.setdefault((job.key, job.kind), job)
        elif job.state == "running" and seen is not None and _age_s(seen) > 2 * settings.lease_seconds + 60:
            found = f"{job.kind} of project {job.key} has given no sign of life since {seen:%H:%M}"
            yield Finding("jobs", State.bad, found, "start a worker: it takes the job over")
    for job in latest.values():
        if job.state == "failed":
            yield Finding("jobs", State.note, f"the last {job.kind} of project {job.key} failed", job.message)


def _versions(database: Database) -> Iterator[Finding]:
    table = VersionTable(database)
    for project in ProjectTable(database).changes().projects:
        key, served = project.key, table.served(project.key)
        if served.quarantined is not None:
            remedy = f"ram-backend versions rollback {key.id} VERSION, and train again"
            found = f"project {key}: {served.name} can't be served ({served.quarantined}); another one is meanwhile"
            yield Finding("versions", State.bad, found, remedy)
        spoilt = [each.name for each in table.list(key) if each.state == "quarantined" and each.name != served.version]
        if spoilt:
            yield Finding("versions", State.note, f"project {key}: {', '.join(spoilt)} can't be served, and aren't")


def _age_s(moment: datetime | None) -> float:
    if moment is None:
        return float("inf")
    return (datetime.now(UTC) - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))).total_seconds()
