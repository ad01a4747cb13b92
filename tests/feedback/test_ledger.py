"""The ledger in a real database: durable, idempotent, the same for every reader."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

from feedback.saying import CONFIG, KEY, MINUTE, NOBODYS, NOW, deleted, event, said, shown, task_deleted, usable

from ram_backend.database.migrate import open_migrated
from ram_backend.feedback.events import CurrentAnnotation, label_space_of
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ShownImage, image_key
from ram_backend.settings import Settings


def test_what_was_recorded_is_read_again(ledger: Ledger) -> None:
    moment = NOW + timedelta(microseconds=123_457)
    made = event(1, "cat", "dog", received=moment, completed_by=7, ground_truth=True)
    made = replace(made, offered=label_space_of(CONFIG))
    assert ledger.record(KEY, [made]) == 1
    (annotation,) = ledger.annotations(KEY)
    parsed = said(1, "cat", "dog", completed_by=7, ground_truth=True)
    data, offered = {"image": "/data/1.jpg"}, label_space_of(CONFIG)
    assert annotation == CurrentAnnotation(ledger.last_event(KEY), parsed, data, offered, made.received_at)
    assert annotation.offered is not None
    assert ("tree",) in annotation.offered.choices["tags"]


def test_the_same_event_again_is_no_other_one(ledger: Ledger) -> None:
    history = [event(1, "cat"), event(1, "cat", "dog", at=1), event(2), deleted(3), task_deleted(4)]
    assert ledger.record(KEY, history) == 5
    last = ledger.last_event(KEY)
    assert ledger.record(KEY, history) == 0
    assert ledger.record(KEY, [*history, *history, event(5)]) == 1
    assert ledger.record(KEY, [replace(history[0], received_at=NOW + MINUTE)]) == 0
    assert len(ledger.headers(KEY)) == 6
    assert ledger.changes_since(KEY, last).total == 1


def test_edits_and_deletions_of_a_project_and_of_no_other(ledger: Ledger) -> None:
    history = [event(1, "dog", at=2), event(1, "cat"), event(2, "cat"), event(3, "cat", task=9)]
    ledger.record(KEY, [*history, event(9, "cat", task=8)])
    assert usable(ledger) == {1: {"dog"}, 2: {"cat"}, 3: {"cat"}, 9: {"cat"}}
    ledger.record(KEY, [deleted(2), task_deleted(9)])
    assert usable(ledger) == {1: {"dog"}, 9: {"cat"}}, "numbers of tasks are their own"
    ledger.record(KEY, [event(2, "cat", at=9), event(3, at=9, task=9)])
    assert usable(ledger) == {1: {"dog"}, 9: {"cat"}}
    for other in (replace(KEY, instance="http://other"), replace(KEY, id=4), replace(KEY, created=5)):
        assert (ledger.annotations(other), ledger.last_event(other), ledger.shown(other)) == ([], 0, {})


def test_pending_is_what_changed_since_an_event(ledger: Ledger) -> None:
    ledger.record(KEY, [event(1, "cat"), event(2, "cat"), event(3, "cat", was_cancelled=True), event(7, "cat")])
    used = ledger.last_event(KEY)
    assert (ledger.changes_since(KEY, 0).total, ledger.changes_since(KEY, used).total) == (3, 0)
    ledger.record(KEY, [event(1, "cat", at=1), event(4, auto_created=True), event(5, was_cancelled=True)])
    assert ledger.changes_since(KEY, used).total == 0
    ledger.record(KEY, [event(1, "dog", at=2), event(1, "tree", at=3), deleted(2), event(6, "cat")])
    ledger.record(KEY, [event(3, "cat", at=1), event(7, "cat", at=1, was_cancelled=True)])  # answered, skipped
    found = ledger.changes_since(KEY, used)
    assert (found.added, found.edited, found.withdrawn, found.total) == (2, 1, 2, 5)


def test_events_of_a_project_from_before_it_was_known_and_up_to_an_earlier_moment(ledger: Ledger) -> None:
    ledger.record(NOBODYS, [event(1, "cat"), event(2, "cat")])
    ledger.record(KEY, [event(1, "cat"), event(1, "dog", at=1)])
    assert usable(ledger) == {1: {"dog"}, 2: {"cat"}}
    assert usable(ledger, NOBODYS) == {1: {"cat"}, 2: {"cat"}}
    assert sorted(ledger.last_events()) == [NOBODYS, KEY]
    then, before = ledger.last_event(KEY), ledger.fingerprint(KEY)
    ledger.record(KEY, [event(2, "cat")])
    assert ledger.fingerprint(KEY).hash == before.hash
    ledger.record(KEY, [event(1, "tree", at=2), deleted(2)])
    assert ledger.fingerprint(KEY, up_to=then) == before != ledger.fingerprint(KEY), "an earlier moment can be read"
    assert [each.parsed.id for each in ledger.annotations(KEY, up_to=then)] == [1, 2]


def test_another_process_sees_it_at_once(ledger: Ledger, settings: Settings) -> None:
    program = """
