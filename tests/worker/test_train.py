"""From corrections to a version that is served, or a reason why none is: the real job, with a tiny network."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import select
from support.jobs import CONFIG, KEY, OTHER, connect, correct, picture_of, statement
from support.tiny_model import NEW, ColourNetwork, ColourWords, tiny_bundle

from ram_backend.database.engine import Database
from ram_backend.feedback.events import FeedbackEvent
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import image_key
from ram_backend.gate.judge import Verdict
from ram_backend.gate.training_set import TrainingSet
from ram_backend.jobs.job import Job
from ram_backend.jobs.table import JobTable
from ram_backend.projects import options
from ram_backend.settings import Settings
from ram_backend.versions.directory import folder_of, open_version, version_path
from ram_backend.versions.records import Lineage
from ram_backend.versions.table import VersionTable
from ram_backend.vocabulary import embeddings as text_embeddings
from ram_backend.worker import train as training_job
from ram_backend.worker.run_job import claim_and_run

ACCEPT = Verdict("accept", "Fewer edits.", {"edits_incumbent": 2.4, "edits_candidate": 1.5})
REJECT = Verdict("reject", "No fewer edits.", {"edits_incumbent": 2.4, "edits_candidate": 2.4})


class Trainings:
    """Corrections, gate, trainings and versions of one project."""

    def __init__(self, database: Database, patch: pytest.MonkeyPatch, train: Callable[..., Job]) -> None:
        self.database, self.patch, self.train = database, patch, train
        self.ledger, self.versions = Ledger(database), VersionTable(database)
        self.judged: list[TrainingSet] = []

    def setup(self, label_config: str = CONFIG, extra_params: object = None) -> None:
        connect(self.database, KEY, label_config, extra_params)

    def correct(self, *numbers: int) -> None:
        correct(self.database, *numbers)

    def withdraw(self, *numbers: int) -> None:
        now = datetime.now(UTC)
        self.ledger.record(KEY, [FeedbackEvent("annotation_deleted", number, 0, now) for number in numbers])

    def gate(self, verdict: Verdict | Callable[[], Verdict]) -> None:
        """From now on the gate's verdict, whatever is `judged`."""

        def judge(training_set: TrainingSet, *_: object, **__: object) -> Verdict:
            self.judged.append(training_set)
            return verdict() if callable(verdict) else verdict

        self.patch.setattr(training_job, "refuse_before_fitting", lambda *_, **__: None)
        self.patch.setattr(training_job, "judge_candidate", judge)

    def pin(self) -> Verdict:
        """A gate's answer that comes too late."""
        self.versions.pin(KEY)
        return ACCEPT

    @property
    def served(self) -> str | None:
        return self.versions.served(KEY).version

    def lineage(self, version: str) -> Lineage:
        return self.versions.get(KEY, version).lineage


@pytest.fixture
def project(database: Database, monkeypatch: pytest.MonkeyPatch, train: Callable[[], Job]) -> Trainings:
    return Trainings(database, monkeypatch, train)


@pytest.fixture
def corrected(project: Trainings) -> Trainings:
    """With twelve corrections."""
    project.correct(*range(1, 13))
    return project


def test_an_accepted_candidate_is_served(corrected: Trainings, settings: Settings, queue: JobTable) -> None:
    corrected.gate(ACCEPT)
    job = corrected.train()
    assert (job.state, job.verdict) == ("done", "accept"), job.message
    assert job.message.startswith("v0001 is served. Fewer edits.")
    assert corrected.served == "v0001"
    version = open_version(version_path(settings.versions_dir, KEY, "v0001"), tiny_bundle(), key=KEY)
    lineage = version.lineage
    assert (lineage.parent, lineage.bundle, lineage.encoder_id) == (None, "colours", "mean-colour")
    assert (lineage.corrections.count, lineage.corrections.last_event) == (12, corrected.ledger.last_event(KEY))
    assert (lineage.metrics_before, lineage.metrics_after) == ({"edits": 2.4}, {"edits": 1.5})
    assert lineage.code_version
    assert set(version.delta.tags) == {"red", "green", "blue"}
    assert job.last_event == lineage.corrections.last_event
    follow_up = [(each.kind, each.reason) for each in queue.jobs(KEY) if each.is_open]
    assert follow_up == [("refresh", "v0001 is served")]


