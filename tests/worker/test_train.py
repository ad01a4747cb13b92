"""From corrections to a version that is served, or a reason why none is: the real job, with a tiny network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from support.jobs import CONFIG, KEY, correct, make_due, picture_of, statement
from support.tiny_model import NEW, ColourNetwork, ColourWords, tiny_bundle

from ram_backend.database.engine import Database
from ram_backend.feedback.events import FeedbackEvent
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import image_key
from ram_backend.gate.judge import Verdict
from ram_backend.jobs.job import Job
from ram_backend.jobs.queue import JobQueue
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings
from ram_backend.versions.directory import folder_of, open_version, version_path
from ram_backend.versions.records import Lineage
from ram_backend.versions.table import VersionTable
from ram_backend.vocabulary import embeddings as text_embeddings
from ram_backend.worker import scorer as scoring
from ram_backend.worker import train as training_job
from ram_backend.worker.run_job import carry_out

ACCEPT = Verdict("accept", "Fewer edits.", {"edits_incumbent": 2.4, "edits_candidate": 1.5})
REJECT = Verdict("reject", "No fewer edits.", {"edits_incumbent": 2.4, "edits_candidate": 2.4})


class Trainings:
    """Corrections, gate, trainings and versions of one project."""

    def __init__(self, settings: Settings, database: Database, queue: JobQueue, patch: pytest.MonkeyPatch) -> None:
        self.settings, self.database, self.queue, self.patch = settings, database, queue, patch
        self.ledger, self.versions = Ledger(database), VersionTable(database)
        self.network = ColourNetwork()
        patch.setattr(training_job, "find_bundle", lambda *_, **__: tiny_bundle())
        patch.setattr(training_job, "load_network", lambda *_, **__: self.network)
        patch.setattr(scoring, "tag_embeddings", lambda *_: None)

    def correct(self, *numbers: int) -> None:
        correct(self.database, *numbers)

    def gate(self, verdict: Verdict | Callable[[], Verdict]) -> None:
        """From now on the gate's verdict."""
        answer = verdict if callable(verdict) else lambda: verdict
        self.patch.setattr(training_job, "refuse_before_fitting", lambda *_, **__: None)
        self.patch.setattr(training_job, "judge_candidate", lambda *_, **__: answer())

    def train(self) -> Job:
        job = self.queue.request(KEY, "train", "asked").job
        make_due(self.database, job.id)
        functions = {"train": training_job.train}
        carry_out(self.settings.model_copy(update={"tuning": "off"}), self.database, job.id, functions)  # type: ignore[arg-type]
        return self.queue.get(job.id) or job

    def pin(self) -> Verdict:
        """A gate's answer that comes too late."""
        self.versions.pin(KEY)
        return ACCEPT

    @property
    def served(self) -> str | None:
        return self.versions.served(KEY).version

    def lineage(self, version: str) -> Lineage:
        lineage = self.versions.get(KEY, version).lineage
        assert lineage is not None
        return lineage

    @property
    def folders(self) -> list[str]:
        """Directories of versions."""
        return sorted(path.name for path in (self.settings.versions_dir / folder_of(KEY)).glob("v*"))


