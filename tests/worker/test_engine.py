"""The data engine as jobs: what three workers find together is what one process finds."""

import shutil
from pathlib import Path

import pytest
from support.jobs import KEY, job_of, statement
from support.processes import wait_until
from support.tiny_model import ColourNetwork, tiny_bundle
from worker.working import working

from ram_backend.database.engine import Database
from ram_backend.engine import run
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.table import JobTable
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.directory import engine_folder
from ram_backend.worker import engine
from ram_backend.worker.run_job import claim_and_run

RESULTS = ("findings.jsonl", "labels.jsonl", "summary.json", "report.html")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data", train_after=0, lease_seconds=60)


@pytest.mark.service
@pytest.mark.usefixtures("nothing_left")
def test_three_workers_find_what_one_process_finds(
    settings: Settings, database: Database, queue: JobTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among sixty pictures whose colours people have named, with a mistake now and then."""
    said = []
    for number in range(1, 61):
        values = zip(("red", "green", "blue"), (37 * number % 256, 101 * number % 256, 173 * number % 256), strict=True)
        tags = [name for name, value in values if (value > 128) != (number % 13 == 0)]
        said.append(statement(number, tags or ["red"]))
    Ledger(database).record(KEY, said)
    jobs = [queue.request(KEY, "engine", "asked", share=share).job.id for share in range(3)]
    assert len(set(jobs)) == 3
    with working(settings), working(settings), working(settings):
        wait_until(lambda: all(job_of(queue, job).state == "done" for job in jobs))
    assert [job_of(queue, job).message for job in jobs[1:]] == ["All images are encoded."] * 2
    folder = engine_folder(settings.versions_dir, KEY)
    together = {name: (folder / name).read_bytes() for name in RESULTS}
    shutil.rmtree(folder)
    monkeypatch.setattr(run, "PORTION", 8)
    monkeypatch.setattr(engine, "find_bundle", lambda *_, **__: tiny_bundle())
    monkeypatch.setattr(engine, "load_network", lambda *_, **__: ColourNetwork())
    alone = queue.request(KEY, "engine", "asked").job.id
    claim_and_run(settings, database, alone)
    assert job_of(queue, alone).message == job_of(queue, jobs[0]).message
    assert "60 images" in job_of(queue, alone).message
    assert {name: (folder / name).read_bytes() for name in RESULTS} == together
