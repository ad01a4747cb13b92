"""`ram-backend prelabel`: here, by a worker, stopped and gone on with."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from support import commands
from support.jobs import CONFIG, claimed
from support.label_studio import LEGACY, VERSION, FakeLabelStudio

from ram_backend.errors import NotAvailable
from ram_backend.jobs.job import JobOptions, JobResult
from ram_backend.jobs.table import JobTable
from ram_backend.worker import prelabel as prelabelling


def run(*arguments: object, status: int = 0) -> str:
    return commands.run("prelabel", 7, *arguments, status=status)


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLabelStudio]:
    monkeypatch.setattr(prelabelling, "LOOK_S", 0.02)
    with FakeLabelStudio.with_tasks(30) as there:
        monkeypatch.setenv("LABEL_STUDIO_URL", there.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
        yield there


@pytest.fixture
def queue(studio: FakeLabelStudio) -> JobTable:
    return JobTable(commands.connect(studio.key, CONFIG))


def test_here(studio: FakeLabelStudio, queue: JobTable) -> None:
    for number in range(1, 6):
        studio.annotate(number, number, "red")
    said = run()
    assert f"25 tasks have got their prediction of {VERSION}" in said
    assert studio.counts() == {0: 5, 1: 25}
    assert studio.connected[0]["title"] == VERSION == studio.record["model_version"], "the project shows them"
    assert "5 tasks have got" in run("--all")
    assert studio.counts() == {1: 30}
    assert [job.state for job in queue.jobs()] == ["done", "done"]


def test_by_a_worker(studio: FakeLabelStudio, queue: JobTable, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("--all", "--background", "--per-second", "3")
    (job,) = queue.jobs()
    assert (job.state, JobOptions.of(job.options)) == ("requested", JobOptions(("all",), per_second=3.0))
    assert f"as job {job.short}." in said
    assert "does this as well" in run("--background", "--retry-failed")
    assert JobOptions.of(queue.jobs()[0].options).which == ("all", "retry-failed")
    claim = claimed(queue, job.id)

    def end(_seconds: float) -> None:
        queue.finish(claim, JobResult("30 tasks have got theirs.", {"tasks": 30}))

    monkeypatch.setattr("ram_backend.cli.jobs.time", SimpleNamespace(sleep=end))  # where it waits for the worker
    assert "30 tasks have got theirs." in run("--all")


def test_ctrl_c_and_again(studio: FakeLabelStudio, queue: JobTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_REFRESH_PORTION", "5")
    retrieve = prelabelling.ProjectApi.retrieve
    asked: list[object] = []

    def interrupted(api: prelabelling.ProjectApi, tasks: list[int]) -> None:
        asked.append(tasks)
        if len(asked) == 3:
            raise KeyboardInterrupt
        retrieve(api, tasks)

    monkeypatch.setattr(prelabelling.ProjectApi, "retrieve", interrupted)
    monkeypatch.setattr(prelabelling, "WAITING_S", 0.5)
    run(status=130)
    (job,) = queue.jobs()
    assert (job.state, "Stopped by hand" in job.message) == ("failed", True)
    assert studio.counts() == {0: 20, 1: 10}
    run()
    assert studio.counts() == {1: 30}


def test_a_command_that_was_killed_is_taken_over(studio: FakeLabelStudio, queue: JobTable) -> None:
    run("--background")
    claimed(queue, queue.jobs()[0].id, "dead/1")
    assert "30 tasks have got" in run()
    assert len(queue.jobs()) == 1
    studio.connected.clear()
    with pytest.raises(NotAvailable, match="has no backend in Label Studio"):
        run()
