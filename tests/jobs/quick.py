"""What processes of the tests do as jobs: imported by work horses."""

from __future__ import annotations

import time
from contextlib import suppress

from server.playing import ColourNetwork, tiny_bundle

from ram_backend.gate.verdict import Verdict
from ram_backend.jobs.job import Outcome
from ram_backend.worker import train as training_job
from ram_backend.worker import training_data as scoring
from ram_backend.worker.run_job import Task


def sleep(task: Task) -> Outcome:
    """Works while there is a file `busy` in the data folder."""
    last_event = task.triggers.ledger.last_event(task.claim.key)
    step = 0
    while (task.settings.data_dir / "busy").exists():
        task.pulse("sleep", step, step + 1)
        step += 1
        time.sleep(0.02)
    return Outcome("slept", {}, last_event)


def endless(task: Task) -> Outcome:
    """Never ends, and doesn't listen."""
    while True:
        time.sleep(0.1)


def learn(task: Task) -> Outcome | None:
    """The real training job, with a network that is computed by hand and a gate that takes everything.

    The gate waits while there is a file `busy` in the data folder.
    """

    def judge(*_args: object, **_named: object) -> Verdict:
        while (task.settings.data_dir / "busy").exists():
            time.sleep(0.02)
        return Verdict("accept", "Anything goes.")

    training_job.find_bundle = lambda *_, **__: tiny_bundle()  # type: ignore[assignment]
    training_job.load_network = lambda *_, **__: ColourNetwork()  # type: ignore[assignment]
    scoring.tag_embeddings = lambda *_: None  # type: ignore[assignment]
    training_job.refuse_before_fitting = lambda *_, **__: None  # type: ignore[assignment]
    training_job.judge_candidate = judge  # type: ignore[assignment]
    return training_job.train(task)


def deaf(task: Task) -> Outcome:
    """Never ends, and makes nothing of exceptions that others raise in it."""
    while True:
        with suppress(Exception):
            time.sleep(0.1)
