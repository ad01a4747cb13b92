"""The RQ worker: a process per job, and a thread that requests due trainings and queues due jobs.

It is RQ's `SpawnWorker`, but keeps the queue's password off the command line of
the process, and outlives a queue that goes away for a while.

RQ carries the ids of due jobs and nothing else. An id may be queued twice, or
be lost: the worker that claims the row does the job, any other finds nothing to
do, and an id that nobody claims is sent again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from math import ceil
from pathlib import Path
from types import FrameType
from typing import ClassVar

from redis.exceptions import RedisError
from rq import Queue, SpawnWorker
from rq.executions import Execution
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer

from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import DatabaseUnavailable, RamError
from ram_backend.jobs.job import QUEUES, Job
from ram_backend.jobs.service import JobService
from ram_backend.jobs.valkey import Valkey, connect
from ram_backend.logs import configure
from ram_backend.periodic import PeriodicThread
from ram_backend.settings import Settings, load_settings

ROUND_S = 0.5
"""Pause between two rounds of maintenance."""

MONITORING_S = 5
RETRY_S = 1.0
FUNCTION = "ram_backend.worker.run_job.run_job"
_RESULT_S = 3600
NICENESS, OOM_SCORE = 10, 500
"""Of a job's process: a server goes first, and the job ends for want of memory."""
_QUEUES = list(QUEUES.values())
_log = logging.getLogger(__name__)


class Maintenance(PeriodicThread):
    """Expires leases, requests trainings and scheduled jobs, sends due jobs.

    Args:
        valkey: the queue, which is started again where it is our own and has
            ended.
        with_parent: ends the worker when the process that started it has ended.
    """

    def __init__(self, settings: Settings, database: Database, valkey: Valkey, *, with_parent: bool = False) -> None:
        super().__init__("maintenance", ROUND_S)
        self._settings = settings
        self._service = JobService(settings, database)
        self._valkey = valkey
        self._parent = os.getppid() if with_parent else None
        self._count_at = 0.0
        self._no_expiry_until = 0.0  # after an absence of the database
        self._problem = ""

    def tick(self) -> bool:
        """One round, whatever fails; False: the parent has ended."""
        problem = ""
        try:
            if time.monotonic() >= self._no_expiry_until:
                for job in self._service.table.expire():
                    _log.warning("job %s of project %s: %s", job.id, job.key, job.message)
            if time.monotonic() >= self._count_at:
                self._count_at = time.monotonic() + self._settings.train_debounce_seconds
                self._service.request_due_trainings()
            if (due := self._service.table.due()) and self._valkey.revive():
                self._dispatch(due)
            self._service.schedules.request_due()
        except Exception as error:
            problem, is_ours = repr(error), isinstance(error, RamError)
            if isinstance(error, DatabaseUnavailable):
                self._no_expiry_until = time.monotonic() + self._settings.lease_seconds
            if problem != self._problem:
                _log.warning("%s", error if is_ours else "A round of maintenance failed.", exc_info=not is_ours)
        self._problem = problem
        if self._parent in (None, os.getppid()):
            return True
        _log.info("The process that started this worker has ended: so does the worker.")
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    def _dispatch(self, jobs: Iterable[Job]) -> None:
        """Puts the ids of jobs into their queues, again after the time of a lease.

        That a job was sent is recorded beside the queues, so that a server that
        loses its memory forgets both.
        """
        with connect(self._valkey.url) as connection:
            for job in jobs:
                number = f"{job.id}-{job.fence}"
                again_s = ceil(self._settings.lease_seconds)
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


class JobWorker(SpawnWorker):  # type: ignore[misc]
    """An RQ worker; `work` starts another one where the queue went away.

    Attributes:
        child: module whose `do_job` is called in the process of a job.
        stopped: numbers of the signals that have asked this process to end.
    """

    child = "ram_backend.worker.main"
    stopped: ClassVar[list[int]] = []  # an `Event` could deadlock with its own signal
    max_connection_wait_time = 2.0

    def fork_work_horse(self, job: QueuedJob, queue: Queue) -> None:
        """Starts the process of a job, with settings and RQ's numbers in the environment."""
        execution = self.execution.id if self.execution else ""
        numbers = {"RQ_WORKER_ID": self.name, "RQ_JOB_ID": job.id, "RQ_EXECUTION_ID": execution}
        command = [sys.executable, "-c", f"from {self.child} import do_job; do_job()"]
        self._horse_pid = os.posix_spawn(sys.executable, command, {**os.environ, **numbers}, setpgroup=0)

    def maintain_heartbeats(self, job: QueuedJob, execution: Execution) -> None:
        """Renews RQ's own heartbeat, if the queue answers."""
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            _log.debug("no heartbeat to the queue: %s", error)

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()
        self._stop_requested = bool(self.stopped)  # by an earlier signal

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Ends the process: at once where it waits, else when its job is done."""
        self.stopped.append(number)
        super().request_stop(number, frame)


def work(settings: Settings, *, with_parent: bool = False, worker: type[JobWorker] = JobWorker) -> None:
    """Does jobs until SIGTERM or SIGINT; a second signal ends a running job.

    `with_parent`: ends, too, when the process that started this one has ended.
    NotAvailable: our own queue can't be started.
    """
    database = open_migrated(settings)
    with Valkey(settings) as valkey, Maintenance(settings, database, valkey, with_parent=with_parent):
        os.environ |= settings.model_copy(update={"redis_url": valkey.url}).environment()  # for jobs
        while not worker.stopped:
            for number in (signal.SIGINT, signal.SIGTERM):  # RQ has its own while it works
                signal.signal(number, lambda number, _frame: worker.stopped.append(number))
            try:
                with connect(valkey.url, None) as connection:
                    options = {"serializer": JSONSerializer, "job_monitoring_interval": MONITORING_S}
                    worker(_QUEUES, connection=connection, **options).work(logging_level="WARNING")
            except RedisError as error:
                _log.warning("The queue of jobs doesn't answer (%s); trying again.", type(error).__name__)
            if not worker.stopped:  # RQ may end without an error
                time.sleep(RETRY_S)


def do_job() -> None:
    """Does the job that the environment names."""
    os.nice(NICENESS)
    with suppress(OSError):  # no Linux
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    with connect(settings.redis_url or "", None) as connection:
        worker = JobWorker(_QUEUES, connection=connection, serializer=JSONSerializer)
        worker.name = os.environ["RQ_WORKER_ID"]
        job = QueuedJob.fetch(os.environ["RQ_JOB_ID"], connection=connection, serializer=JSONSerializer)
        worker.execution = Execution.fetch(os.environ["RQ_EXECUTION_ID"], job.id, connection=connection)
        worker.main_work_horse(job, Queue(job.origin, connection=connection, serializer=JSONSerializer))
