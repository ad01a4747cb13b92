"""`ram-backend train`, `jobs` and `worker`: what people are told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.processes import wait_until
from typer.testing import CliRunner

from ram_backend.cli.jobs import progress_of
from ram_backend.cli.main import app
from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import NotAvailable
from ram_backend.jobs.job import JobResult
from ram_backend.jobs.queue import JobQueue
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import load_settings

KEY = ProjectKey("http://localhost:8080", 7, 70)
OTHER = ProjectKey("http://localhost:8080", 8, 80)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def database() -> Database:
    there = open_migrated(load_settings())
    for key in (KEY, OTHER):
        ProjectTable(there).apply(Setup.read(key, label_config="<View/>", access_token=None, extra_params=None))
    return there


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database)


def work(queue: JobQueue, outcome: JobResult | None, message: str = "") -> None:
    """Does the next job, as soon as there is one."""
    wait_until(queue.due)
    claim = queue.claim(queue.due()[0].id, "here/1")
    assert claim is not None
    if outcome is None:
        queue.fail(claim, message, retry=False)
    else:
        queue.finish(claim, outcome)


def test_train_asks_once(queue: JobQueue) -> None:
    first, second = run("train", 7), run("train", 7, "--reason", "again")
    (job,) = queue.jobs()
    assert f"is queued as job {job.id}" in first
    assert f"was requested already as job {job.id}" in second
    assert (job.key, job.reason) == (KEY, "asked for on the command line")


def test_train_waits_and_says_what_came_of_it(queue: JobQueue) -> None:
    worker = threading.Thread(target=work, args=(queue, JobResult("v0001 is served. It ranks better.")))
    worker.start()
    assert "v0001 is served. It ranks better." in run("train", 7, "--wait")
    worker.join()


def test_train_that_fails_is_an_error(queue: JobQueue) -> None:
    worker = threading.Thread(target=work, args=(queue, None, "Nothing to tag."))
    worker.start()
    with pytest.raises(NotAvailable, match="failed: Nothing to tag"):
        run("train", 7, "--wait")
    worker.join()


def test_jobs_lists_none(database: Database) -> None:
    assert "No jobs yet" in run("jobs")


def test_jobs_as_json(queue: JobQueue) -> None:
    job = queue.request(KEY, "train", "Start Training was pressed").job
    queue.request(OTHER, "refresh", "v0003 is served")
    claim = queue.claim(job.id, "here/1")
    assert claim is not None
    queue.heartbeat(claim, "fit", 3, 12)
    rows = [json.loads(line) for line in run("jobs", "--json").splitlines()]
    assert {row["kind"] for row in rows} == {"train", "refresh"}
    (row,) = [json.loads(line) for line in run("jobs", "--project", 7, "--json").splitlines()]
    assert (row["state"], row["stage"], row["step"], row["steps"]) == ("running", "fit", 3, 12)
    assert progress_of(row) == "fit 3/12"
    assert row["verdict"] is None


def test_jobs_as_a_table(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    queue.request(KEY, "train", "Start Training was pressed")
    work(queue, JobResult("v0001 is kept.", {"verdict": {"outcome": "needs_data"}}))
    text = run("jobs")
    assert "done: needs data" in text
    assert "v0001 is kept." in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "requested"}, "waiting for a worker"),
        ({"state": "requested", "attempt": 2}, "waiting after attempt 2"),
        ({"state": "running"}, "beginning"),
        ({"state": "running", "stage": "fit"}, "fit"),
        ({"state": "failed"}, "failed"),
        ({"state": "done", "verdict": "accept"}, "done: accept"),
    ],
)
def test_progress_in_words(changes: dict[str, object], said: str) -> None:
    job = {"state": "", "attempt": 0, "stage": None, "step": 0, "steps": 0, "verdict": None, **changes}
    assert progress_of(job) == said


@pytest.mark.service
def test_worker_starts_and_stops(database: Database) -> None:
    command = [sys.executable, "-m", "ram_backend", "worker"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "waits for jobs" in process.stdout.readline()
    wait_until(lambda: _handles(process.pid, signal.SIGTERM))
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Worker stopped." in said


@pytest.mark.service
def test_serve_with_a_worker(with_starter: object, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Both end together; a worker that is killed is started again."""
    command = [sys.executable, "-m", "ram_backend", "serve", "--port", "0", "--with-worker"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        assert re.search(r"serves http://\S+", process.stdout.readline())
        first = _child(process.pid)
        os.kill(first, signal.SIGKILL)
        second = _child(process.pid, but=first)
    finally:
        process.terminate()
        process.communicate(timeout=300)
    assert process.returncode == 0
    wait_until(lambda: not _lives(second))


def _child(parent: int, but: int | None = None) -> int:
    """The worker that a server has started."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        asked = subprocess.run(["ps", "--ppid", str(parent), "-o", "pid=,args="], capture_output=True, text=True)  # noqa: PLW1510
        for line in asked.stdout.splitlines():
            pid, _, words = line.strip().partition(" ")
            if "ram_backend worker" in words and int(pid) != but:
                return int(pid)
        time.sleep(0.05)
    raise AssertionError("there is no worker")


def _handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
