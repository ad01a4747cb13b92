"""From corrections to a version that is served, or a reason why none is: the real job, with a tiny network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.jobs import CONFIG, KEY, correct, make_due, picture_of, statement
from support.tiny_model import NEW, ColourNetwork, ColourWords, tiny_bundle

from ram_backend.database.engine import Database
from ram_backend.feedback.events import FeedbackEvent
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ServedChoice, ServedPrediction, image_key
from ram_backend.gate.judge import Verdict
from ram_backend.jobs.job import Job
from ram_backend.jobs.queue import JobQueue
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings
from ram_backend.versions.directory import folder_of, open_version, version_path
from ram_backend.versions.table import VersionTable
from ram_backend.vocabulary import embeddings as text_embeddings
from ram_backend.worker import scorer as scoring
from ram_backend.worker import train as training_job
from ram_backend.worker.run_job import carry_out

ACCEPT = Verdict("accept", "It ranks better.", {"map_incumbent": 0.4, "map_candidate": 0.5})
REJECT = Verdict("reject", "It doesn't rank better.", {"map_incumbent": 0.4, "map_candidate": 0.4})

Train = Callable[..., Job]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> ColourNetwork:
    there = ColourNetwork()
    monkeypatch.setattr(training_job, "find_bundle", lambda *_, **__: tiny_bundle())
    monkeypatch.setattr(training_job, "load_network", lambda *_, **__: there)
    monkeypatch.setattr(scoring, "tag_embeddings", lambda *_: None)
    return there


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, network: ColourNetwork) -> Callable[..., None]:
    """Decides what the gate says."""

    def says(verdict: Verdict | Callable[[], Verdict]) -> None:
        monkeypatch.setattr(training_job, "refuse_before_fitting", lambda *_, **__: None)
        answer = verdict if callable(verdict) else lambda: verdict
        monkeypatch.setattr(training_job, "judge_candidate", lambda *_, **__: answer())

    return says


@pytest.fixture
def train(settings: Settings, database: Database, queue: JobQueue, network: ColourNetwork) -> Train:
    def done() -> Job:
        job = queue.request(KEY, "train", "asked").job
        make_due(database, job.id)
        functions = {"train": training_job.train}
        own = settings.model_copy(update={"tuning": "off"})
        carry_out(own, database, job.id, functions)  # type: ignore[arg-type]
        found = queue.get(job.id)
        assert found is not None
        return found

    return done


@pytest.fixture
def versions(database: Database) -> VersionTable:
    return VersionTable(database)


def gone(annotation: int) -> FeedbackEvent:
    return FeedbackEvent("annotation_deleted", annotation, 0, datetime.now(UTC))


def verdict_of(job: Job) -> Verdict:
    return Verdict.from_json((job.result or {})["verdict"])


def test_an_accepted_candidate_is_served(
    train: Train,
    gate: Callable[..., None],
    database: Database,
    versions: VersionTable,
    settings: Settings,
    queue: JobQueue,
) -> None:
    correct(database, *range(1, 13))
    gate(ACCEPT)
    job = train()
    assert (job.state, job.verdict) == ("done", "accept"), job.message
    assert job.message.startswith("v0001 is served. It ranks better.")
    assert versions.served(KEY).version == "v0001"
    version = open_version(version_path(settings.versions_dir, KEY, "v0001"), tiny_bundle(), key=KEY)
    lineage = version.lineage
    assert (lineage.parent, lineage.bundle, lineage.encoder_id) == (None, "colours", "mean-colour")
    assert (lineage.corrections.count, lineage.corrections.last_event) == (12, Ledger(database).last_event(KEY))
    assert lineage.metrics_before == {"mAP": 0.4}
    assert lineage.metrics_after == {"mAP": 0.5}
    assert lineage.code_version
    assert set(version.delta.tags) == {"red", "green", "blue"}
    assert job.last_event == lineage.corrections.last_event
    assert [(each.kind, each.reason) for each in queue.jobs(KEY) if each.is_open] == [("refresh", "v0001 is served")]
    assert {"gather", "scores", "gate"} <= set((job.result or {})["seconds"])


def test_a_rejected_one_is_kept_and_not_served(
    train: Train, gate: Callable[..., None], database: Database, versions: VersionTable, queue: JobQueue
) -> None:
    correct(database, *range(1, 13))
    gate(REJECT)
    job = train()
    assert (job.state, job.verdict) == ("done", "reject")
    assert job.message.startswith("v0001 is kept and not served. It doesn't rank better.")
    assert versions.served(KEY).version is None
    assert [(record.name, record.outcome) for record in versions.list(KEY)] == [("v0001", "reject")]
    assert not any(each.is_open for each in queue.jobs(KEY))
    assert queue.last_attempt(KEY) == Ledger(database).last_event(KEY)


def test_the_next_one_is_compared_with_what_is_served(
    train: Train, gate: Callable[..., None], database: Database, versions: VersionTable
) -> None:
    correct(database, *range(1, 13))
    gate(ACCEPT)
    train()
    correct(database, 13, 14)
    Ledger(database).record(KEY, [statement(1, ["green"], second=5)])
    job = train()
    assert job.message.startswith("v0002 is served")
    lineage = versions.get(KEY, "v0002").lineage
    assert lineage is not None
    assert lineage.parent == "v0001"
    assert (lineage.corrections.added, lineage.corrections.withdrawn) == (2, 1)


def test_with_nothing_new_the_verdict_stands(
    train: Train, gate: Callable[..., None], database: Database, versions: VersionTable
) -> None:
    correct(database, *range(1, 13))
    gate(REJECT)
    first = train()
    for _ in range(2):
        again = train()
        assert again.message.startswith("Nothing has changed since the last attempt. It doesn't rank better.")
        assert again.verdict == "reject"
    assert [record.name for record in versions.list(KEY)] == ["v0001"]
    correct(database, 13)
    assert train().message.startswith("v0002")
    assert first.id != again.id


def test_weights_of_labels_are_part_of_what_the_verdict_follows_from(
    train: Train, gate: Callable[..., None], database: Database
) -> None:
    """What was shown came late: "green" was off because a person took it off, not because nobody looked at it."""
    correct(database, *range(1, 13))
    Ledger(database).record(KEY, [statement(13, prediction=5)])
    gate(REJECT)
    train()
    moment = datetime(2026, 11, 23, 16, tzinfo=UTC)
    choices = (ServedChoice("tags", ("green",), 0.9, True),)
    Ledger(database).record_shown(KEY, [ServedPrediction(13, "colours-1", moment, choices)])
    assert train().message.startswith("v0002")
    assert train().message.startswith("Nothing has changed")


def test_perceptual_hashes_are_part_of_what_the_verdict_follows_from(
    train: Train, gate: Callable[..., None], database: Database
) -> None:
    correct(database, *range(1, 13))
    gate(REJECT)
    train()
    ledger, reference = Ledger(database), picture_of(1)
    sha256, phash = ledger.images(KEY)[image_key(1, reference)]
    ledger.record_images(KEY, {image_key(1, reference): (sha256, phash ^ 255)})
    assert train().message.startswith("v0002")


def test_embeddings_of_new_tags_are_part_of_what_the_verdict_follows_from(
    train: Train, gate: Callable[..., None], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another text encoder of the same name: its weights were replaced."""
    config = CONFIG.replace('"green"', '"pink"')
    ProjectTable(database).apply(Setup.read(KEY, label_config=config, access_token="t", extra_params=None))
    words = ColourWords()
    words.go_on.set()
    monkeypatch.setattr(text_embeddings, "open_text_encoder", lambda *_: words)
    correct(database, *range(1, 13))
    gate(REJECT)
    train()
    assert train().message.startswith("Nothing has changed")
    monkeypatch.setitem(NEW, "pink", (0.8, 0.4, 0.3))
    assert train().message.startswith("v0002")


