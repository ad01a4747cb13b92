"""Real workers, in processes of their own, that do the jobs of `quick`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.jobs import TESTS
from support.processes import processes, wait_until

from ram_backend.jobs.queue import JobQueue
from ram_backend.settings import Settings

PROGRAM = """
from ram_backend.settings import load_settings
from ram_backend.worker.main import configure_logging, work
from worker.quick import QuickWorker
configure_logging("info")
work(load_settings(), with_parent=True, worker=QuickWorker)
"""


class RunningWorker:
    """A worker process; `log` is what it says."""

    def __init__(self, settings: Settings, function: str = "sleep") -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.log = settings.data_dir / "worker.log"
        self.settings = settings.model_copy(update={"tuning": "off"})
        paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        own = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "QUICK_FUNCTION": function}
        environment = {**os.environ, **self.settings.environment(), **own}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        """As the machine does when memory runs out."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As people do."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(60)


@contextmanager
def working(settings: Settings, function: str = "sleep") -> Iterator[RunningWorker]:
    worker = RunningWorker(settings, function)
    try:
        yield worker
    finally:
        (settings.data_dir / "busy").unlink(missing_ok=True)
        if worker.process.poll() is None:
            worker.stop()


def job_processes(queue: JobQueue) -> list[int]:
    """The processes that do jobs now, as the rows say."""
    found = [int((job.worker or "0").rpartition("/")[2]) for job in queue.jobs() if job.state == "running"]
    return [pid for pid in found if pid in processes("do_job")]


def none_is_left() -> None:
    """All processes that did jobs for workers of the tests have ended."""
    wait_until(lambda: not processes("worker.quick import do_job"))


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def busy(settings: Settings) -> Path:
    """Jobs are being done until this file is removed."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    file = settings.data_dir / "busy"
    file.touch()
    return file
