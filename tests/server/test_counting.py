"""What /metrics says of jobs, corrections and the steps of a prediction."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
import pytest
from support.server import CONFIG, PROJECT, FakeJobs, House, predict_body

from ram_backend.errors import DatabaseUnavailable
from ram_backend.server import metrics as metrics_module
from ram_backend.server.metrics import ServerMetrics


def text_of(there: House) -> str:
    return there.client.get("/metrics").text


def test_jobs_and_corrections_are_counted_when_somebody_looks(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "COUNT_S", 0.0)
    there = house()
    there.jobs.asked.append((there.key, "pressed"))
    there.jobs.corrections = 3
    text = text_of(there)
    assert 'ram_jobs_open{kind="train",state="requested"} 1.0' in text
    assert "ram_corrections_pending 3.0" in text
    there.jobs.asked.clear()
    assert 'ram_jobs_open{kind="train",state="requested"} 0.0' in text_of(there)


def test_counting_that_takes_long_holds_up_no_other_look() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FakeJobs):
        times = 0

        def open_jobs(self) -> dict[tuple[str, str], int]:
            self.times += 1
            begun.set()
            assert go_on.wait(30)
            return super().open_jobs()

    jobs, metrics = Slow(), ServerMetrics()
    first = threading.Thread(target=metrics.count_jobs, args=[jobs])
    first.start()
    assert begun.wait(30)
    metrics.count_jobs(jobs)
    go_on.set()
    first.join(30)
    metrics.count_jobs(jobs)  # counted lately
    assert jobs.times == 1


def test_a_database_that_is_away_is_no_error(house: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise DatabaseUnavailable("The database is away.")

    monkeypatch.setattr(metrics_module, "COUNT_S", 0.0)
    there = house()
    with monkeypatch.context() as patched:
        patched.setattr(there.jobs, "open_jobs", away)
        assert "ram_jobs_open{" not in text_of(there)
    assert 'ram_jobs_open{kind="train",state="running"} 0.0' in text_of(there)


def test_without_jobs_nothing_is_counted(client: httpx.Client) -> None:
    assert "ram_jobs_open{" not in client.get("/metrics").text


def test_each_step_of_a_prediction_is_timed(house: Callable[..., House]) -> None:
    there = house()
    for _ in range(2):
        there.client.post("/predict", json=predict_body(CONFIG, [there.red], PROJECT))
    text = text_of(there)
    for stage, count in (("fetch", 2), ("decode", 1), ("encode", 1), ("score", 2)):
        assert f'ram_stage_seconds_count{{stage="{stage}"}} {count}.0' in text, stage
