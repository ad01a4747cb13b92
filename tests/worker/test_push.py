"""Each task ends with exactly one prediction, whatever happens on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

import pytest
from support.label_studio import LEGACY, VERSION, FakeLabelStudio
from support.processes import wait_until

from ram_backend.errors import JobLost, LabelStudioRefused, LabelStudioUnauthorized, NotAvailable
from ram_backend.jobs.job import PrelabelOptions
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.worker import prelabel as push_module
from ram_backend.worker.prelabel import Portion, Pusher

ALL = PrelabelOptions(("all",))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "LOOK_S", 0.02)


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio.with_tasks(60) as there:
        yield there


class Attempt:
    """One attempt; `portions` are those that it has noted, `said` what it is doing."""

    def __init__(
        self, studio: FakeLabelStudio, wanted: PrelabelOptions = ALL, *, largest: int = 8, limit: int | None = None
    ) -> None:
        api = ProjectApi(LabelStudio(studio.url, LEGACY), studio.project)
        self.portions: list[Portion] = []
        self.said: list[tuple[str, int, int]] = []
        self.studio, self.killed = studio, False
        self._retrieve, api.retrieve = api.retrieve, self._retrieve_unless_killed  # type: ignore[method-assign]
        self.work = Pusher(api, wanted, largest, progress=self._progress, limit=limit)

    def _progress(self, stage: str, step: int, steps: int) -> None:
        self.said.append((stage, step, steps))

    def _retrieve_unless_killed(self, tasks: Sequence[int]) -> None:
        self._retrieve(tasks)
        if self.killed:
            raise JobLost("killed")

    def killed_while_label_studio_waits(self, before: Portion | None) -> Portion:
        """What is known of the last portion, which Label Studio will store."""

        def until_killed() -> None:
            with suppress(JobLost):
                self.run(before)

        threading.Thread(target=until_killed, daemon=True).start()
        wait_until(lambda: len(self.portions) > 1 and self.studio.waiting)
        self.killed = True
        return self.portions[-1]

    def run(self, before: Portion | None = None) -> bool:
        if before is not None:
            self.work.settle(before)
        for portion in self.work.run():
            self.portions.append(portion)
        return True


def test_what_has_one_is_not_asked_for(studio: FakeLabelStudio) -> None:
    for number in range(1, 51):
        studio.store(number, VERSION)
    studio.store(51, "starter-of-old")
    attempt = Attempt(studio)
    assert attempt.run()
    assert sorted(chain.from_iterable(studio.portions)) == list(range(51, 61))
    assert attempt.work.result.done == 10
    again = Attempt(studio)
    assert again.run()
    assert again.work.result.done == 0
    assert again.portions == []


def test_only_unlabelled_ones_or_only_named_ones(studio: FakeLabelStudio) -> None:
    for number in range(1, 51):
        studio.annotate(number, number, "red")
    assert Attempt(studio, PrelabelOptions(("unlabelled",))).run()
    assert {task for portion in studio.portions for task in portion} == set(range(51, 61))
    assert Attempt(studio, PrelabelOptions(tasks=(3, 4, 55, 999))).run()
    assert studio.portions[-1] == [3, 4]


def test_killed_twice_while_label_studio_waits(studio: FakeLabelStudio) -> None:
    """The next attempt must not ask for a portion that Label Studio will store when the backend has answered."""
    studio.seconds, studio.gives_up_after = 0.03, 5
    before = None
    for _ in range(2):
        before = Attempt(studio).killed_while_label_studio_waits(before)
    assert Attempt(studio).run(before)
    assert studio.counts() == {1: 60}
    asked = list(chain.from_iterable(studio.portions))
    assert len(asked) == len(set(asked)), "nothing is computed twice"


def test_without_waiting_there_would_be_two(studio: FakeLabelStudio) -> None:
    """The stand-in does what Label Studio does: it stores what it is brought, without looking again."""
    studio.seconds = 0.05
    attempts = [Attempt(studio, PrelabelOptions(tasks=(1, 2))) for _ in range(2)]
    threads = [threading.Thread(target=each.work._api.retrieve, args=([1, 2],)) for each in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert studio.counts()[2] == 2


def test_a_portion_that_never_came_is_given_up(studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "WAITING_S", 0.2)
    assert Attempt(studio).run(Portion(VERSION, (1, 2), 0.1))
    assert studio.counts() == {1: 60}


def test_somebody_opens_a_task_meanwhile(studio: FakeLabelStudio) -> None:
    """What an annotation was made from stays."""
    studio.seconds = 0.05
    attempt = Attempt(studio)
    thread = threading.Thread(target=attempt.run)
    thread.start()
    wait_until(lambda: studio.waiting)
    for task in studio.portions[0][:2]:
        parent = studio.store(task, VERSION)
        studio.annotate(task, task, "red", parent_prediction=parent)
    first = studio.portions[0][0]
    parent = studio.tasks[first]["annotations"][0]["parent_prediction"]
    thread.join(30)
    assert studio.counts() == {1: 60}
    assert [each["id"] for each in studio.tasks[first]["predictions"]] == [parent]
    assert attempt.work.result.surplus == 2


def test_a_backend_too_slow_for_portions_of_that_size(studio: FakeLabelStudio) -> None:
    """Twenty tasks in the time of five: portions shrink until they fit."""
    studio.seconds, studio.gives_up_after = 0.02, 0.05
    attempt = Attempt(studio, PrelabelOptions(tasks=tuple(range(1, 21))))
    assert attempt.run()
    assert studio.counts()[1] == 20
    assert attempt.work.result.missing == []
    assert max(map(len, studio.portions)) == 8


def test_images_that_can_not_be_had(studio: FakeLabelStudio) -> None:
    studio.broken, studio.unreachable = {5}, {41}
    first = Attempt(studio)
    assert first.run()
    assert studio.counts() == {1: 60}
    assert sorted(first.work.result.empty) == [5, 41]
    studio.unreachable = set()
    studio.annotate(1, 41, "red")
    again = Attempt(studio, PrelabelOptions(("retry-failed",)))
    assert again.run()
    assert studio.portions[-1] == [5, 41]
    assert studio.counts() == {1: 60}
    assert again.work.result.empty == [5]
    assert studio.tasks[41]["predictions"][0]["result"]


def test_nothing_but_unreachable_images(studio: FakeLabelStudio) -> None:
    """The backend answers 503, so that there is no prediction: they are named, and the others go on."""
    studio.unreachable = {7, 8, 9}
    attempt = Attempt(studio, PrelabelOptions(tasks=(7, 8, 9, 10)), largest=1)
    assert attempt.run()
    assert sorted(attempt.work.result.missing) == [7, 8, 9]
    assert studio.counts()[1] == 1
    studio.unreachable = set()
    assert Attempt(studio, PrelabelOptions(("retry-failed",))).run()
    assert studio.counts() == {1: 60}


def test_a_backend_that_brings_nothing_forth(studio: FakeLabelStudio) -> None:
    studio.seconds, studio.gives_up_after = 0.001, 0
    with pytest.raises(NotAvailable, match="stores no predictions"):
        Attempt(studio).run()
    assert len(studio.portions) < 20


def test_a_backend_that_goes_away(studio: FakeLabelStudio) -> None:
    studio.unreachable = set(range(1, 61))
    studio.connected[0] |= {"state": "ER", "error_message": "No bundle."}
    with pytest.raises(NotAvailable, match=r"can't reach the backend http://backend:9090 \(No bundle.\)"):
        Attempt(studio).run()


def test_another_version_is_served_meanwhile(studio: FakeLabelStudio) -> None:
    studio.seconds = 0.02
    attempt = Attempt(studio)
    thread = threading.Thread(target=attempt.run)
    thread.start()
    wait_until(lambda: len(studio.portions) > 1)
    studio.connected[0]["model_version"] = "starter-v0002-aaaaaaaaaaaa"
    thread.join(30)
    assert studio.counts("starter-v0002-aaaaaaaaaaaa") == {1: 60}
    assert attempt.work.result.version == "starter-v0002-aaaaaaaaaaaa"


def test_tasks_that_are_deleted_meanwhile(studio: FakeLabelStudio) -> None:
    studio.seconds = 0.02
    attempt = Attempt(studio)
    thread = threading.Thread(target=attempt.run)
    thread.start()
    wait_until(lambda: studio.waiting)
    for number in range(30, 61):
        studio.tasks.pop(number)
    thread.join(30)
    assert not thread.is_alive()
    assert studio.counts() == {1: 29}


def test_no_backend_and_no_token(studio: FakeLabelStudio) -> None:
    studio.legacy = "another"
    with pytest.raises(LabelStudioUnauthorized):
        Attempt(studio).run()
    studio.legacy = LEGACY
    studio.connected.clear()
    with pytest.raises(LabelStudioRefused, match="no backend"):
        Attempt(studio).run()


def test_each_task_gets_one_in_portions(studio: FakeLabelStudio) -> None:
    attempt = Attempt(studio, largest=20)
    assert attempt.run()
    assert studio.counts() == {1: 60}
    assert [len(portion) for portion in studio.portions] == [20, 20, 20]
    assert (attempt.work.result.version, attempt.work.result.done) == (VERSION, 60)
    assert ("predict", 20, 60) in attempt.said
    assert attempt.said[-1] == ("predict", 60, 60)


def test_portions_halve_with_each_failure_and_grow_slowly(studio: FakeLabelStudio) -> None:
    """A failure may cost as long as Label Studio waits: a size that has failed is not tried again soon."""
    studio.seconds, studio.gives_up_after = 0.01, 0.065
    assert Attempt(studio, largest=20).run()
    assert [len(portion) for portion in studio.portions][:5] == [20, 10, 5, 6, 7]
    assert studio.counts() == {1: 60}


def test_a_limit_and_how_many_are_left(studio: FakeLabelStudio) -> None:
    studio.annotate(60, 60, "red")
    attempt = Attempt(studio, PrelabelOptions(("unlabelled",)), limit=25)
    assert attempt.run()
    assert (attempt.work.result.done, attempt.work.result.left) == (25, 34)
    assert Attempt(studio, PrelabelOptions(("unlabelled",)), limit=34).run()
    assert studio.counts() == {1: 59, 0: 1}


@pytest.mark.parametrize("first", [1, 100, 160], ids=["first", "middle", "last"])
def test_a_block_of_unreachable_images_keeps_nobody_out(first: int) -> None:
    """Wherever it stands: the others get their predictions, and those are named."""
    with FakeLabelStudio.with_tasks(200) as studio:
        studio.unreachable = set(range(first, first + 40))
        attempt = Attempt(studio)
        assert attempt.run()
        missing = set(attempt.work.result.missing)
        assert missing
        assert missing <= studio.unreachable
        assert studio.counts() == {1: 200 - len(missing), 0: len(missing)}
        again = Attempt(studio)
        assert again.run(), "that nothing but unreachable ones is left is no failure"


def test_no_faster_than_wanted(studio: FakeLabelStudio) -> None:
    attempt = Attempt(studio, PrelabelOptions(tasks=tuple(range(1, 13)), per_second=20), largest=4)
    began = time.monotonic()
    assert attempt.run()
    assert time.monotonic() - began >= 0.4, "12 tasks: the last four begin after 8 / 20 s"
    assert [len(portion) for portion in studio.portions] == [4, 4, 4]
