"""Maintenance by each worker: expired leases, uncounted corrections, dispatch of due jobs, the queue server itself.

RQ carries the ids of due jobs and nothing else. An id may be in its queue twice, or be lost with it: the worker that
claims the row does the job, any other finds nothing to do, and an id that nobody claims is sent again.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterable
from math import ceil

from redis.exceptions import RedisError
from rq import Queue
from rq.serializers import JSONSerializer

from ram_backend.database.engine import Database
from ram_backend.errors import DatabaseUnavailable, RamError, ValkeyUnavailable
from ram_backend.jobs.job import QUEUES, Job
from ram_backend.jobs.service import JobService
from ram_backend.jobs.valkey import Valkey, connect
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings
from ram_backend.worker.heartbeat import Loop

ROUND_S = 0.5
"""Pause between two rounds."""

COUNT_ALL_S = 60.0
"""How often the corrections of all projects are counted; in between only those of projects with new events."""

FUNCTION = "ram_backend.worker.run_job.run_job"
_RESULT_S = 3600
_log = logging.getLogger(__name__)


class Maintenance(Loop):
    """A thread of a worker; several workers may have one each.

    Args:
        settings: how long a lease is good, and how often corrections are counted.
        database: migrated.
        valkey: the queue, which is started again where it is our own and has ended.
        with_parent: ends the worker when the process that started it has ended.
    """

    def __init__(self, settings: Settings, database: Database, valkey: Valkey, *, with_parent: bool = False) -> None:
        super().__init__("maintenance", ROUND_S)
        self._settings = settings
        self._service = JobService(settings, database)
        self._valkey = valkey
        self._parent = os.getppid() if with_parent else None
        self._events: dict[ProjectKey, int] = {}  # the last one of each project that was counted
        self._count_at = self._count_all_at = 0.0
        self._spare_until = 0.0  # while the database was away nobody could renew a lease
        self._problem = ""

    def look(self) -> bool:
        """One round, which goes on with the next one whatever happens; False: the parent has ended."""
        problem = ""
        try:
            if time.monotonic() >= self._spare_until:
                for job in self._service.queue.expire():
                    _log.warning("job %s of project %s: %s", job.id, job.key, job.message)
            self._count()
            if (due := self._service.queue.due()) and self._valkey.revive():
                self._dispatch(due)
        except Exception as error:
            problem, is_ours = repr(error), isinstance(error, RamError)
            if isinstance(error, DatabaseUnavailable):
                self._spare_until = time.monotonic() + self._settings.lease_seconds
            if problem != self._problem:
                _log.warning("%s", error if is_ours else "A round of maintenance failed.", exc_info=not is_ours)
        self._problem = problem
        if self._parent in (None, os.getppid()):
            return True
        _log.info("The process that started this worker has ended: so does the worker.")
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    def _count(self) -> None:
        """Asks for trainings where enough corrections have changed, a little after the events came."""
        now = time.monotonic()
        if now < self._count_at:
            return
        self._count_at = now + self._settings.train_debounce_seconds
        events = self._service.ledger.last_events()
        if now >= self._count_all_at:
            self._count_all_at, self._events = now + COUNT_ALL_S, {}
        self._service.check(*(key for key, last in events.items() if self._events.get(key) != last))
        self._events = events

    def _dispatch(self, jobs: Iterable[Job]) -> None:
        """Puts the ids of jobs into their queues; one that was sent is sent again after the time of a lease.

        That a job was sent is noted beside the queues, so that a server that loses its memory forgets both.
        """
        try:
            with connect(self._valkey.url) as connection:
                for job in jobs:
                    number, again_s = f"{job.id}-{job.fence}", ceil(self._settings.lease_seconds)
                    queue = Queue(QUEUES[job.kind], connection=connection, serializer=JSONSerializer)
                    is_new = connection.set(f"ram:sent:{number}", 1, nx=True, ex=again_s)
                    if is_new and queue.get_job_position(number) is None:
                        queue.enqueue_call(
                            FUNCTION,
                            args=(job.id,),
                            timeout=-1,  # each worker has a limit of its own
                            result_ttl=_RESULT_S,
                            failure_ttl=_RESULT_S,
                            job_id=number,
                            description=f"{job.kind} {job.id}",
                        )
        except (RedisError, OSError) as error:
            raise ValkeyUnavailable(
                f"The queue of jobs doesn't answer ({type(error).__name__}): jobs wait in the database. See that the"
                " server of RAM_REDIS_URL runs, or unset that."
            ) from error