import os
from ram_backend.database.migrate import open_migrated
from ram_backend.feedback.ledger import Ledger
from ram_backend.settings import load_settings
from feedback.saying import KEY, event
Ledger(open_migrated(load_settings())).record(KEY, [event(1, 'cat')])
os._exit(9)  # nothing is closed in order
"""
    environment = {"RAM_DATA_DIR": str(settings.data_dir), "PYTHONPATH": ":".join(sys.path), "PATH": ""}
    if settings.database_url:
        environment["RAM_DATABASE_URL"] = settings.database_url
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 9
    assert usable(ledger) == {1: {"cat"}}


def test_many_writers_at_once_lose_nothing_and_write_nothing_twice(ledger: Ledger, settings: Settings) -> None:
    history = [event(number, "cat") for number in range(1, 41)]
    seen: list[int] = []

    def write(seed: int) -> None:
        own = open_migrated(settings)
        mixed = random.Random(seed).sample(history, len(history))
        for start in range(0, len(mixed), 5):
            seen.append(Ledger(own).record(KEY, mixed[start : start + 5]))
        own.close()

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(4)))
    assert sum(seen) == 40
    assert len(ledger.headers(KEY)) == 40


def test_a_reader_that_has_seen_an_event_has_seen_all_before_it(ledger: Ledger, settings: Settings) -> None:
    """Numbers are given out one transaction after another: what is counted from a mark on is never too little."""

    def write(first: int) -> None:
        own = open_migrated(settings)
        for number in range(first, first + 100):
            Ledger(own).record(KEY, [event(number, "cat")])
        own.close()

    marks: list[tuple[int, int]] = []
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, 1 + 1000 * number) for number in range(3)]
        while not all(each.done() for each in writers):
            numbers = [line.event_id for line in ledger.headers(KEY)]
            marks.append((max(numbers, default=0), len(numbers)))
        assert [each.exception() for each in writers] == [None] * 3
    numbers = [line.event_id for line in ledger.headers(KEY)]
    for mark, count in marks:
        assert sum(number <= mark for number in numbers) == count


def test_what_no_database_keeps_does_no_harm(ledger: Ledger) -> None:
    ledger.record(KEY, [event(1, "a\0b", "\ud800", "ü🐈")])
    assert usable(ledger) == {1: {"a\0b", "?", "ü🐈"}}
    ledger.record_shown(KEY, [shown(1, ["a\0b"], model_version="a\0\ud800")])
    assert ledger.shown(KEY)[1][0].choices[0].path == ("a\0b",)


# What was shown


def test_what_was_shown_is_read_again(ledger: Ledger) -> None:
    images = (ShownImage("image", "/data/1.jpg", "ab" * 32, 2**64 - 1),)
    first = shown(1, ["cat"], ["dog"], images=images, version="v0003")
    second = shown(1, ["dog"], model_version="starter-2", shown_at=NOW)
    ledger.record_shown(KEY, [second, first, shown(2), shown(3)])
    assert ledger.shown(KEY) == {1: [first, second], 2: [shown(2)], 3: [shown(3)]}
    assert ledger.images(KEY) == {image_key(1, "/data/1.jpg"): ("ab" * 32, 2**64 - 1)}
    again = replace(second, choices=first.choices, shown_at=NOW + MINUTE)
    ledger.record_shown(KEY, [again])
    assert ledger.shown(KEY)[1] == [first, again], "the last that was served"
    ledger.record(KEY, [event(7, "cat", task=2)])
    ledger.record(NOBODYS, [event(8, task=3)])
    assert set(ledger.shown(KEY, annotated=True)) == {2, 3}


def test_a_listing_adds_the_number_to_what_was_served_and_no_more(ledger: Ledger) -> None:
    listed = shown(1, ["tree"], prediction_id=17, source="listing", shown_at=NOW)
    for one, other in ((listed, shown(1, ["cat"], ["dog"])), (shown(2, ["cat"], ["dog"]), replace(listed, task_id=2))):
        ledger.record_shown(KEY, [one])
        ledger.record_shown(KEY, [other])
    for task in (1, 2):
        assert ledger.shown(KEY)[task] == [shown(task, ["cat"], ["dog"], prediction_id=17)]


def test_an_image_that_changed_is_what_it_was_last(ledger: Ledger) -> None:
    reference = "data:image/png;base64," + "A" * 100_000
    one, other = image_key(1, reference), image_key(2, reference)
    ledger.record_images(KEY, {one: ("aa", 1), other: ("cc", 3)})
    ledger.record_images(KEY, {one: ("bb", 2)})
    assert ledger.images(KEY) == {one: ("bb", 2), other: ("cc", 3)}
    ledger.record_images(KEY, {})
