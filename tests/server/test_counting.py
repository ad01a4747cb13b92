"""What /metrics says of jobs, corrections and the steps of a prediction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import pytest
from server.house import CONFIG, PROJECT, Desk, House
from server.playing import predict_body, wait_until

from ram_backend.errors import DatabaseUnavailable
from ram_backend.server import metrics as metrics_module
from ram_backend.server.metrics import DatabaseGauges, ServerMetrics


def text_of(there: House) -> str:
    assert there.client is not None
    return there.client.get("/metrics").text


def test_jobs_and_corrections_are_counted_when_somebody_looks(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "COUNT_S", 0.0)
    there = house()
    there.desk.asked.append((there.key, "pressed"))
    there.desk.corrections = 3
    wait_until(lambda: 'ram_jobs_open{kind="train",state="requested"} 1.0' in text_of(there))
    wait_until(lambda: "ram_corrections_pending 3.0" in text_of(there))
    there.desk.asked.clear()
    wait_until(lambda: 'ram_jobs_open{kind="train",state="requested"} 0.0' in text_of(there))


def test_looking_waits_for_nothing_and_counts_once_at_a_time() -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    class Slow(Desk):
        times = 0

        def open_jobs(self) -> dict[tuple[str, str], int]:
            self.times += 1
            begun.release()
            assert go_on.wait(30)
            return super().open_jobs()

    desk = Slow()
    there = DatabaseGauges(desk, ServerMetrics())
    for _ in range(5):
        there.look()
    assert begun.acquire(timeout=30)
    there.look()
    go_on.set()
    there.close()
    assert desk.times == 1
    there.look()  # the server is going down: nothing happens


def test_a_database_that_is_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "COUNT_S", 0.0)

    class Away(Desk):
        away = True

        def open_jobs(self) -> Mapping[tuple[str, str], int]:  # type: ignore[override]
            if self.away:
                raise DatabaseUnavailable("The database is away.")
            return {("train", "running"): 2}

    desk, metrics = Away(), ServerMetrics()
    there = DatabaseGauges(desk, metrics)
    there.look()
    wait_until(lambda: not there._counting)
    desk.away = False

    def counted() -> bool:
        there.look()
        return b'ram_jobs_open{kind="train",state="running"} 2.0' in metrics.exposed()

    wait_until(counted)
    there.close()


def test_without_jobs_nothing_is_counted() -> None:
    metrics = ServerMetrics()
    there = DatabaseGauges(None, metrics)
    there.look()
    there.close()
    assert b"ram_jobs_open{" not in metrics.exposed()


def test_each_step_of_a_prediction_is_timed(house: Callable[..., House]) -> None:
    there = house()
    assert there.client is not None
    for _ in range(2):
        there.client.post("/predict", json=predict_body(CONFIG, [there.red], PROJECT))
    text = text_of(there)
    for stage, count in (("fetch", 2), ("decode", 1), ("encode", 1), ("score", 2)):
        assert f'ram_stage_seconds_count{{stage="{stage}"}} {count}.0' in text, stage
