"""Schedules under a simulated clock: each period once, whatever the clock, the server or other workers do."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from support.jobs import KEY, OTHER, claimed, connect

from ram_backend.database.engine import Database, open_database
from ram_backend.errors import InputError
from ram_backend.jobs.job import JobResult
from ram_backend.jobs.schedules import ScheduleTable
from ram_backend.jobs.table import JobTable
from ram_backend.settings import Settings
from ram_backend.versions.table import VersionTable

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def schedules(database: Database) -> ScheduleTable:
    return ScheduleTable(database)


def do_all(queue: JobTable) -> int:
    """Workers do what waits; the number of jobs."""
    waiting = queue.due()
    for job in waiting:
        queue.finish(claimed(queue, job.id), JobResult("done"))
    return len(waiting)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("day", "cron", "expected"),
    [
        ("2026-03-29", "30 2 * * *", ["03:30"]),  # left out by the change to summer time
        ("2026-10-25", "30 2 * * *", ["02:30"]),  # comes twice
        ("2026-03-29", "0 1-4 * * *", ["01:00", "03:00", "04:00"]),
        ("2026-10-25", "0 1-4 * * *", ["01:00", "02:00", "03:00", "04:00"]),
        ("2026-07-01", "30 2 * * *", ["02:30"]),
    ],
)
def test_each_day_once_whatever_the_clock_does(
    schedules: ScheduleTable, queue: JobTable, day: str, cron: str, expected: list[str]
) -> None:
    """A worker looks each five minutes, from noon to noon."""
    now, ran = at(f"{day}T12:00").astimezone(UTC) - timedelta(days=1), []
    schedules.set(KEY, "reconcile", cron, "Europe/Berlin", now=now)
    while now < at(f"{day}T12:00"):
        if schedules.request_due(now=now):
            ran.append(f"{now.astimezone(BERLIN):%H:%M}")
            assert do_all(queue) == 1
        now += timedelta(minutes=5)
    assert ran == expected


def test_woken_while_the_repeated_hour_lasts_it_runs_once(schedules: ScheduleTable, queue: JobTable) -> None:
    schedules.set(KEY, "train", "30 2 * * *", "Europe/Berlin", now=at("2026-10-25T00:00"))
    again = datetime(2026, 10, 25, 2, 10, fold=1, tzinfo=BERLIN)
    assert len(schedules.request_due(now=again)) == 1
    do_all(queue)
    assert schedules.request_due(now=again + timedelta(hours=2)) == []
    assert schedules.schedules(KEY)[0].local_due == "2026-10-26 02:30 CET"


def test_missed_periods_are_made_up_for_once(schedules: ScheduleTable, queue: JobTable) -> None:
    schedules.set(KEY, "train", "0 * * * *", "UTC", now=datetime(2026, 7, 1, 9, 30, tzinfo=UTC))
    woken = datetime(2026, 7, 1, 12, 40, tzinfo=UTC)  # 10, 11 and 12 o'clock are over
    (job,) = schedules.request_due(now=woken)
    assert (job.key, job.kind, job.reason) == (KEY, "train", "scheduled: 0 * * * *, UTC")
    assert do_all(queue) == 1
    assert schedules.request_due(now=woken + timedelta(minutes=1)) == []
    assert len(schedules.request_due(now=woken + timedelta(minutes=20))) == 1


def test_of_two_workers_one_requests(settings: Settings, schedules: ScheduleTable, queue: JobTable) -> None:
    for minute in range(10):
        now = datetime(2026, 7, 1, 9, minute, 30, tzinfo=UTC)
        schedules.set(KEY, "refresh", "* * * * *", "UTC", now=now - timedelta(minutes=1))
        workers = [ScheduleTable(open_database(settings)) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            found = [job for jobs in pool.map(lambda each, now=now: each.request_due(now=now), workers) for job in jobs]
        assert len(found) == 1
        assert do_all(queue) == 1


def test_a_pinned_project_is_not_trained(database: Database, schedules: ScheduleTable, queue: JobTable) -> None:
    VersionTable(database).pin(KEY)
    for kind in ("train", "refresh"):
        schedules.set(KEY, kind, "* * * * *", now=datetime(2026, 7, 1, tzinfo=UTC))
    assert [job.kind for job in schedules.request_due(now=datetime(2026, 7, 2, tzinfo=UTC))] == ["refresh"]


def test_a_kind_has_one_schedule_and_projects_their_own(database: Database, schedules: ScheduleTable) -> None:
    connect(database, OTHER)
    for key, cron in ((KEY, "0 1 * * *"), (KEY, "0  2 * * *"), (OTHER, "0 3 * * *")):
        schedules.set(key, "train", cron)
    assert [each.cron for each in schedules.schedules(KEY)] == ["0 2 * * *"]
    schedules.remove(KEY, "train")
    assert schedules.schedules(KEY) == []
    assert [each.cron for each in schedules.schedules(OTHER)] == ["0 3 * * *"]
    with pytest.raises(InputError, match="no schedule of 'train'"):
        schedules.remove(KEY, "train")


@pytest.mark.parametrize(
    ("kind", "cron", "zone", "said"),
    [
        ("prelabel", "* * * * *", "UTC", "give one of train"),
        ("train", "61 * * * *", "UTC", "names no time"),
        ("train", "* * * * * *", "UTC", "names no time"),
        ("train", "* * * * *", "Mars/Olympus", "not a time zone"),
        ("train", "* * * * *", "../etc", "not a time zone"),
    ],
)
def test_what_can_not_be_used(schedules: ScheduleTable, kind: str, cron: str, zone: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        schedules.set(KEY, kind, cron, zone)
    assert schedules.schedules(KEY) == []
