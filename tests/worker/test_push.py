"""Each task ends with exactly one prediction, whatever happens on the way."""

import time
from collections.abc import Iterator

import pytest
from support.label_studio import LEGACY, VERSION, FakeLabelStudio

from ram_backend.errors import LabelStudioRefused, LabelStudioUnauthorized, NotAvailable
from ram_backend.jobs.job import JobOptions
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.worker import prelabel
from ram_backend.worker.prelabel import Batch, Prelabeller, PrelabelResult

ALL = JobOptions(("all",))
NEW = "starter-v0002-aaaaaaaaaaaa"


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLabelStudio]:
    monkeypatch.setattr(prelabel, "LOOK_S", 0.02)
    with FakeLabelStudio.with_tasks(60) as there:
        yield there


class Attempt:
    """One attempt; `portions` are those that it has recorded, `stages` its progress."""

    def __init__(self, studio: FakeLabelStudio, options: JobOptions = ALL, *, size: int = 8) -> None:
        self.portions: list[Batch] = []
        self.stages: list[tuple[object, ...]] = []
        self.api = ProjectApi(LabelStudio(studio.url, LEGACY), studio.project)
        self._pusher = Prelabeller(self.api, options, size, progress=lambda *stage: self.stages.append(stage))

    def run(self, before: Batch | None = None) -> PrelabelResult:
        if before is not None:
            self._pusher.wait_for_inflight(before)
        for portion in self._pusher.run():
            self.portions.append(portion)
        return self._pusher.result


def push(studio: FakeLabelStudio, options: JobOptions = ALL, *, size: int = 8) -> PrelabelResult:
    return Attempt(studio, options, size=size).run()


def test_each_task_gets_one_in_portions(studio: FakeLabelStudio) -> None:
    attempt = Attempt(studio, size=20)
    result = attempt.run()
    assert studio.counts() == {1: 60}
    assert [len(portion) for portion in studio.portions] == [20, 20, 20]
    assert (result.version, result.done) == (VERSION, 60)
    assert ("predict", 20, 60) in attempt.stages
    assert attempt.stages[-1] == ("predict", 60, 60)
    again = Attempt(studio)
    assert (again.run().done, again.portions) == (0, [])


def test_only_unlabelled_ones_or_only_named_ones_that_have_none(studio: FakeLabelStudio) -> None:
    for number in range(1, 51):
        studio.annotate(number, number, "red")
    studio.store(51, "starter-of-old")
    studio.store(52, VERSION)
    assert push(studio, JobOptions(("unlabelled",))).done == 9
    assert set(studio.requested) == {51, *range(53, 61)}
    push(studio, JobOptions(tasks=(3, 4, 55, 999)))
    assert studio.portions[-1] == [3, 4]


def test_a_portion_that_never_came_is_given_up(studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prelabel, "WAITING_S", 0.2)
    Attempt(studio).run(Batch(VERSION, (1, 2), 0.1))
    assert studio.counts() == {1: 60}


def test_somebody_opens_a_task_meanwhile(studio: FakeLabelStudio) -> None:
    """The prediction that an annotation was made from stays."""
    parents = []

    def open_two(tasks: list[int]) -> None:
        studio.before_store = lambda _: None
        for task in tasks[:2]:
            parents.append(studio.store(task, VERSION))
            studio.annotate(task, task, "red", parent_prediction=parents[-1])

    studio.before_store = open_two
    assert push(studio).duplicates == 2
    assert studio.counts() == {1: 60}
    assert [each["id"] for task in (1, 2) for each in studio.tasks[task]["predictions"]] == parents


def test_another_version_is_served_meanwhile(studio: FakeLabelStudio) -> None:
    def swap(_: list[int]) -> None:
        if len(studio.portions) == 2:
            studio.connected[0]["model_version"] = NEW

    studio.before_store = swap
    assert push(studio).version == NEW
    assert studio.counts(NEW) == {1: 60}


def test_tasks_that_are_deleted_meanwhile(studio: FakeLabelStudio) -> None:
    def delete(_: list[int]) -> None:
        for number in range(30, 61):
            studio.tasks.pop(number, None)

    studio.before_store = delete
    push(studio)
    assert studio.counts() == {1: 29}


def test_portions_halve_with_each_failure_and_grow_slowly(studio: FakeLabelStudio) -> None:
    """A failure may cost as long as Label Studio waits: a size that has failed is not tried again soon."""
    studio.seconds, studio.gives_up_after = 0.01, 0.065
    assert push(studio, size=20).missing == []
    assert [len(portion) for portion in studio.portions][:5] == [20, 10, 5, 6, 7]
    assert studio.counts() == {1: 60}


def test_images_that_can_not_be_had(studio: FakeLabelStudio) -> None:
    studio.broken, studio.unreachable = {5}, {41}
    assert sorted(push(studio).empty) == [5, 41]
    assert studio.counts() == {1: 60}
    studio.unreachable = set()
    studio.annotate(1, 41, "red")
    assert push(studio, JobOptions(("retry-failed",))).empty == [5]
    assert studio.portions[-1] == [5, 41]
    assert studio.counts() == {1: 60}
    assert studio.tasks[41]["predictions"][0]["result"]


@pytest.mark.parametrize("first", [1, 100, 160], ids=["first", "middle", "last"])
def test_a_block_of_unreachable_images_keeps_nobody_out(studio: FakeLabelStudio, first: int) -> None:
    """Wherever it stands: the others get their predictions, and those are named."""
    for number in range(61, 201):
        studio.task(number)
    studio.unreachable = set(range(first, first + 40))
    missing = set(push(studio).missing)
    assert missing
    assert missing <= studio.unreachable
    assert studio.counts() == {1: 200 - len(missing), 0: len(missing)}
    push(studio)  # that nothing but unreachable ones is left is no failure


def test_no_token_and_no_backend(studio: FakeLabelStudio) -> None:
    studio.legacy = "another"
    with pytest.raises(LabelStudioUnauthorized):
        push(studio)
    studio.legacy = LEGACY
    studio.connected[0] |= {"state": "ER", "error_message": "No bundle."}
    with pytest.raises(NotAvailable, match=r"can't reach the backend http://backend:9090 \(No bundle.\)"):
        push(studio)
    studio.connected.clear()
    with pytest.raises(LabelStudioRefused, match="no backend"):
        push(studio)


def test_no_faster_than_wanted(studio: FakeLabelStudio) -> None:
    began = time.monotonic()
    push(studio, JobOptions(tasks=tuple(range(1, 13)), per_second=20), size=4)
    assert time.monotonic() - began >= 0.4, "12 tasks: the last four begin after 8 / 20 s"
    assert [len(portion) for portion in studio.portions] == [4, 4, 4]
