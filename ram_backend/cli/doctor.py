"""`ram-backend doctor`: checks of the installation, with remedies."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import typer
from redis.exceptions import RedisError
from rich.table import Table
from rich.text import Text
from urllib3 import PoolManager, make_headers
from urllib3.exceptions import HTTPError

from ram_backend import __version__
from ram_backend.cli.output import JsonLines, out, print_json
from ram_backend.database.engine import Database, open_database
from ram_backend.database.migrate import upgrade
from ram_backend.errors import (
    DatabaseUnavailable,
    LabelStudioRefused,
    LabelStudioUnauthorized,
    LabelStudioUnreachable,
    RamError,
)
from ram_backend.images.guard import is_loopback, redacted
from ram_backend.jobs.job import QUEUES, Job
from ram_backend.jobs.table import JobTable
from ram_backend.jobs.valkey import connect, running_urls
from ram_backend.labelstudio.client import LabelStudio, connect_command, open_label_studio
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.provisioning import Check, diagnose
from ram_backend.labelstudio.tokens import is_personal
from ram_backend.models.registry import find_bundle, list_bundles
from ram_backend.models.starter.install import starter_digest
from ram_backend.projects.project import Project, TrustedHost, connection_of
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.table import VersionTable
from ram_backend.vocabulary.embeddings import open_text_encoder

COLOURS = {"ok": "green", "note": "yellow", "bad": "red"}
LOW_DISK = 5_000_000_000
TIMEOUT_S = 3.0
SILENT_S = 420.0
"""RQ's workers send a heartbeat at least every seven minutes."""

WAITING_S = 15.0
REFUSALS = {
    'ram_refused_total{what="projects"}': ("projects over quota", "raise RAM_MAX_PROJECTS, or set a login"),
    'ram_refused_total{what="new_tags"}': ("requests with too many new tags", "raise RAM_MAX_NEW_TAGS"),
    'ram_refused_total{what="events"}': (
        "webhooks of projects with too many events",
        "they come with the next training",
    ),
    "ram_projects_evicted": ("projects that were set up and never used went", "see who connects them, or set a login"),
    "ram_unknown_events_total": ("events of projects that are not connected", "connect them, or remove their webhooks"),
}
"""By metric of the server: of what there was too much, and the remedy."""

MAX_PROJECTS = 20
"""The latest projects are checked."""

TOKEN = "make a personal access token (Account & Settings in Label Studio), and set LABEL_STUDIO_API_KEY to it"
CONNECT = "ram-backend connect PROJECT --url BACKEND, or Settings > Model in Label Studio"
NONE_CONNECTED = Check("projects", "note", "none has been connected yet", CONNECT)
START_WORKER = "start `ram-backend worker`, or `ram-backend serve --with-worker`"


def doctor(as_json: JsonLines = False) -> None:
    """Say what is there (bundles, device, disk, database, workers, Label Studio) and what to do about what is missing.

    Each step between Label Studio and this backend is looked at from both
    sides.

    Exit status 1 where something is set up but does not work.
    """
    findings = list(examine(load_settings()))
    if as_json:
        print_json(*(asdict(each) for each in findings))
    else:
        table = Table("", "what", "found", title=f"ram-backend {__version__}", title_justify="left")
        for each in findings:
            found = f"{each.found}\n-> {each.remedy}" if each.remedy else each.found
            table.add_row(Text(each.state, style=COLOURS[each.state]), Text(each.what), Text(found))
        out.print(table, soft_wrap=False)
    if any(each.state == "bad" for each in findings):
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Check]:
    """All checks; one that fails doesn't prevent the others."""
    checks: tuple[Callable[[Settings], Iterator[Check]], ...] = (
        _python, _data_folder, _bundles, _served_bundle, _device,
        _queue, _refusals, _label_studio, _database,
    )  # fmt: skip
    for check in checks:
        try:
            yield from check(settings)
        except RamError as error:
            yield Check(check.__name__.strip("_").replace("_", " "), "bad", str(error))