def test_a_rejected_one_is_kept_and_not_served(corrected: Trainings, queue: JobTable) -> None:
    """Its verdict stands until something new comes."""
    corrected.gate(REJECT)
    job = corrected.train()
    assert (job.state, job.verdict) == ("done", "reject")
    assert job.message.startswith("v0001 is kept and not served. No fewer edits.")
    assert corrected.served is None
    assert not any(each.is_open for each in queue.jobs(KEY))
    assert queue.last_attempts(KEY)[KEY] == corrected.ledger.last_event(KEY)
    for _ in range(2):
        again = corrected.train()
        assert again.message.startswith("Nothing has changed since the last attempt. No fewer edits.")
        assert again.verdict == "reject"
    assert [(record.name, record.outcome) for record in corrected.versions.list(KEY)] == [("v0001", "reject")]
    corrected.correct(13)
    assert corrected.train().message.startswith("v0002")


def test_what_an_admin_ticks_is_what_is_judged(corrected: Trainings) -> None:
    corrected.setup(extra_params={"threshold": 0.9, "per_tag": {"red": 0.2}, "top_k": 1})
    corrected.gate(REJECT)
    corrected.train()
    (found,) = corrected.judged
    assert dict(zip(found.tags, found.thresholds, strict=True)) == pytest.approx(
        {"red": 0.2, "green": 0.9, "blue": 0.9}
    )
    assert found.incumbent_thresholds == pytest.approx(found.thresholds)
    assert found.most_ticked == 1


def test_a_precision_ticks_nothing_where_nothing_promises_it(corrected: Trainings) -> None:
    """Neither by what is served nor by a candidate of too few photos; a later one is judged against nothing."""
    corrected.setup(extra_params={"precision": 0.9})
    corrected.gate(REJECT)
    corrected.train()
    corrected.patch.setattr(options, "PROMISED_FROM", 12)
    corrected.train()
    few, enough = corrected.judged
    assert [few.thresholds.tolist(), enough.incumbent_thresholds.tolist()] == [[1, 1, 1]] * 2
    assert enough.thresholds == pytest.approx([0.971] * 3, abs=0.001)


def images_become_near_duplicates(project: Trainings) -> None:
    images = project.ledger.images(KEY)
    some = [image_key(task, picture_of(task)) for task in (1, 2)]
    far = images[some[0]][1] ^ (2**64 - 1)  # from all others
    project.ledger.record_images(KEY, {image: (images[image][0], far) for image in some})


def an_embedding_changes(project: Trainings) -> None:
    """Another text encoder of the same name: its weights were replaced."""
    project.patch.setitem(NEW, "pink", (0.8, 0.4, 0.3))


def the_machine_changes(project: Trainings) -> None:
    """The job moved to a machine with a GPU; the trainers are left as they are."""
    project.patch.setattr(training_job, "is_tuning_wanted", lambda *_: True)


@pytest.mark.parametrize("change", [images_become_near_duplicates, an_embedding_changes, the_machine_changes])
def test_a_verdict_stands_for_what_it_follows_from(corrected: Trainings, change: Callable[[Trainings], None]) -> None:
    words = ColourWords()
    words.go_on.set()
    corrected.setup(CONFIG.replace('"green"', '"green"/><Choice value="pink"'))
    corrected.patch.setattr(text_embeddings, "open_text_encoder", lambda *_: words)
    corrected.ledger.record(KEY, [statement(13, parent_prediction=5)])
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
    corrected.versions.pin(KEY, pinned=False)
    corrected.gate(ACCEPT)
    assert corrected.train().message.startswith("v0002 is served")
    corrected.versions.roll_back(KEY, None)
    corrected.versions.pin(KEY, pinned=False)
    assert corrected.train().message.startswith("v0003 is served")


def test_lineage_tells_what_has_changed_up_to_what_was_learned_from(project: Trainings) -> None:
    """Neither what the parent knew already, nor what came while the candidate was judged."""
    project.correct(*range(1, 15))
    project.withdraw(1, 2)
    project.gate(ACCEPT)
    project.train()

    def meanwhile() -> Verdict:
        project.withdraw(3)
        project.correct(16, 17)
        return ACCEPT

    project.correct(15)
    project.ledger.record(KEY, [statement(4, ["green"], at=5)])
    project.gate(meanwhile)
    project.train()
    project.gate(ACCEPT)
    project.train()
    lineages = [project.lineage(f"v000{number}") for number in (1, 2, 3)]
    assert [each.parent for each in lineages] == [None, "v0001", "v0002"]
    assert [(each.corrections.added, each.corrections.withdrawn) for each in lineages] == [(12, 0), (1, 1), (2, 1)]


