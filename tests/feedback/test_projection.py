"""The current truth is the same whatever order events come in, how often, and with what gaps."""

import random
from collections.abc import Sequence

from feedback.saying import deleted, event, found, missing, task_deleted
from hypothesis import given
from hypothesis import strategies as st

from ram_backend.feedback.events import AnnotationChanges, EventHeader, FeedbackEvent, changes, current, fingerprint
from ram_backend.feedback.events import missing as missing_now


def lines(events: Sequence[FeedbackEvent]) -> list[EventHeader]:
    return [
        EventHeader(place, e.kind, e.annotation_id, e.task_id, e.updated_us, e.content, e.usable)
        for place, e in enumerate(events, 1)
    ]


def truth(*events: FeedbackEvent) -> dict[int, tuple[str, int]]:
    return {number: (line.content, line.updated_us) for number, line in current(lines(events)).items()}


def content(made: FeedbackEvent) -> tuple[str, int]:
    return (made.content, made.updated_us)


def test_the_later_statement_replaces_the_earlier() -> None:
    first, same, second = event(1, "cat"), event(1, "tree"), event(1, "dog", at=5)
    assert truth(first, second) == truth(second, first) == {1: content(second)}
    assert truth(first, same) == truth(same, first), "of one moment: always the same one"


def test_a_deletion_wins_in_any_order() -> None:
    first, second = event(1, "cat"), event(1, "dog", at=5)
    for gone in (deleted(1), task_deleted(1)):
        assert truth(first, gone) == truth(gone, first) == truth(first, gone, second) == {}
    other = event(1, "cat", task=2)
    assert truth(other, task_deleted(1), deleted(2)) == {1: content(other)}, "numbers of tasks are their own"


def test_what_a_listing_lacked_is_back_when_a_later_one_has_it() -> None:
    said = event(1, "cat")
    assert truth(said, missing(1, 5)) == {}
    assert truth(said, found(1, 9), missing(1, 5)) == {1: content(said)}
    assert truth(said, found(1, 5), missing(1, 9)) == {}
    assert truth(said, missing(1, 5), found(1, 9), deleted(1)) == {}
    assert missing_now(lines([missing(1, 5), found(2, 5), missing(2, 1), missing(3, 2)])) == {1, 3}


def test_changes_count_what_may_be_learned_from() -> None:
    before = [event(1, "cat"), event(2, "cat"), event(3, "cat"), event(4, was_cancelled=True), event(7, "cat")]
    after = [
        *before,
        event(1, "cat", at=1),  # said again: no change
        event(2, "dog", at=1),
        deleted(3),
        event(4, "cat", at=1),  # skipped, then answered
        event(5, "cat"),
        event(6, was_cancelled=True),
        event(7, "cat", at=1, was_cancelled=True),
    ]
    found = changes(current(lines(before)), current(lines(after)))
    assert (found, found.total) == (AnnotationChanges(added=2, edited=1, withdrawn=2), 5)


def test_fingerprints() -> None:
    one, other = [event(1, "cat"), event(2, "dog")], [event(2, "dog"), event(1, "cat")]
    first, second = fingerprint(current(lines(one))), fingerprint(current(lines(other)))
    assert first.hash == second.hash
    assert (first.count, first.first_event, first.last_event) == (2, 1, 2)
    assert fingerprint(current(lines([*one, event(3, was_cancelled=True)]))) == first
    assert fingerprint(current(lines([*one, event(2, "cat", at=1)]))).hash != first.hash
    assert fingerprint({}).count == fingerprint({}).last_event == 0


numbers = st.integers(1, 4)
statements = st.builds(
    lambda number, tags, at, cancelled: event(number, *tags, at=at, was_cancelled=cancelled, task=1 + number % 2),
    numbers,
    st.sampled_from([(), ("cat",), ("dog",), ("cat", "dog")]),
    st.integers(0, 3),
    st.booleans(),
)
histories = st.lists(
    statements
    | st.builds(deleted, numbers)
    | st.builds(task_deleted, st.integers(1, 2))
    | st.builds(missing, numbers, st.integers(0, 9))
    | st.builds(found, numbers, st.integers(0, 9)),
    max_size=15,
)


@given(histories, st.randoms(use_true_random=False), st.lists(st.integers(0, 14), max_size=10))
def test_order_and_repetition_change_nothing(
    history: list[FeedbackEvent], shuffle: random.Random, twice: list[int]
) -> None:
    again = history + [history[place] for place in twice if place < len(history)]
    shuffle.shuffle(again)
    assert truth(*again) == truth(*history)
    assert fingerprint(current(lines(again))).hash == fingerprint(current(lines(history))).hash
    gone = {e.annotation_id for e in history if e.kind == "annotation_deleted"}
    gone_tasks = {e.task_id for e in history if e.kind == "task_deleted"}
    left = current(lines(history))
    assert not gone & left.keys(), "a deletion is for good"
    assert not gone_tasks & {line.task_id for line in left.values()}
