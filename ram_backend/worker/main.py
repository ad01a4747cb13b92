"""The RQ worker: waits for jobs, and starts a process for each.

RQ's `SpawnWorker` does the waiting. What differs here is how the process is started (RQ would write the queue's address
into its command line, password included), and that nothing ends where the queue goes away for a while.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from functools import partial
from types import FrameType
from typing import ClassVar

from redis.exceptions import RedisError
from rq import Queue, SpawnWorker
from rq.executions import Execution
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer

from ram_backend.database.migrate import open_migrated
from ram_backend.errors import DatabaseUnavailable
from ram_backend.jobs.job import QUEUES
from ram_backend.jobs.queue import JobQueue
from ram_backend.jobs.valkey import Valkey, connect
from ram_backend.logs import LogFormat, configure
from ram_backend.settings import Settings, load_settings
from ram_backend.worker.maintenance import Maintenance
from ram_backend.worker.run_job import worker_name

MONITORING_S = 5
"""So often a worker tells the queue that its job is still being done."""

AGAIN_S = 1.0
_QUEUES = list(QUEUES.values())
_log = logging.getLogger(__name__)


class JobWorker(SpawnWorker):  # type: ignore[misc]
    """One life of a worker: it ends where the queue goes away at the wrong moment, and another one follows.

    Attributes:
        child: module whose `do_job` is called in the process of a job.
        stopped: numbers of the signals that have asked this process to end.
    """

    child = "ram_backend.worker.main"
    stopped: ClassVar[list[int]] = []  # the lock of an `Event` may be held by the very thread that a signal interrupts
    max_connection_wait_time = 2.0

    def fork_work_horse(self, job: QueuedJob, queue: Queue) -> None:
        """Starts the process that does a job; it reads its settings and RQ's numbers from its environment."""
        execution = self.execution.id if self.execution else ""
        numbers = {"RQ_WORKER_ID": self.name, "RQ_JOB_ID": job.id, "RQ_EXECUTION_ID": execution}
        command = [sys.executable, "-c", f"from {self.child} import do_job; do_job()"]
        self._horse_pid = os.posix_spawn(sys.executable, command, {**os.environ, **numbers}, setpgroup=0)

    def maintain_heartbeats(self, job: QueuedJob, execution: Execution) -> None:
        """Tells the queue that the job is still being done, if the queue is there."""
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            _log.debug("no heartbeat to the queue: %s", error)

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()
        self._stop_requested = bool(self.stopped)  # by a signal that came before these handlers

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Ends the process: at once where it only waits, else when its job is done."""
        self.stopped.append(number)
        super().request_stop(number, frame)


def work(settings: Settings, *, with_parent: bool = False, worker: type[JobWorker] = JobWorker) -> None:
    """Does jobs until SIGTERM or SIGINT; a job that is being done is ended first, unless a second signal comes.

    Args:
        settings: of the worker.
        with_parent: end, too, when the process that started this one has ended.
        worker: class of the worker.

    Raises:
        SettingsError, DatabaseUnavailable: see the message.
        ValkeyUnavailable: the data folder's own queue can't be started.
    """
    database = open_migrated(settings)
    killed = partial(_on_killed, JobQueue.of(settings, database))
    with Valkey(settings) as valkey, Maintenance(settings, database, valkey, with_parent=with_parent):
        os.environ |= settings.model_copy(update={"redis_url": valkey.url}).environment()  # for the processes of jobs
        while not worker.stopped:
            for number in (signal.SIGINT, signal.SIGTERM):  # RQ's own ones are in place while it works
                signal.signal(number, lambda number, _frame: worker.stopped.append(number))
            try:
                with connect(valkey.url, None) as connection:
                    options = {"job_monitoring_interval": MONITORING_S, "work_horse_killed_handler": killed}
                    worker(_QUEUES, connection=connection, serializer=JSONSerializer, **options).work(
                        logging_level="WARNING"
                    )
                    return
            except RedisError as error:
                _log.warning("The queue of jobs doesn't answer (%s); trying again.", type(error).__name__)
                time.sleep(AGAIN_S)


def do_job() -> None:
    """Does the job that the environment names in this process, and ends it."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    with connect(settings.redis_url or "", None) as connection:
        worker = JobWorker(_QUEUES, connection=connection, serializer=JSONSerializer)
        worker.name = os.environ["RQ_WORKER_ID"]
        job = QueuedJob.fetch(os.environ["RQ_JOB_ID"], connection=connection, serializer=JSONSerializer)
        worker.execution = Execution.fetch(os.environ["RQ_EXECUTION_ID"], job.id, connection=connection)
        worker.main_work_horse(job, Queue(job.origin, connection=connection, serializer=JSONSerializer))


def configure_logging(level: str, log_format: LogFormat = "text") -> None:
    """Sends log lines of workers and of their jobs to standard error, each with the request that asked for the job.

    Args:
        level: "debug", "info", "warning" or "error"; libraries say warnings and errors only.
        log_format: "text" for people, "json" for programs.
    """
    configure(level, log_format, who="worker %(process)d %(request_id)s")
    for name in ("rq.worker", "rq.job"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _on_killed(queue: JobQueue, job: QueuedJob, pid: int | None, *_: object) -> None:
    """A job whose process was killed needn't wait until its lease runs out."""
    try:
        for each in queue.expire((str(job.args[0]), worker_name(pid or 0))):
            _log.warning("job %s of project %s: %s", each.id, each.key, each.message)
    except DatabaseUnavailable as error:
        _log.warning("%s", error)