def test_something_else_published_meanwhile(corrected: Trainings) -> None:
    """The next attempt compares with that."""
    corrected.gate(ACCEPT)
    corrected.train()
    corrected.versions.roll_back(KEY, None)
    corrected.versions.pin(KEY, pinned=False)
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


def test_a_device_trains_one_project_at_a_time(corrected: Trainings, settings: Settings) -> None:
    waiting: list[Job] = []

    def meanwhile() -> Verdict:
        correct(corrected.database, *range(1, 13), key=OTHER)
        claim = JobTable(corrected.database).request(OTHER, "train", "asked").job
        claim_and_run(settings, corrected.database, claim.id)
        waiting.extend(JobTable(corrected.database).jobs(OTHER, kind="train"))
        return ACCEPT

    connect(corrected.database, OTHER)
    corrected.gate(meanwhile)
    assert corrected.train().message.startswith("v0001 is served")
    assert [(job.state, job.attempt, job.message) for job in waiting] == [
        ("requested", 0, "Another training has the device.")
    ]


def test_too_little_memory_is_said_before_anything_is_loaded(corrected: Trainings, network: ColourNetwork) -> None:
    corrected.patch.setattr(training_job, "IMAGE_BYTES", 10**15)
    job = corrected.train()
    assert (job.state, job.attempt, network.batches) == ("requested", 1, [])
    assert re.match(r"A training takes about 12,000,000,\d{3} MB of memory, and [\d,]+ MB are free: end", job.message)


def test_who_lost_the_claim_publishes_nothing(corrected: Trainings, settings: Settings) -> None:
    def folders() -> list[str]:
        return sorted(path.name for path in (settings.versions_dir / folder_of(KEY)).glob("v*"))

    def lose() -> Verdict:
        with corrected.database.writing() as session:
            (job,) = session.scalars(select(Job))
            job.fence += 1
        return ACCEPT

    corrected.gate(lose)
    job = corrected.train()
    assert (job.state, corrected.served, corrected.versions.list(KEY)) == ("running", None, [])
    assert len(folders()) == 1
    corrected.gate(REJECT)
    with corrected.database.writing() as session:
        session.get_one(Job, job.id).state = "requested"
    assert corrected.train().state == "done"
    assert folders() == [record.name for record in corrected.versions.list(KEY)]


@pytest.mark.parametrize(("numbers", "message"), [((), "no corrections yet"), ((1, 2, 3), "Too little to judge by")])
def test_too_few_corrections(project: Trainings, numbers: tuple[int, ...], message: str) -> None:
    project.correct(*numbers)
    job = project.train()
    assert (job.state, job.verdict) == ("done", "needs_data")
    assert message in job.message
    assert "Label Studio was not reachable" in job.message, "corrections that came by webhook are used all the same"
    assert project.versions.list(KEY) == []


def test_images_that_cannot_be_had_now(project: Trainings) -> None:
    project.ledger.record(KEY, [statement(number, image=f"/data/upload/7/{number}.png") for number in range(1, 5)])
    job = project.train()
    assert (job.state, job.attempt) == ("requested", 1)
    assert "4 of 4 corrected images are unavailable now" in job.message


def test_images_that_are_none_or_were_seen_before(project: Trainings, network: ColourNetwork) -> None:
    """The former are left out, the latter are not encoded again."""
    project.gate(ACCEPT)
    project.correct(*range(1, 9))
    project.train()
    project.correct(9)
    broken = "data:image/png;base64,bm90IGFuIGltYWdl"
    project.ledger.record(KEY, [statement(number, image=broken) for number in (20, 21)])
    assert "2 images were left out" in project.train().message
    assert project.lineage("v0002").corrections.count == len(project.ledger.images(KEY)) == sum(network.batches) == 9


def test_a_label_config_without_tags_fails_at_once(project: Trainings) -> None:
    project.setup("<View/>")
    job = project.train()
    assert (job.state, "label config" in job.message) == ("failed", True), job.message