def _python(settings: Settings) -> Iterator[Check]:
    yield Check("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Check("threads", "ok", f"{settings.cpu_threads()} for inference (RAM_THREADS)")


def _data_folder(settings: Settings) -> Iterator[Check]:
    folder = settings.data_dir
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        remedy = f"make {existing} a folder that you may write to, or set RAM_DATA_DIR to one"
        yield Check("data folder", "bad", f"{folder} can't be written", remedy)
        return
    free = shutil.disk_usage(existing).free
    low = free < LOW_DISK
    remedy = "free some space, or set RAM_DATA_DIR: an imported RAM takes about 1 GB" if low else ""
    yield Check("data folder", "note" if low else "ok", f"{folder}, {free / 1e9:.0f} GB free", remedy)


def _bundles(settings: Settings) -> Iterator[Check]:
    entries = list_bundles(settings.bundles_dir)
    for entry in entries:
        yield Check(f"bundle {entry.name}", "bad" if entry.problem else "ok", entry.problem or entry.summary)
    if all(entry.kind == "starter" for entry in entries):
        remedy = "ram-backend bundles pull ram-plus (3 GB), or `ram-backend bundles import`"
        yield Check("RAM weights", "note", "none: only the small starter bundle is here", remedy)


def _served_bundle(settings: Settings) -> Iterator[Check]:
    if settings.bundle == "starter" and not (settings.bundles_dir / "starter").exists():
        yield Check("RAM_BUNDLE", "ok", "starter (installs itself at its first use)")
        return
    bundle = find_bundle(settings.bundle, settings.bundles_dir)
    known = f"{bundle.name}: {len(bundle.vocabulary)} tags"
    if settings.bundle == "starter" and bundle.digest != starter_digest():
        remedy = f"stop everything and remove {bundle.path}: the new one comes, and projects learn anew"
        yield Check("RAM_BUNDLE", "note", f"{known}; it came with another release of the package", remedy)
    else:
        yield Check("RAM_BUNDLE", "ok", known)
    if bundle.text_encoder is None:
        yield Check("new tags", "note", f"{bundle.name} has no text encoder: only its own tags are scored")
        return
    try:
        encoder = open_text_encoder(bundle.text_encoder, settings)
        yield Check("new tags", "ok", f"any text can be a tag, embedded by {encoder.id}")
    except RamError as error:
        yield Check("new tags", "note", str(error))


def _device(settings: Settings) -> Iterator[Check]:
    import torch

    cuda = torch.cuda.is_available()
    found = f"{torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda})" if cuda else "CPU, no CUDA device"
    found += f"; torch {torch.__version__}; RAM_DEVICE={settings.device}, RAM_PRECISION={settings.precision}"
    missing = settings.device == "cuda" and not cuda
    remedy = "install a driver and a CUDA build of torch, or set RAM_DEVICE=auto" if missing else ""
    yield Check("device", "bad" if missing else "ok", found, remedy)


def _queue(settings: Settings) -> Iterator[Check]:
    """Redis, and the workers that look into its queues."""
    from rq import Worker

    found = "not set (RAM_REDIS_URL): tagging does not need it"
    workers = list[Worker]()
    try:
        for url in running_urls(settings):
            with connect(url, TIMEOUT_S) as connection:
                if settings.redis_url is not None:
                    version = connection.info("server").get("redis_version", "?")
                    found = f"{redacted(settings.redis_url)} answers, version {version}"
                for each in Worker.all(connection=connection):
                    if set(each.queue_names()) & set(QUEUES.values()):
                        workers.append(each)
    except (RedisError, RamError, ValueError, OSError) as error:
        found = f"{redacted(settings.redis_url or 'our own')} doesn't answer: {error}"
        yield Check("Redis", "bad", found, "start it, or correct or unset RAM_REDIS_URL")
        return
    yield Check("Redis", "ok", found)

    alive = [each for each in workers if _age_s(each.last_heartbeat) < SILENT_S]
    if alive:
        busy = sum(each.get_state() == "busy" for each in alive)
        yield Check("workers", "ok", f"{len(alive)}, of which {busy} at work")
    else:
        yield Check("workers", "note", "none: nothing is learned, and no predictions are renewed", START_WORKER)


def _database(settings: Settings) -> Iterator[Check]:
    database = open_database(settings)
    if database.file is not None and not database.file.exists():
        yield Check("database", "ok", "none yet: made at the first start of server, worker or command")
        yield NONE_CONNECTED
        return
    try:
        upgrade(database)
    except DatabaseUnavailable as error:
        remedy = "see that it runs, and RAM_DATABASE_URL; the server still serves what it has"
        yield Check("database", "bad", str(error), remedy)
        return
    yield Check("database", "ok", f"{database.display_url} answers")
    yield from _jobs(settings, database)
    yield from _versions(database)
    yield from check_projects(settings, database)


def _refusals(settings: Settings) -> Iterator[Check]:
    """Refusals and evictions by the server on this machine, from its metrics."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    account = settings.basic_auth()
    login = make_headers(basic_auth=":".join(account)) if account else {}
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/metrics"
    try:
        answer = PoolManager().request("GET", url, headers=login, timeout=TIMEOUT_S, retries=False)
    except HTTPError:
        return  # none runs
    metrics = answer.data.decode("utf-8", "replace")
    for name, (what, remedy) in REFUSALS.items():
        count = re.search(rf"^{re.escape(name)} (\d+)", metrics, re.MULTILINE)
        if count is not None and int(count[1]):
            yield Check("refused", "note", f"{count[1]} {what} since the server's start", remedy)


def _jobs(settings: Settings, database: Database) -> Iterator[Check]:
    table = JobTable(database)
    waiting = table.due(WAITING_S)
    if waiting:
        found = f"{len(waiting)} wait for a worker, the first one for {_age_s(waiting[0].not_before):.0f} s"
        yield Check("jobs", "bad", found, "see that a worker runs: `ram-backend worker`")
    latest: dict[Any, Job] = {}
    for job in table.jobs(limit=200):
        seen = job.heartbeat_at
        if not job.is_open:
            latest.setdefault((job.key, job.kind), job)
        elif job.state == "running" and seen is not None and _age_s(seen) > 2 * settings.lease_seconds + 60:
            found = f"{job.kind} of project {job.key} has sent no heartbeat since {seen:%H:%M}"
            yield Check("jobs", "bad", found, "start a worker: it takes the job over")
    for job in latest.values():
        if job.state == "failed":
            yield Check("jobs", "note", f"the last {job.kind} of project {job.key} failed", job.message)


def _versions(database: Database) -> Iterator[Check]:
    table = VersionTable(database)
    for project in ProjectTable(database).changes().projects:
        key, served = project.key, table.served(project.key)
        if served.quarantined is not None:
            remedy = f"ram-backend versions rollback {key.id} VERSION, then versions unpin {key.id}, and train again"
            found = f"project {key}: {served.name} can't be served ({served.quarantined}); another one is meanwhile"
            yield Check("versions", "bad", found, remedy)
        quarantined = [each.name for each in table.list(key) if each.state == "quarantined"]
        spoilt = [name for name in quarantined if name != served.version]
        if spoilt:
            yield Check("versions", "note", f"project {key}: {', '.join(spoilt)} are quarantined")


def _label_studio(settings: Settings) -> Iterator[Check]:
    """The Label Studio of the settings: address, then token."""
    if settings.label_studio_url is None:
        yield Check("Label Studio", "ok", "not set (LABEL_STUDIO_URL): projects keep their own address")
        return
    base = settings.label_studio_url.rstrip("/")
    label_studio = open_label_studio(settings, base, settings.label_studio_api_key)
    try:
        release = label_studio.version()
    except RamError as error:
        yield Check("Label Studio", "bad", str(error), _remedy(base))
        return
    yield Check("Label Studio", "ok", f"{base} answers, version {release}")
    if settings.label_studio_api_key is None:
        yield Check("Label Studio token", "note", "not set (LABEL_STUDIO_API_KEY)", TOKEN)
    else:
        yield _token(label_studio, settings.label_studio_api_key)


def check_projects(settings: Settings, database: Database) -> Iterator[Check]:
    """The latest projects that Label Studio has connected."""
    changes = ProjectTable(database).changes()
    if not changes.projects:
        yield NONE_CONNECTED
    for project in changes.projects[: -MAX_PROJECTS - 1 : -1]:  # the last one was written last
        for finding in check_project(settings, project, changes.trusted_host):
            yield Check(f"project {project.key.id}: {finding.what}", finding.state, finding.found, finding.remedy)


def check_project(settings: Settings, project: Project, trusted_host: TrustedHost | None) -> Iterator[Check]:
    """One project's connection, from both sides."""
    connection = connection_of(settings, project, trusted_host)
    if project.extra_params_error is not None:
        yield Check("extra params", "bad", project.extra_params_error, "correct them in Settings > Model")
    if connection.base_url is None:
        yield Check("Label Studio", "bad", "nobody has named its address", "set LABEL_STUDIO_URL")
        return
    if not connection.trusted:
        pinned = trusted_host.host if trusted_host else "none"
        untrusted = (
            f"only /setup named {connection.base_url} (pinned: {pinned}):"
            " images are fetched with that request's token, and only where the address is a public one"
        )
        remedy = f"{connect_command(project.key.id)}, or ram-backend project pin-host {connection.base_url}"
        yield Check("Label Studio", "note", untrusted, remedy)
        return
    label_studio = open_label_studio(settings, connection.base_url, connection.token, hostname=project.hostname)
    try:
        label_studio.version()
    except RamError as error:
        yield Check("Label Studio", "bad", str(error), _remedy(connection.base_url))
        return
    if connection.token == project.access_token:
        yield _token(label_studio, connection.token or "", of_setup=True)

    api = ProjectApi(label_studio, project.key.id)
    try:
        given = api.settings(), api.backends(), api.webhooks()
        yield from diagnose(project.key.id, *given, settings.webhook_headers())
    except LabelStudioUnauthorized:
        yield Check("connection", "note", "not looked at: Label Studio takes no token that we have", TOKEN)
    except LabelStudioRefused as error:
        yield Check("connection", "note", str(error), "was it deleted? Then nothing is to be done")
    except LabelStudioUnreachable as error:
        yield Check("connection", "bad", str(error), "look at Label Studio's log")


def _token(label_studio: LabelStudio, token: str, *, of_setup: bool = False) -> Check:
    kind = "a personal access token" if is_personal(token) else "a legacy token"
    source = "of /setup" if of_setup else "LABEL_STUDIO_API_KEY"
    what = "token" if of_setup else "Label Studio token"
    try:
        user = label_studio.whoami().get("email", "?")
    except LabelStudioUnauthorized as error:
        if is_personal(token):
            return Check(what, "bad", f"{source}: {kind} that Label Studio no longer accepts", TOKEN)
        remedy = f"legacy tokens are off by default: {TOKEN}"
        return Check(what, "note" if of_setup else "bad", str(error), remedy)
    except RamError as error:
        return Check(what, "bad", str(error), TOKEN)
    return Check(what, "ok", f"{source}: {kind}, of {user}")


def _remedy(base: str) -> str:
    remedy = "start it, or set LABEL_STUDIO_URL to its address as this machine sees it"
    if is_loopback(base):
        remedy += "; `localhost` is this machine or container: use Label Studio's host or service"
    return remedy


def _age_s(moment: datetime | None) -> float:
    if moment is None:
        return float("inf")
    since = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (datetime.now(UTC) - since).total_seconds()