@pytest.fixture
def project(settings: Settings, database: Database, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(settings, database, queue, monkeypatch)


@pytest.fixture
def corrected(project: Trainings) -> Trainings:
    """With twelve corrections."""
    project.correct(*range(1, 13))
    return project


def gone(annotation: int) -> FeedbackEvent:
    return FeedbackEvent("annotation_deleted", annotation, 0, datetime.now(UTC))


def test_an_accepted_candidate_is_served(corrected: Trainings) -> None:
    corrected.gate(ACCEPT)
    job = corrected.train()
    assert (job.state, job.verdict) == ("done", "accept"), job.message
    assert job.message.startswith("v0001 is served. Fewer edits.")
    assert corrected.served == "v0001"
    version = open_version(version_path(corrected.settings.versions_dir, KEY, "v0001"), tiny_bundle(), key=KEY)
    lineage = version.lineage
    assert (lineage.parent, lineage.bundle, lineage.encoder_id) == (None, "colours", "mean-colour")
    assert (lineage.corrections.count, lineage.corrections.last_event) == (12, corrected.ledger.last_event(KEY))
    assert (lineage.metrics_before, lineage.metrics_after) == ({"edits": 2.4}, {"edits": 1.5})
    assert lineage.code_version
    assert set(version.delta.tags) == {"red", "green", "blue"}
    assert job.last_event == lineage.corrections.last_event
    follow_up = [(each.kind, each.reason) for each in corrected.queue.jobs(KEY) if each.is_open]
    assert follow_up == [("refresh", "v0001 is served")]
    assert {"gather", "scores", "gate"} <= set((job.result or {})["seconds"])


def test_a_rejected_one_is_kept_and_not_served(corrected: Trainings) -> None:
    corrected.gate(REJECT)
    job = corrected.train()
    assert (job.state, job.verdict) == ("done", "reject")
    assert job.message.startswith("v0001 is kept and not served. No fewer edits.")
    assert corrected.served is None
    assert [(record.name, record.outcome) for record in corrected.versions.list(KEY)] == [("v0001", "reject")]
    assert not any(each.is_open for each in corrected.queue.jobs(KEY))
    assert corrected.queue.last_attempt(KEY) == corrected.ledger.last_event(KEY)


def test_the_next_one_is_compared_with_what_is_served(corrected: Trainings) -> None:
    corrected.gate(ACCEPT)
    corrected.train()
    corrected.correct(13, 14)
    corrected.ledger.record(KEY, [statement(1, ["green"], second=5)])
    assert corrected.train().message.startswith("v0002 is served")
    lineage = corrected.lineage("v0002")
    assert lineage.parent == "v0001"
    assert (lineage.corrections.added, lineage.corrections.withdrawn) == (2, 1)


def test_with_nothing_new_the_verdict_stands(corrected: Trainings) -> None:
    corrected.gate(REJECT)
    first = corrected.train()
    for _ in range(2):
        again = corrected.train()
        assert again.message.startswith("Nothing has changed since the last attempt. No fewer edits.")
        assert again.verdict == "reject"
    assert [record.name for record in corrected.versions.list(KEY)] == ["v0001"]
    corrected.correct(13)
    assert corrected.train().message.startswith("v0002")
    assert first.id != again.id


def weights_change(project: Trainings) -> None:
    """An untouched tag counts half."""
    project.settings = project.settings.model_copy(update={"untouched_weight": 0.5})


def a_hash_changes(project: Trainings) -> None:
    image = image_key(1, picture_of(1))
    sha256, phash = project.ledger.images(KEY)[image]
    project.ledger.record_images(KEY, {image: (sha256, phash ^ 255)})


def an_embedding_changes(project: Trainings) -> None:
    """Another text encoder of the same name: its weights were replaced."""
    project.patch.setitem(NEW, "pink", (0.8, 0.4, 0.3))


def the_machine_changes(project: Trainings) -> None:
    """The job moved to a machine with a GPU; the trainers are left as they are."""
    project.patch.setattr(training_job, "is_tuning_wanted", lambda *_: True)


@pytest.mark.parametrize("change", [weights_change, a_hash_changes, an_embedding_changes, the_machine_changes])
def test_a_verdict_stands_only_for_what_it_follows_from(
    corrected: Trainings, change: Callable[[Trainings], None]
) -> None:
    config, words = CONFIG.replace('"green"', '"green"/><Choice value="pink"'), ColourWords()
    setup = Setup.read(KEY, label_config=config, access_token="t", extra_params=None)
    ProjectTable(corrected.database).apply(setup)
    words.go_on.set()
    corrected.patch.setattr(text_embeddings, "open_text_encoder", lambda *_: words)
    corrected.ledger.record(KEY, [statement(13, prediction=5)])
    corrected.gate(REJECT)
    corrected.train()
    assert corrected.train().message.startswith("Nothing has changed")
    change(corrected)
    assert corrected.train().message.startswith("v0002")
    assert corrected.train().message.startswith("Nothing has changed")


def test_pinned_meanwhile(corrected: Trainings) -> None:
    """What was accepted and is not served is made again."""
    corrected.gate(corrected.pin)
    job = corrected.train()
    assert (job.state, job.verdict) == ("done", "accept")
    assert "pinned to base" in job.message
    assert corrected.served is None
    assert [record.outcome for record in corrected.versions.list(KEY)] == ["accept"]
    corrected.versions.unpin(KEY)
    corrected.gate(ACCEPT)
    assert corrected.train().message.startswith("v0002 is served")
    corrected.versions.roll_back(KEY, None)
    corrected.versions.unpin(KEY)
    assert corrected.train().message.startswith("v0003 is served")


def test_lineage_tells_what_has_changed_up_to_what_was_learned_from(project: Trainings) -> None:
    """Neither what the parent knew already, nor what came while the candidate was judged."""
    project.correct(*range(1, 15))
    project.ledger.record(KEY, [gone(number) for number in (1, 2)])
    project.gate(ACCEPT)
    project.train()

    def meanwhile() -> Verdict:
        project.ledger.record(KEY, [gone(3)])
        project.correct(16, 17)
        return ACCEPT

    project.correct(15)
    project.gate(meanwhile)
    project.train()
    project.gate(ACCEPT)
    project.train()
    used = [project.lineage(f"v000{number}").corrections for number in (1, 2, 3)]
    assert [(each.added, each.withdrawn) for each in used] == [(12, 0), (1, 0), (2, 1)]


def test_something_else_published_meanwhile(corrected: Trainings) -> None:
    """The next attempt compares with that."""
    corrected.gate(ACCEPT)
    corrected.train()
    corrected.versions.roll_back(KEY, None)
    corrected.versions.unpin(KEY)
    corrected.correct(13)

    def publish_first() -> Verdict:
        corrected.versions.publish(KEY, "v0001", expected=None)
        return ACCEPT

    corrected.gate(publish_first)
    job = corrected.train()
    assert (job.state, corrected.served) == ("requested", "v0001")
    assert "compare again" in job.message
    corrected.gate(ACCEPT)
    assert corrected.train().message.startswith("v0002 is served")
    assert corrected.lineage("v0002").parent == "v0001"


def test_who_lost_the_claim_publishes_nothing(corrected: Trainings) -> None:
    def lose() -> Verdict:
        with corrected.database.writing() as session:
            (job,) = session.scalars(select(Job))
            job.fence += 1
        return ACCEPT

    corrected.gate(lose)
    job = corrected.train()
    assert (job.state, corrected.served, corrected.versions.list(KEY)) == ("running", None, [])
    assert len(corrected.folders) == 1
    corrected.gate(REJECT)
    with corrected.database.writing() as session:
        session.get_one(Job, job.id).state = "requested"
    assert corrected.train().state == "done"
    assert corrected.folders == [record.name for record in corrected.versions.list(KEY)]


@pytest.mark.parametrize(("numbers", "message"), [((), "no corrections yet"), ((1, 2, 3), "Too little to judge by")])
def test_too_few_corrections(project: Trainings, numbers: tuple[int, ...], message: str) -> None:
    project.correct(*numbers)
    job = project.train()
    assert (job.state, job.verdict) == ("done", "needs_data")
    assert message in job.message
    assert "Label Studio was not asked" in job.message, "corrections that came by webhook are used all the same"
    assert project.versions.list(KEY) == []


def test_images_that_cannot_be_had_now(project: Trainings) -> None:
    project.ledger.record(KEY, [statement(number, image=f"/data/upload/7/{number}.png") for number in range(1, 5)])
    job = project.train()
    assert (job.state, job.attempt) == ("requested", 1)
    assert "4 of 4 corrected images can't be had now" in job.message


def test_images_that_are_none(project: Trainings) -> None:
    project.correct(*range(1, 9))
    broken = "data:image/png;base64,bm90IGFuIGltYWdl"
    project.ledger.record(KEY, [statement(number, image=broken) for number in (20, 21)])
    project.gate(ACCEPT)
    assert "2 images were left out" in project.train().message
    assert project.lineage("v0001").corrections.count == 8


def test_images_seen_before_are_not_encoded_again(project: Trainings) -> None:
    project.correct(*range(1, 9))
    project.gate(REJECT)
    project.train()
    assert sum(project.network.batches) == 8
    project.correct(9)
    project.train()
    assert sum(project.network.batches) == 9
    assert len(project.ledger.images(KEY)) == 9


def test_a_label_config_without_tags_fails_at_once(project: Trainings) -> None:
    setup = Setup.read(KEY, label_config="<View/>", access_token="t", extra_params=None)
    ProjectTable(project.database).apply(setup)
    assert project.train().state == "failed"


def test_no_torch_where_the_bundle_needs_none(with_starter: Path) -> None:
    program = (
        "import sys; from ram_backend.worker import train as job; from ram_backend.settings import load_settings;"
        "s = load_settings(); b = job.find_bundle('starter', s.bundles_dir); job.load_network(b, threads=1);"
        "print('torch' in sys.modules, 'rq' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["False", "False"]
