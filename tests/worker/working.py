"""Real workers in processes of their own, what they do as jobs, and who kills them."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.jobs import TESTS
from support.processes import wait_until

from ram_backend.jobs.job import JobResult
from ram_backend.jobs.table import JobTable
from ram_backend.settings import Settings
from ram_backend.worker import main, run_job
from ram_backend.worker.run_job import JobContext

KILLS = 30
PROGRAM = """
from ram_backend.logs import configure
from ram_backend.settings import load_settings
from ram_backend.worker.main import work
from worker.working import QuickWorker
configure("info")
work(load_settings(), with_parent=True, worker=QuickWorker)
"""


class QuickWorker(main.JobWorker):
    child = "worker.working"


def do_job() -> None:
    """In the process of a job: trainings are done by the function that the environment names."""
    from ram_backend.jobs import table
    from ram_backend.worker import prelabel

    prelabel.WAITING_S = 10.0  # the tests' Label Studio answers within a second
    table.BACKOFF_S = (0.1, 1.0)
    run_job.FUNCTIONS["train"] = f"worker.working:{os.environ['QUICK_FUNCTION']}"
    run_job.FUNCTIONS |= {"refresh": "worker.working:sleep", "engine": "worker.working:look"}
    main.do_job()


def sleep(context: JobContext) -> JobResult:
    """Works while there is a file `busy` in the data folder."""
    last_event = context.service.ledger.last_event(context.key)
    step = 0
    while (context.settings.data_dir / "busy").exists():
        context.heartbeat("sleep", step, step + 1)
        step += 1
        time.sleep(0.02)
    return JobResult("slept", {}, last_event)


def endless(context: JobContext) -> JobResult:
    """Never ends, and catches every exception."""
    while True:
        with suppress(Exception):
            time.sleep(0.1)


def learn(context: JobContext) -> JobResult | None:
    """The real training job, with a network that is computed by hand and a gate that takes everything."""
    from support.tiny_model import ColourNetwork, tiny_bundle

    from ram_backend.gate.judge import Verdict
    from ram_backend.worker import train, training_set

    train.find_bundle = lambda *_, **__: tiny_bundle()
    train.load_network = lambda *_, **__: ColourNetwork()
    training_set.tag_embeddings = lambda *_: None
    train.refuse_before_fitting = lambda *_, **__: None
    train.judge_candidate = lambda *_, **__: Verdict("accept", "Anything goes.")
    return train.train(context)


def look(context: JobContext) -> JobResult:
    """The real engine job, with a slow network that is computed by hand, and small portions."""
    from support.tiny_model import ColourNetwork, tiny_bundle

    from ram_backend.engine import run
    from ram_backend.worker import engine

    run.PORTION = 8
    engine.find_bundle = lambda *_, **__: tiny_bundle()
    engine.load_network = lambda *_, **__: ColourNetwork(seconds=0.1)
    return engine.engine(context)


class RunningWorker:
    """A worker process; its output goes to `worker.log` in the data folder."""

    def __init__(self, settings: Settings, function: str = "sleep") -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        own = settings.model_copy(update={"tuning": "off"}).environment()
        own |= {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **own, "QUICK_FUNCTION": function}
        with (settings.data_dir / "worker.log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        """As the machine does when memory runs out."""
        self.process.kill()
        self.process.wait()


@contextmanager
def working(settings: Settings, function: str = "sleep") -> Iterator[RunningWorker]:
    worker = RunningWorker(settings, function)
    try:
        yield worker
    finally:
        (settings.data_dir / "busy").unlink(missing_ok=True)
        worker.process.terminate()
        worker.process.wait(300)


def kill_at_random(
    settings: Settings, table: JobTable, chance: random.Random, function: str = "sleep", *, between_jobs: bool = False
) -> None:
    """Kills thirty times a worker, its job's process, or both; each sixth time at any moment if `between_jobs`."""
    worker: RunningWorker | None = None
    try:
        for number in range(KILLS):
            if worker is None or worker.process.poll() is not None:
                worker = RunningWorker(settings, function)
            victim = chance.choice(("worker", "job", "both"))
            if between_jobs and number % 6 == 0:
                time.sleep(chance.uniform(0, 2))
            else:
                wait_until(lambda: job_processes(table), pause_s=0.05)
                time.sleep(chance.uniform(0, 0.5))
            for pid in job_processes(table) if victim != "worker" else ():
                kill(pid)
            if victim != "job":
                worker.kill()
    finally:
        if worker is not None:
            worker.kill()
        for pid in job_processes(table):
            kill(pid)


def job_processes(table: JobTable) -> list[int]:
    """The processes that do jobs now, as the rows say."""
    found = [int((job.worker or "0").rpartition("/")[2]) for job in table.jobs() if job.state == "running"]
    return [pid for pid in found if _does_a_job(pid)]


def _does_a_job(pid: int) -> bool:
    with suppress(OSError):
        return b"do_job" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def busy(settings: Settings) -> Path:
    """Jobs are being done until this file is removed."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    file = settings.data_dir / "busy"
    file.touch()
    return file
