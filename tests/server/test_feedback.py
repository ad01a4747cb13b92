"""What people say and what they were shown: in the ledger before Label Studio is answered, or said not to be."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import httpx
import pytest
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import CONFIG, ON_BOTH_DATABASES, FakeJobs, Start, annotation_event, predict_body, setup_body
from support.tiny_model import BLUE, RED, picture

from ram_backend.database.migrate import open_migrated
from ram_backend.errors import DatabaseUnavailable
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ShownPrediction, image_key
from ram_backend.images.decode import decode, perceptual_hash
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import ProjectTable
from ram_backend.server import handlers
from ram_backend.server.prometheus import ServerMetrics
from ram_backend.server.shown_log import LIMIT, ShownLog
from ram_backend.settings import Settings

pytestmark = ON_BOTH_DATABASES

CREATED = "2026-11-22T12:30:48.123456Z"
STAMP = int(datetime.fromisoformat(CREATED).timestamp())


def event(action: str = "ANNOTATION_CREATED", number: int = 1) -> dict[str, Any]:
    return annotation_event(number, "red", image="/data/upload/1/a.png", created=CREATED) | {"action": action}


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs()


@pytest.fixture
def client(start: Start, jobs: FakeJobs) -> httpx.Client:
    return start(jobs=jobs)


@pytest.fixture
def key(client: httpx.Client, studio: FakeLabelStudio) -> ProjectKey:
    """Of a project that is connected."""
    client.post("/setup", json=setup_body(CONFIG, studio, project=f"1.{STAMP}"))
    return ProjectKey(studio.url, 1, STAMP)


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    return Ledger(open_migrated(settings))


def test_a_correction_is_in_the_ledger_when_it_is_answered(
    client: httpx.Client, ledger: Ledger, key: ProjectKey
) -> None:
    assert client.post("/webhook", json=event()).json() == {"status": "ok"}
    (kept,) = ledger.annotations(key)
    assert (kept.parsed.id, kept.parsed.task) == (1, 1)
    assert list(ledger.last_events()) == [key], "under the project that `/setup` has named"
    client.post("/webhook", json=event())
    assert len(ledger.annotations(key)) == 1
    client.post("/webhook", json={**event("ANNOTATIONS_DELETED"), "annotation": None, "annotations": [{"id": 1}]})
    assert ledger.annotations(key) == []
    text = client.get("/metrics").text
    assert 'ram_ledger_events_total{outcome="new"} 2.0' in text
    assert 'ram_ledger_events_total{outcome="known"} 1.0' in text


def test_a_project_that_no_setup_has_named(client: httpx.Client, ledger: Ledger, jobs: FakeJobs) -> None:
    """Nothing is kept of it; once it is connected, comparing the ledger with Label Studio brings its corrections."""
    assert "No /setup" in client.post("/webhook", json=event()).json()["message"]
    assert "No /setup" in client.post("/webhook", json=event("START_TRAINING")).json()["message"]
    assert (ledger.last_events(), jobs.asked) == ({}, [])
    assert "ram_unknown_events_total 1.0" in client.get("/metrics").text


def test_a_project_has_a_share_of_the_disk(
    client: httpx.Client, ledger: Ledger, key: ProjectKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("/webhook", json=event())
    monkeypatch.setattr(handlers, "MAX_PROJECT_BYTES", 2 * ledger.size(key) + 20)
    statuses = [client.post("/webhook", json=event(number=number)).status_code for number in (2, 3, 4)]
    assert statuses == [200, 400, 400]
    assert len(ledger.annotations(key)) == 2
    assert 'ram_refused_total{what="events"} 2.0' in client.get("/metrics").text


def test_nothing_pretends_to_be_kept(
    client: httpx.Client, ledger: Ledger, key: ProjectKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "record", Mock(side_effect=DatabaseUnavailable("The database is away.")))
    answer = client.post("/webhook", json=event())
    assert (answer.status_code, answer.json()["error"]) == (503, "The database is away.")
    assert 'ram_ledger_events_total{outcome="failed"} 1.0' in client.get("/metrics").text
    monkeypatch.undo()
    assert client.post("/webhook", json=event()).status_code == 200
    assert len(ledger.annotations(key)) == 1


def test_without_a_database_it_is_not_known_whose_event_it_is(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProjectTable, "changes", Mock(side_effect=DatabaseUnavailable("The database is away.")))
    answer = start().post("/webhook", json=event())
    assert (answer.status_code, answer.json()["error"]) == (503, "The database is away.")


def test_corrections_from_many_at_once(client: httpx.Client, ledger: Ledger, key: ProjectKey) -> None:
    statuses: list[int] = []

    def say(first: int) -> None:
        with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as own:
            statuses.extend(own.post("/webhook", json=event(number=first + n)).status_code for n in range(10))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(say, (1, 11, 21, 31)))
    assert statuses == [200] * 40
    assert [each.parsed.id for each in ledger.annotations(key)] == list(range(1, 41))


def test_start_training(client: httpx.Client, jobs: FakeJobs, key: ProjectKey) -> None:
    pressed: dict[str, Any] = {"action": "START_TRAINING", "project": {"id": 1, "created_at": CREATED}}
    assert client.post("/webhook", json=pressed).json() == {"status": "ok", "job": "j1", "message": "queued"}
    assert jobs.asked == [(key, "Start Training was pressed")]
    assert "names no project" in client.post("/webhook", json={"action": "START_TRAINING"}).json()["message"]
    pressed["project"] |= {"min_annotations_to_start_training": 1}
    client.post("/webhook", json=pressed)
    assert jobs.debounced == [False, True], "inside a submit it waits for the annotation"


def test_jobs(client: httpx.Client, start: Start, studio: FakeLabelStudio) -> None:
    client.post("/setup", json=setup_body(CONFIG, studio, project="1.5"))
    assert client.get("/jobs").json() == {"jobs": [{"id": "j1", "project": None}]}
    assert client.get("/jobs", params={"project": "1"}).json()["jobs"][0]["project"] == f"1.5@{studio.url}"
    assert client.get("/jobs", params={"project": "x"}).status_code == 400
    assert start().get("/jobs").json() == {"jobs": []}


def test_what_was_shown_is_recorded(client: httpx.Client, ledger: Ledger, studio: FakeLabelStudio) -> None:
    version = client.post("/setup", json=setup_body(CONFIG, studio, project="1.5")).json()["model_version"]
    red, blue = studio.upload("red.png", picture(RED)), studio.upload("blue.png", picture(BLUE))
    body = predict_body(CONFIG, [red, blue, "/data/upload/1/none.png", red], "1.5")
    body["tasks"][3]["id"] = None
    client.post("/predict", json=body)
    key = ProjectKey(studio.url, 1, 5)
    wait_until(lambda: len(ledger.shown(key)) == 2)
    ((shown,), (other,)) = ledger.shown(key).values()
    assert (shown.task_id, shown.model_version, shown.version, shown.source) == (1, version, None, "served")
    assert {each.path[0]: each.ticked for each in shown.choices}["red"] is True
    assert all(each.score is not None and 0 <= each.score <= 1 for each in shown.choices)
    assert any(not each.ticked for each in shown.choices)
    (image,) = shown.images
    data = studio.files[red]
    decoded = decode(data, exif_orientation=True, alpha="white", max_pixels=10**6, max_bytes=10**6)[0]
    assert (image.to_name, image.reference, len(image.sha256)) == ("image", red, 64)
    assert image.phash == perceptual_hash(decoded)
    assert other.task_id == 2
    assert image_key(1, red) in ledger.images(key)
    client.post("/predict", json=predict_body(CONFIG, [red], "1.5"))
    wait_until(lambda: 'ram_shown_total{outcome="written"} 3.0' in client.get("/metrics").text)
    (again,) = ledger.shown(key)[1]
    assert again.images == shown.images, "tokens come from the cache, and the hash is still known"


def test_predictions_do_not_depend_on_the_record(
    client: httpx.Client, ledger: Ledger, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is away predictions are answered, and what was shown is written afterwards."""
    away = Mock(side_effect=DatabaseUnavailable("The database is away."))
    monkeypatch.setattr(Ledger, "record_shown", away)
    client.post("/setup", json=setup_body(CONFIG, studio, project="1.5"))
    red = studio.upload("red.png", picture(RED))
    assert client.post("/predict", json=predict_body(CONFIG, [red], "1.5")).status_code == 200
    wait_until(lambda: away.call_count > 1)
    monkeypatch.undo()
    wait_until(lambda: ledger.shown(ProjectKey(studio.url, 1, 5)))


def record(task: int) -> ShownPrediction:
    return ShownPrediction(task_id=task, model_version="v", shown_at=datetime.now(UTC))


def test_closing_writes_what_waits() -> None:
    written: list[int] = []
    ledger = SimpleNamespace(record_shown=lambda key, shown: written.extend(each.task_id for each in shown))
    recorder = ShownLog(cast(Ledger, ledger), ServerMetrics())
    recorder.start()
    for project in range(3):
        for task in range(700):
            recorder.put(ProjectKey("", project, 0), record(1000 * project + task))
    recorder.close()
    assert sorted(written) == [1000 * project + task for project in range(3) for task in range(700)]


def test_a_database_that_stays_away_costs_records_alone(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "record_shown", Mock(side_effect=DatabaseUnavailable("It is away.")))
    metrics = ServerMetrics()
    recorder = ShownLog(ledger, metrics)
    for task in range(LIMIT + 300):
        recorder.put(ProjectKey("", 1, 0), record(task))
    lost = metrics.shown.labels("lost")._value
    assert lost.get() == 300
    recorder.start()
    recorder.close()
    assert lost.get() == LIMIT + 300
