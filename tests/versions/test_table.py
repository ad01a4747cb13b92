"""What is served: published by compare-and-swap, rolled back and pinned, the same on SQLite and PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from support.versions import BUNDLE, KEY, OTHER, REJECT, write

from ram_backend.database.engine import Database
from ram_backend.errors import JobLost, ProjectPinned, VersionConflict, VersionNotFound, VersionRefused
from ram_backend.versions.directory import Version, version_path
from ram_backend.versions.table import VersionTable, incumbent_of, prune


@pytest.fixture
def stored(table: VersionTable, tmp_path: Path) -> list[Version]:
    """Three accepted versions, each the parent of the next, and a rejected one."""
    made = [write(tmp_path, float(number), parent=f"v{number:04d}" if number else None) for number in range(3)]
    made.append(write(tmp_path, 9.0, parent="v0003", verdict=REJECT))
    for each in made:
        table.record(each)
    return made


def test_recording(table: VersionTable, stored: list[Version], tmp_path: Path) -> None:
    assert table.record(stored[0]).recorded_at == table.get(KEY, "v0001").recorded_at, "once more changes nothing"
    records = table.list(KEY)
    assert [each.name for each in records] == ["v0001", "v0002", "v0003", "v0004"]
    assert [each.state for each in records] == ["accepted", "accepted", "accepted", "rejected"]
    assert records[1].lineage == stored[1].lineage
    assert records[3].verdict == REJECT
    assert table.next_number(KEY) == 5
    assert table.list(OTHER) == []
    assert table.served(KEY).version is None, "recording serves nothing"
    with pytest.raises(VersionConflict, match="another v0001 already"):
        table.record(write(tmp_path / "elsewhere", 77.0))


def test_publishing_over_something_else_than_was_compared_with(table: VersionTable, stored: list[Version]) -> None:
    table.publish(KEY, "v0001", expected=None)
    for expected in (None, "v0002"):
        with pytest.raises(VersionConflict, match=r"served v0001 by now.*compare again"):
            table.publish(KEY, "v0003", expected=expected)
    assert table.served(KEY).version == "v0001"


def test_what_may_not_be_served(table: VersionTable, stored: list[Version]) -> None:
    with pytest.raises(VersionRefused, match=r"not accepted by the gate \(mAP fell from 0.50 to 0.40\)"):
        table.publish(KEY, "v0004", expected=None)
    with pytest.raises(VersionRefused, match="not accepted"):
        table.roll_back(KEY, "v0004")
    with pytest.raises(VersionNotFound, match=r"no version 'v0009' \(known: base, v0001, v0002, v0003, v0004\)"):
        table.publish(KEY, "v0009", expected=None)
    for name in ("", "base ", "v1", "v01", "../v0001", "v99999999999999999999"):
        with pytest.raises(VersionNotFound):
            table.roll_back(KEY, name)
    table.quarantine(KEY, "v0002", "a file is missing")
    with pytest.raises(VersionRefused, match="quarantined: a file is missing"):
        table.publish(KEY, "v0002", expected=None)
    table.quarantine(KEY, "v0002", None)
    assert table.publish(KEY, "v0002", expected=None).version == "v0002"


def test_a_guard_writes_in_the_same_transaction(table: VersionTable, stored: list[Version], database: Database) -> None:
    def object_to_it(session: Session) -> None:
        raise JobLost("This job was taken over by another worker.")

    def mark(session: Session) -> None:
        session.execute(text("UPDATE backend SET pinned_host = 'marked'"))

    def marked() -> object:
        with database.reading() as session:
            return session.execute(text("SELECT pinned_host FROM backend")).scalar()

    with pytest.raises(VersionConflict):
        table.publish(KEY, "v0002", expected="v0001", in_transaction=mark)
    assert marked() is None
    with pytest.raises(JobLost):
        table.publish(KEY, "v0001", expected=None, in_transaction=object_to_it)
    assert table.changes().served == ()
    table.publish(KEY, "v0001", expected=None, in_transaction=mark)
    assert marked() == "marked"


def test_rolling_back_pins(table: VersionTable, stored: list[Version]) -> None:
    table.publish(KEY, "v0001", expected=None)
    table.publish(KEY, "v0002", expected="v0001")
    back = table.roll_back(KEY, "v0001")
    assert (back.version, back.pinned, back.digest) == ("v0001", True, stored[0].digest)
    with pytest.raises(ProjectPinned, match=r"pinned to v0001: v0003 is kept and not served"):
        table.publish(KEY, "v0003", expected="v0001")
    assert table.pin(KEY, pinned=False).version == "v0001", "unpinning changes nothing by itself"
    assert table.publish(KEY, "v0003", expected="v0001").pinned is False
    base = table.roll_back(KEY, None)
    assert (base.version, base.name, base.pinned, base.digest) == (None, "base", True, None)
    with pytest.raises(ProjectPinned, match="pinned to base"):
        table.publish(KEY, "v0003", expected=None)


def test_changes_are_told_once(table: VersionTable, stored: list[Version]) -> None:
    start = table.changes().change
    table.publish(KEY, "v0001", expected=None)
    seen = table.changes(start)
    assert [each.version for each in seen.served] == ["v0001"]
    assert table.changes(seen.change).served == ()
    table.publish(KEY, "v0002", expected="v0001")
    table.pin(KEY)
    last = table.changes(seen.change)
    assert [(each.version, each.pinned) for each in last.served] == [("v0002", True)]
    assert table.changes(last.change + 100).served == last.served, "a restored database is read from the start"
    assert table.changes().served == last.served


def test_one_of_many_publishers_wins(table: VersionTable, stored: list[Version]) -> None:
    outcomes: list[str] = []

    def publish(name: str) -> None:
        try:
            outcomes.append(str(table.publish(KEY, name, expected=None).version))
        except VersionConflict:
            outcomes.append("conflict")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(publish, [f"v000{1 + number % 3}" for number in range(6)]))
    assert sorted(outcomes)[:5] == ["conflict"] * 5
    assert table.served(KEY).version == max(outcomes)


def test_retention(table: VersionTable, tmp_path: Path) -> None:
    for number in range(8):
        table.record(write(tmp_path, float(number), parent=f"v{number:04d}" if number else None))
    table.publish(KEY, "v0004", expected=None)
    assert prune(table, tmp_path, KEY, 2) == ["v0001", "v0002", "v0005", "v0006"]
    left = [each.name for each in table.list(KEY) if not each.removed]
    assert left == ["v0003", "v0004", "v0007", "v0008"], "the latest two, the served one and its parent"
    assert [name for name in left if not version_path(tmp_path, KEY, name).is_dir()] == []
    assert not version_path(tmp_path, KEY, "v0005").exists()
    with pytest.raises(VersionRefused, match="removed from disk"):
        table.roll_back(KEY, "v0005")
    assert prune(table, tmp_path, KEY, 2) == []
    assert table.get(KEY, "v0001").state == "removed"
    assert "v0007" in table.retire(KEY, 1)
    assert version_path(tmp_path, KEY, "v0007").is_dir()
    assert prune(table, tmp_path, KEY, 1) == ["v0003", "v0007"], "what a killed one has left goes next time"


def test_the_incumbent(table: VersionTable, stored: list[Version], tmp_path: Path) -> None:
    assert incumbent_of(table, tmp_path, KEY, BUNDLE) == (table.served(KEY), None)
    served = table.publish(KEY, "v0002", expected=None)
    _, now = incumbent_of(table, tmp_path, KEY, BUNDLE)
    assert now is not None
    assert now.delta.bias[0] == 1.0
    (stored[1].path / "delta.safetensors").write_bytes(b"")
    assert incumbent_of(table, tmp_path, KEY, BUNDLE) == (served, None)
