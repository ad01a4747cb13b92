"""The current truth is the same whatever order events come in, how often, and with what gaps."""

import random
from collections.abc import Sequence

from feedback.saying import MINUTE, NOW, deleted, event, microseconds, task_deleted
from hypothesis import given
from hypothesis import strategies as st

from ram_backend.feedback.events import EventHeader, EventKind, FeedbackEvent, current, fingerprint


def lines(events: Sequence[FeedbackEvent]) -> list[EventHeader]:
    return [
        EventHeader(place, e.kind, e.annotation_id, e.task_id, e.updated_us, e.content, e.usable)
        for place, e in enumerate(events, 1)
    ]


def truth(*events: FeedbackEvent) -> dict[int, tuple[str, int]]:
    return {number: (line.content, line.updated_us) for number, line in current(lines(events)).items()}


def noticed(kind: EventKind, number: int, minute: int) -> FeedbackEvent:
    """What a listing has lacked, or had again."""
    return FeedbackEvent(kind, number, number, NOW, updated_us=microseconds(NOW + minute * MINUTE))


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
    | st.builds(noticed, st.sampled_from(["annotation_missing", "annotation_found"]), numbers, st.integers(0, 9)),
    max_size=15,
)


@given(histories, st.randoms(use_true_random=False), st.lists(st.integers(0, 14), max_size=10))
def test_order_and_repetition(history: list[FeedbackEvent], shuffle: random.Random, twice: list[int]) -> None:
    again = history + [history[place] for place in twice if place < len(history)]
    shuffle.shuffle(again)
    assert truth(*again) == truth(*history)
    assert fingerprint(current(lines(again))).hash == fingerprint(current(lines(history))).hash
    gone = {e.annotation_id for e in history if e.kind == "annotation_deleted"}
    gone_tasks = {e.task_id for e in history if e.kind == "task_deleted"}
    left = current(lines(history))
    assert not gone & left.keys(), "a deletion is for good"
    assert not gone_tasks & {line.task_id for line in left.values()}
