"""Real workers, in processes of their own, that do the jobs of `quick`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.making import TESTS, processes, wait_until

from ram_backend.jobs.processes import Worker
from ram_backend.jobs.table import JobTable
from ram_backend.settings import Settings

PROGRAM = """
import sys
from ram_backend.worker.logs import configure_logging
from ram_backend.worker.main import work
from ram_backend.settings import Settings
settings = Settings.model_validate_json(sys.argv[1])
configure_logging("info")
functions = {"train": sys.argv[2], "refresh": "jobs.quick:sleep", "prelabel": "ram_backend.worker.prelabel:prelabel"}
work(settings, functions=functions, with_parent=True)
"""


class RunningWorker:
    """A worker process; `log` is what it says."""

    def __init__(self, settings: Settings, function: str = "sleep") -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        settings = settings.model_copy(update={"tuning": "off"})
        self.log = settings.data_dir / "worker.log"
        self.settings = settings
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROGRAM, settings.model_dump_json(), f"jobs.quick:{function}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

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


def horses(table: JobTable) -> list[int]:
    """The processes that do jobs now, as the rows say."""
    found = []
    for job in table.jobs():
        worker = Worker.parse(job.worker or "") if job.state == "running" else None
        if worker is not None and not worker.is_known_dead:
            found.append(worker.processes[1][0])
    return found


def no_horse_is_left() -> None:
    """All processes that did jobs for workers of this test process have ended."""
    wait_until(lambda: not processes("ram_backend.worker.job_process"))


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def busy(settings: Settings) -> Path:
    """Jobs are being done until this file is removed."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    file = settings.data_dir / "busy"
    file.touch()
    return file
