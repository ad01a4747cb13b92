"""The process that waits for jobs, and starts a process for each.

RQ's `SpawnWorker` does the waiting; what differs here is how the other process is told what to do, and that nothing
ends where the queue goes away for a while.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from rq import Queue, SpawnWorker
from rq.executions import Execution
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer

from ram_backend.database.engine import open_database
from ram_backend.database.migrate import upgrade
from ram_backend.jobs.dispatch import QUEUES, connect
from ram_backend.jobs.job import Kind
from ram_backend.jobs.valkey import Valkey
from ram_backend.settings import Settings
from ram_backend.worker.maintenance import Caretaker
from ram_backend.worker.orders import FUNCTIONS, Orders

if TYPE_CHECKING:
    from redis import Redis

MONITORING_S = 5
"""So often a worker tells the queue that its job is still being done."""

AGAIN_S = 1.0
_log = logging.getLogger(__name__)


@dataclass
class Told:
    """What signals have said. An `Event` would have a lock, which a handler may find held by its own thread."""

    to_stop: bool = False


class JobWorker(SpawnWorker):  # type: ignore[misc]
    """One life of a worker: it ends where the queue goes away at the wrong moment, and another one follows.

    Attributes:
        settings: with the queue's address.
        functions: see `orders.FUNCTIONS`.
        told: of signals to the process.
    """

    max_connection_wait_time = 2.0

    def __init__(self, connection: Redis, settings: Settings, functions: Mapping[Kind, str], told: Told) -> None:
        queues = list(QUEUES.values())
        super().__init__(queues, connection=connection, serializer=JSONSerializer, job_monitoring_interval=MONITORING_S)
        self.settings = settings
        self.functions = functions
        self.told = told

    def fork_work_horse(self, job: QueuedJob, queue: Queue) -> None:
        """Starts the process that does a job, and hands it its orders through a pipe."""
        job.timeout = self.settings.job_timeout_seconds  # a job ends itself; RQ kills one that is a minute late
        execution = self.execution
        orders = Orders(
            *(self.settings, self.functions, os.getpid()),
            self.name,
            job.id,
            execution.id if execution else "",
            queue.name,
        )
        reading, writing = os.pipe()
        try:
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                pipe.write(orders.to_json())  # far less than a pipe holds
            command = [sys.executable, "-m", "ram_backend.worker.job_process"]
            actions = [(os.POSIX_SPAWN_DUP2, reading, 0)]
            self._horse_pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setpgroup=0)
        finally:
            os.close(reading)

    def maintain_heartbeats(self, job: QueuedJob, execution: Execution) -> None:
        """Tells the queue that the job is still being done, if the queue is there."""
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            _log.debug("no sign of life to the queue: %s", error)

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Ends the process: at once where it only waits, else when its job is done."""
        self.told.to_stop = True
        super().request_stop(number, frame)

    def register_death(self) -> None:
        """Signs off, if the queue is there."""
        try:
            super().register_death()
        except RedisError as error:
            _log.debug("not signed off: %s", error)


def work(settings: Settings, *, functions: Mapping[Kind, str] | None = None, with_parent: bool = False) -> None:
    """Does jobs until SIGTERM or SIGINT; a job that is being done is ended first, unless a second signal comes.

    Args:
        settings: of the worker.
        functions: what does each kind of job; None: `orders.FUNCTIONS`.
        with_parent: end, too, when the process that started this one has ended.

    Raises:
        SettingsError, DatabaseUnavailable: see the message.
        ValkeyUnavailable: the data folder's own queue can't be started.
    """
    database = open_database(settings)
    upgrade(database)
    told = Told()
    with Valkey(settings) as valkey, Caretaker(settings, database, valkey, with_parent=with_parent):
        while not told.to_stop:
            _listen_for_signals(told)
            try:
                own = settings.model_copy(update={"redis_url": valkey.url})
                with connect(valkey.url, None) as connection:
                    JobWorker(connection, own, functions or FUNCTIONS, told).work(logging_level="WARNING")
            except RedisError as error:
                _log.warning("The queue of jobs doesn't answer (%s); trying again.", type(error).__name__)
            _listen_for_signals(told)
            if not told.to_stop:
                time.sleep(AGAIN_S)
    database.close()


def do_job(orders: Orders) -> None:
    """Does the job of the orders in this process, and ends it."""
    with connect(orders.settings.redis_url or "", None) as connection:
        worker = JobWorker(connection, orders.settings, orders.functions, Told())
        worker.name = orders.name
        job = QueuedJob.fetch(orders.job, connection=connection, serializer=JSONSerializer)
        execution = Execution.fetch(orders.execution, orders.job, connection=connection)
        execution._job = job
        worker.execution = execution
        worker.main_work_horse(job, Queue(orders.queue, connection=connection, serializer=JSONSerializer))


def _listen_for_signals(told: Told) -> None:
    def stop(_number: int, _frame: Any) -> None:
        told.to_stop = True

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