def test_whether_a_head_is_tuned_here_is_part_of_what_the_verdict_follows_from(
    train: Train, gate: Callable[..., None], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job moved to a machine with a GPU; the trainers are left as they are."""
    correct(database, *range(1, 13))
    gate(REJECT)
    train()
    monkeypatch.setattr(training_job, "is_tuning_wanted", lambda *_: True)
    assert train().message.startswith("v0002")


def test_pinned_meanwhile(train: Train, gate: Callable[..., None], database: Database, versions: VersionTable) -> None:
    correct(database, *range(1, 13))

    def pin() -> Verdict:
        versions.pin(KEY)
        return ACCEPT

    gate(pin)
    job = train()
    assert (job.state, job.verdict) == ("done", "accept")
    assert "pinned to base" in job.message
    assert versions.served(KEY).version is None
    assert [record.outcome for record in versions.list(KEY)] == ["accept"]


def test_what_was_accepted_and_is_not_served_is_made_again(
    train: Train, gate: Callable[..., None], database: Database, versions: VersionTable
) -> None:
    correct(database, *range(1, 13))

    def pin() -> Verdict:
        versions.pin(KEY)
        return ACCEPT

    gate(pin)
    train()
    versions.unpin(KEY)
    gate(ACCEPT)
    assert train().message.startswith("v0002 is served")
    versions.roll_back(KEY, None)
    versions.unpin(KEY)
    assert train().message.startswith("v0003 is served")


def test_lineage_tells_what_has_changed_up_to_what_was_learned_from(
    train: Train, gate: Callable[..., None], database: Database, versions: VersionTable
) -> None:
    """Neither what the parent knew already, nor what came while the candidate was judged."""
    correct(database, *range(1, 15))
    ledger = Ledger(database)
    ledger.record(KEY, [gone(number) for number in (1, 2)])
    gate(ACCEPT)
    train()

    def meanwhile() -> Verdict:
        ledger.record(KEY, [gone(3)])
        correct(database, 16, 17)
        return ACCEPT

    correct(database, 15)
    gate(meanwhile)
    train()
    gate(ACCEPT)
    train()
    lineages = [record.lineage for record in versions.list(KEY)]
    assert [(each.corrections.added, each.corrections.withdrawn) for each in lineages if each is not None] == [
        (12, 0), (1, 0), (2, 1),
    ]  # fmt: skip


def test_something_else_published_meanwhile(
    train: Train, gate: Callable[..., None], database: Database, versions: VersionTable
) -> None:
    """The next attempt compares with that."""
    correct(database, *range(1, 13))
    gate(ACCEPT)
    train()
    versions.roll_back(KEY, None)
    versions.unpin(KEY)
    correct(database, 13)

    def publish_first() -> Verdict:
        versions.publish(KEY, "v0001", expected=None)
        return ACCEPT

    gate(publish_first)
    job = train()
    assert (job.state, versions.served(KEY).version) == ("requested", "v0001")
    assert "compare again" in job.message
    gate(ACCEPT)
    assert train().message.startswith("v0002 is served")
    lineage = versions.get(KEY, "v0002").lineage
    assert lineage is not None
    assert lineage.parent == "v0001"


def test_who_lost_the_claim_publishes_nothing(
    train: Train,
    gate: Callable[..., None],
    database: Database,
    versions: VersionTable,
    queue: JobQueue,
    settings: Settings,
) -> None:
    correct(database, *range(1, 13))

    def lose() -> Verdict:
        with database.writing() as session:
            from ram_backend.jobs.job import Job

            (job,) = queue.jobs(KEY)
            session.get_one(Job, job.id).fence += 1
        return ACCEPT

    gate(lose)
    job = train()
    assert job.state == "running"
    assert versions.served(KEY).version is None
    assert versions.list(KEY) == []
    assert len(list((settings.versions_dir / folder_of(KEY)).glob("v*"))) == 1
    gate(REJECT)
    queue.expire()
    with database.writing() as session:
        from ram_backend.jobs.job import Job

        session.get_one(Job, job.id).state = "requested"
    assert train().state == "done"
    assert [path.name for path in (settings.versions_dir / folder_of(KEY)).glob("v*")] == [
        record.name for record in versions.list(KEY)
    ]


def test_no_corrections(train: Train) -> None:
    job = train()
    assert (job.state, job.verdict) == ("done", "needs_data")
    assert "no corrections yet" in job.message


def test_too_few(train: Train, database: Database, versions: VersionTable) -> None:
    correct(database, 1, 2, 3)
    job = train()
    assert (job.state, job.verdict) == ("done", "needs_data")
    assert "Too little to judge by" in job.message
    assert versions.list(KEY) == []


def test_label_studio_is_away(train: Train, database: Database) -> None:
    """Corrections that came by webhook are enough, and it is said."""
    correct(database, 1, 2, 3)
    job = train()
    assert job.state == "done"
    assert "Label Studio was not asked" in job.message


def test_images_that_cannot_be_had_now(train: Train, database: Database) -> None:
    events = [statement(number, image=f"/data/upload/7/{number}.png") for number in range(1, 5)]
    Ledger(database).record(KEY, events)
    job = train()
    assert (job.state, job.attempt) == ("requested", 1)
    assert "4 of 4 corrected images can't be had now" in job.message


def broken(number: int) -> FeedbackEvent:
    return statement(number, image="data:image/png;base64,bm90IGFuIGltYWdl")


def test_images_that_are_none(
    train: Train, gate: Callable[..., None], database: Database, versions: VersionTable
) -> None:
    correct(database, *range(1, 9))
    Ledger(database).record(KEY, [broken(20), broken(21)])
    gate(ACCEPT)
    job = train()
    assert "2 images were left out" in job.message
    lineage = versions.get(KEY, "v0001").lineage
    assert lineage is not None
    assert lineage.corrections.count == 8


def test_images_seen_before_are_not_encoded_again(
    train: Train, gate: Callable[..., None], database: Database, network: ColourNetwork
) -> None:
    correct(database, *range(1, 9))
    gate(REJECT)
    train()
    assert sum(network.batches) == 8
    correct(database, 9)
    train()
    assert sum(network.batches) == 9
    image = Ledger(database).images(KEY)
    assert len(image) == 9


def test_a_label_config_without_tags_fails_at_once(train: Train, database: Database) -> None:
    ProjectTable(database).apply(Setup.read(KEY, label_config="<View/>", access_token="t", extra_params=None))
    job = train()
    assert (job.state, job.attempt) == ("failed", 1)
    assert "The label config has nothing to tag." in job.message


def test_no_torch_where_the_bundle_needs_none(with_starter: Path) -> None:
    program = (
        "import sys; from ram_backend.worker import train as job; from ram_backend.settings import load_settings;"
        "s = load_settings(); b = job.find_bundle('starter', s.bundles_dir); job.load_network(b, threads=1);"
        "print('torch' in sys.modules, 'rq' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["False", "False"]
