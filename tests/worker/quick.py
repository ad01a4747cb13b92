"""What workers of the tests do as jobs: imported by the processes of jobs."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from support.tiny_model import ColourNetwork, tiny_bundle

from ram_backend.gate.judge import Verdict
from ram_backend.jobs.job import JobResult
from ram_backend.worker import main, run_job
from ram_backend.worker import scorer as scoring
from ram_backend.worker import train as training_job
from ram_backend.worker.run_job import JobContext


class QuickWorker(main.JobWorker):
    child = "worker.quick"


def do_job() -> None:
    """Trainings are done by the function that the environment names."""
    run_job.FUNCTIONS["train"] = f"worker.quick:{os.environ['QUICK_FUNCTION']}"
    run_job.FUNCTIONS["refresh"] = "worker.quick:sleep"
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
    """Never ends, and doesn't listen."""
    while True:
        time.sleep(0.1)


def learn(context: JobContext) -> JobResult | None:
    """The real training job, with a network that is computed by hand and a gate that takes everything.

    The gate waits while there is a file `busy` in the data folder.
    """

    def judge(*_args: object, **_named: object) -> Verdict:
        while (context.settings.data_dir / "busy").exists():
            time.sleep(0.02)
        return Verdict("accept", "Anything goes.")

    training_job.find_bundle = lambda *_, **__: tiny_bundle()  # type: ignore[assignment]
    training_job.load_network = lambda *_, **__: ColourNetwork()  # type: ignore[assignment]
    scoring.tag_embeddings = lambda *_: None  # type: ignore[assignment]
    training_job.refuse_before_fitting = lambda *_, **__: None  # type: ignore[assignment]
    training_job.judge_candidate = judge  # type: ignore[assignment]
    return training_job.train(context)


def deaf(context: JobContext) -> JobResult:
    """Never ends, and makes nothing of exceptions that others raise in it."""
    while True:
        with suppress(Exception):
            time.sleep(0.1)
