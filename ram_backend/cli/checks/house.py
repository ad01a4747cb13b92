"""What `ram-backend doctor` looks at in the house itself: database, queue, workers, jobs, versions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ram_backend.database.engine import Database, open_database
from ram_backend.database.migrate import upgrade
from ram_backend.errors import DatabaseUnavailable
from ram_backend.labelstudio.diagnosis import Finding, State
from ram_backend.settings import Settings

SILENT_S = 420.0
"""RQ's workers give a sign of life at least every seven minutes."""

WAITING_S = 15.0


def opened(settings: Settings) -> Database | None:
    """The database, brought to the tables of this version; None: there is none yet.

    Raises:
        DatabaseUnavailable: see the message.
    """
    database = open_database(settings)
    if database.file is not None and not database.file.exists():
        return None
    upgrade(database)
    return database


def check_database(settings: Settings) -> Iterator[Finding]:
    """Database, and what it says about jobs and versions."""
    try:
        database = opened(settings)
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


def check_workers(settings: Settings) -> Iterator[Finding]:
    """Queue, and who looks into it."""
    from redis.exceptions import RedisError
    from rq import Worker

    from ram_backend.jobs.job import QUEUES
    from ram_backend.jobs.valkey import connect, running_url

    url = running_url(settings)
    start = "`ram-backend worker`, or `ram-backend serve --with-worker`"
    if url is None:
        yield Finding("workers", State.note, "none: no server and no worker runs on this data folder", f"start {start}")
        return
    try:
        with connect(url, 3.0) as connection:
            workers = [
                each for each in Worker.all(connection=connection) if set(each.queue_names()) & set(QUEUES.values())
            ]
    except (RedisError, OSError) as error:
        yield Finding("workers", State.bad, f"the queue doesn't answer ({type(error).__name__})", "see RAM_REDIS_URL")
        return
    alive = [each for each in workers if _age_s(each.last_heartbeat) < SILENT_S]
    if alive:
        doing = sum(each.get_state() == "busy" for each in alive)
        yield Finding("workers", State.ok, f"{len(alive)}, of which {doing} at work")
    else:
        yield Finding(
            "workers", State.note, "none: nothing is learned, and no predictions are pushed", f"start {start}"
        )


def _jobs(settings: Settings, database: Database) -> Iterator[Finding]:
    from ram_backend.jobs.queue import JobQueue

    table = JobQueue.of(settings, database)
    waiting = table.due(WAITING_S)
    if waiting:
        said = f"{len(waiting)} wait for a worker, the first one for {_age_s(waiting[0].not_before):.0f} s"
        yield Finding("jobs", State.bad, said, "see that a worker runs: `ram-backend worker`")
    now = datetime.now(UTC)
    for job in table.jobs(limit=50):
        silent = job.state == "running" and job.heartbeat_at is not None
        if silent and (now - job.heartbeat_at).total_seconds() > 2 * settings.lease_seconds + 60:  # type: ignore[operator]
            said = f"{job.kind} of project {job.key} has given no sign of life since {job.heartbeat_at:%H:%M}"
            yield Finding("jobs", State.bad, said, "start a worker: it takes the job over")
    latest: dict[Any, Any] = {}
    for job in table.jobs(limit=200):
        if not job.is_open:
            latest.setdefault((job.key, job.kind), job)
    for job in latest.values():
        if job.state == "failed":
            yield Finding("jobs", State.note, f"the last {job.kind} of project {job.key} failed", job.message)


def _versions(database: Database) -> Iterator[Finding]:
    from ram_backend.projects.table import ProjectTable
    from ram_backend.versions.table import VersionTable

    table = VersionTable(database)
    for project in ProjectTable(database).changes().projects:
        key, served = project.key, table.served(project.key)
        if served.quarantined is not None:
            remedy = f"ram-backend versions rollback {key.id} VERSION, and train again"
            said = f"project {key}: {served.name} can't be served ({served.quarantined}); another one is meanwhile"
            yield Finding("versions", State.bad, said, remedy)
        spoilt = [each.name for each in table.list(key) if each.state == "quarantined" and each.name != served.version]
        if spoilt:
            yield Finding("versions", State.note, f"project {key}: {', '.join(spoilt)} can't be served, and aren't")


def _age_s(moment: datetime | None) -> float:
    if moment is None:
        return float("inf")
    return (datetime.now(UTC) - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))).total_seconds()
