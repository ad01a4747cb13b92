"""`ram-backend train`, `jobs` and `worker`: what people are told."""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.commands import connect, json_lines, run
from support.jobs import claimed
from support.processes import processes, wait_until

from ram_backend.errors import InputError, NotAvailable
from ram_backend.jobs.job import JobResult
from ram_backend.jobs.table import JobTable
from ram_backend.projects.keys import ProjectKey

KEY = ProjectKey("http://localhost:8080", 7, 70)
OTHER = ProjectKey("http://localhost:8080", 8, 80)


@pytest.fixture
def queue() -> JobTable:
    connect(OTHER)
    return JobTable(connect(KEY))


def work(queue: JobTable, outcome: JobResult | None, message: str = "") -> None:
    """Does the next job, as soon as there is one."""
    wait_until(queue.due)
    claim = claimed(queue, queue.due()[0].id)
    if outcome is None:
        queue.fail(claim, message, retry=False)
    else:
        queue.finish(claim, outcome)


def test_train_asks_once(queue: JobTable) -> None:
    first, second = run("train", 7), run("train", 7, "--reason", "again")
    (job,) = queue.jobs()
    assert f"is queued as job {job.short}" in first
    assert f"was requested already as job {job.short}" in second
    assert (job.key, job.reason) == (KEY, "asked for on the command line")


def test_train_waits_and_says_what_came_of_it(queue: JobTable) -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(work, queue, JobResult("v0001 is served. It ranks better."))
        assert "v0001 is served. It ranks better." in run("train", 7, "--wait")
        pool.submit(work, queue, None, "Nothing to tag.")
        with pytest.raises(NotAvailable, match="failed: Nothing to tag"):
            run("train", 7, "--wait")


def test_what_is_waited_for_began_after_the_question(queue: JobTable) -> None:
    claim = claimed(queue, queue.request(KEY, "train", "30 corrections").job.id)
    with ThreadPoolExecutor() as pool:
        said = pool.submit(run, "train", 7, "--wait")
        wait_until(lambda: queue.jobs()[0].rerun_reason)
        queue.finish(claim, JobResult("v0001 is kept: 30 photos."))
        work(queue, JobResult("v0002 is served: 60 photos."))
        assert "was running already" in said.result()
        assert "v0002 is served: 60 photos." in said.result()
        assert "v0001" not in said.result()


def test_jobs_are_listed(queue: JobTable) -> None:
    assert "No jobs yet" in run("jobs")
    job = queue.request(KEY, "train", "Start Training was pressed").job
    queue.request(OTHER, "refresh", "v0003 is served")
    claim = claimed(queue, job.id)
    queue.heartbeat(claim, "fit", 3, 12)
    assert {row["kind"] for row in json_lines("jobs", "--json")} == {"train", "refresh"}
    (row,) = json_lines("jobs", 7, "--json")
    assert (row["state"], row["stage"], row["step"], row["steps"]) == ("running", "fit", 3, 12)
    assert "fit 3/12" in run("jobs", 7)
    assert row["verdict"] is None
    queue.finish(claim, JobResult("v0001 is kept.", {"verdict": {"outcome": "needs_data"}}))
    assert [part for part in ("done: needs data", "v0001 is kept.") if part not in run("jobs")] == []


@pytest.mark.service
def test_serve_with_a_worker(with_starter: object, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Both end together; a worker that is killed is started again."""
    command = [sys.executable, "-m", "ram_backend", "serve", "--port", "0", "--with-worker"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        assert re.search(r"serves http://\S+", process.stdout.readline())
        first = _worker_of(process.pid)
        os.kill(first, signal.SIGKILL)
        second = _worker_of(process.pid, but=first)
    finally:
        process.terminate()
        process.communicate(timeout=300)
    assert process.returncode == 0
    wait_until(lambda: second not in processes("ram_backend worker"), 300)


def _worker_of(server: int, but: int | None = None) -> int:
    workers = list[int]()

    def look() -> list[int]:
        command = ["ps", "--ppid", str(server), "-o", "pid=,args="]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        workers[:] = [int(pid) for pid in re.findall(r"^ *(\d+) .*ram_backend worker", listed, re.M) if int(pid) != but]
        return workers

    wait_until(look, 300)
    return workers[0]


def test_schedules_are_set_listed_and_removed(queue: JobTable) -> None:
    assert "Nothing is scheduled" in run("schedule", "list", 7)
    assert "train at " in run("schedule", "set", 7, "train", "30 3 * * 1-5", "--zone", "Europe/Berlin")
    run("schedule", "set", 7, "reconcile", "0 * * * *")
    first, second = json_lines("schedule", "list", 7, "--json")
    assert (first["kind"], second["kind"]) == ("reconcile", "train")
    assert (second["cron"], second["zone"]) == ("30 3 * * 1-5", "Europe/Berlin")
    assert second["due"].endswith("+00:00")
    assert "30 3 * * 1-5  Europe/Berlin" in run("schedule", "list", 7)
    run("schedule", "remove", 7, "train")
    assert [each["kind"] for each in json_lines("schedule", "list", 7, "--json")] == ["reconcile"]
    with pytest.raises(InputError, match="no schedule of 'train'"):
        run("schedule", "remove", 7, "train")
