"""`ram-backend versions`: what an admin sees of what was learned, and does about it."""

import json
import os
from typing import Any

import pytest
from support import commands
from support.jobs import CONFIG
from support.versions import ACCEPT, REJECT, delta, lineage, write

from ram_backend.database.migrate import open_migrated
from ram_backend.errors import VersionDamaged, VersionNotFound, VersionRefused
from ram_backend.jobs.table import JobTable
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import load_settings
from ram_backend.versions.directory import write_version
from ram_backend.versions.table import VersionTable

KEY = ProjectKey("http://localhost:8080", 7, 70)
RANDOM = {"random.images": 60.0, "random.incumbent": 1.474, "random.candidate": 1.2, "random.calibration_error": 0.02}
COUNTED = ACCEPT | {"figures": {"vanished.person": 5.0, "vanished.truck": 12.0, "found.chair": 4.0} | RANDOM}


def run(command: str, *arguments: object) -> str:
    return commands.run("versions", command, 7, *arguments)


def requested() -> list[tuple[ProjectKey, str]]:
    """The jobs that were asked for: what each refreshes, and why."""
    queue = JobTable(open_migrated(load_settings()))
    return [(job.key, job.reason) for job in queue.jobs(kind="refresh")]


@pytest.fixture
def table() -> VersionTable:
    """Project 7 with two accepted versions, the second one served, and a rejected one."""
    table, folder = VersionTable(commands.connect(KEY, CONFIG)), load_settings().versions_dir
    for bias, parent, verdict in ((0.0, None, ACCEPT), (1.0, "v0001", ACCEPT), (2.0, "v0002", REJECT)):
        table.record(write(folder, bias, key=KEY, parent=parent, verdict=verdict))
    table.publish(KEY, "v0001", expected=None)
    table.publish(KEY, "v0002", expected="v0001")
    return table


def test_a_project_without_versions() -> None:
    commands.connect(KEY)
    assert "no version yet" in run("list")
    assert json.loads(run("list", "--json"))["versions"] == []


def test_list(table: VersionTable) -> None:
    said = run("list")
    assert [part for part in ("v0001", "rejected", REJECT["reason"]) if part not in said] == []
    (served,) = [line for line in said.splitlines() if line.endswith("served")]
    assert served.startswith("v0002")
    facts = json.loads(run("list", "--json"))
    assert (facts["served"], facts["pinned"]) == ("v0002", False)
    states = [(each["version"], each["state"], each["served"]) for each in facts["versions"]]
    assert states == [("v0001", "accepted", False), ("v0002", "accepted", True), ("v0003", "rejected", False)]


def test_show(table: VersionTable) -> None:
    facts = json.loads(run("show", "v0002", "--json"))
    assert facts["lineage"] == lineage("v0001").to_json()
    assert facts["files"] == "whole"
    said = run("show", "v0002")
    for expected in ("v0002, accepted, served", "v0001", "residual from 100 corrections", ACCEPT["reason"], "whole"):
        assert expected in said
    stored = table.record(write(load_settings().versions_dir, 3.0, key=KEY, parent="v0002", verdict=COUNTED))
    said = run("show", stored.name)
    assert "truck 12, person 5" in said
    assert "chair 4" in said
    assert "60, 1.47 -> 1.20 edits each, calibration error 0.020" in said
    with pytest.raises(VersionNotFound, match="v0003"):
        run("show", "v0009")
    (path,) = load_settings().versions_dir.glob("*/v0002/delta.safetensors")
    os.truncate(path, 10)
    assert "10 bytes instead of" in run("show", "v0002")


def test_diff(table: VersionTable) -> None:
    facts = json.loads(run("diff", "v0001", "v0002", "--json"))
    assert facts["tags_that_differ"] == 2
    assert facts["tags"][0]["before"]["bias"] == 0.0
    assert facts["tags"][0]["after"]["bias"] == 1.0
    assert run("diff", "v0001", "v0001").splitlines()[-1] == "No tag differs."
    base = json.loads(run("diff", "base", "v0001", "--json"))
    assert base["tags"][0]["weights_moved"] == pytest.approx(0.25 * 3**0.5)
    said = run("diff", "base", "v0002", "--top", 1)
    assert "and 1 more" in said
    assert "bundle's to 0.50" in said
    assert "0.50 to 0.73" in said, "a bias of 1"
    changed = delta(0.0)
    changed.weight[1] += 2.0
    changed.thresholds[0] = 0.7
    stored = write_version(load_settings().versions_dir, KEY, changed, {}, lineage(), ACCEPT)
    table.record(stored)
    tags: list[dict[str, Any]] = json.loads(run("diff", "v0001", stored.name, "--json"))["tags"]
    assert [each["tag"] for each in tags] == ["green", "red"], "the most changed one first"
    assert (tags[1]["before"]["threshold"], tags[1]["after"]["threshold"]) == (0.5, 0.7)


def test_rollback_activate_pin_and_unpin(table: VersionTable) -> None:
    run("rollback", "v0002")
    assert (table.served(KEY).pinned, requested()) == (True, []), "to what is served it only pins"
    said = run("rollback")
    assert "is served v0001 instead of v0002, and pinned" in said
    assert "A worker brings Label Studio's predictions up to date (job " in said
    assert requested() == [(KEY, "v0001 is served instead of v0002")]
    now = table.served(KEY)
    assert (now.version, now.pinned) == ("v0001", True)
    assert "served, pinned" in run("list")
    run("rollback")
    assert table.served(KEY).name == "base", "the parent of the first version"
    with pytest.raises(VersionRefused, match="nothing before it"):
        run("rollback")
    assert "is served v0002 instead of base" in run("activate", "v0002")
    assert table.served(KEY).version == "v0002"
    assert "not pinned any more; it is served v0002" in run("unpin")
    assert not table.served(KEY).pinned
    assert "pinned to v0002" in run("pin")
    assert table.served(KEY).pinned


def test_a_label_config_that_cannot_be_used_is_said(table: VersionTable) -> None:
    commands.connect(KEY, "<View")
    assert "No prediction follows: " in run("activate", "v0001")


def test_rollback_to_what_may_not_be_served(table: VersionTable) -> None:
    with pytest.raises(VersionRefused, match="not accepted"):
        run("rollback", "v0003")
    (path,) = load_settings().versions_dir.glob("*/v0001/delta.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(VersionDamaged, match="bytes instead of"):
        run("rollback", "v0001")
    assert table.served(KEY).version == "v0002"
    table.quarantine(KEY, "v0001", "it was truncated")
    assert "quarantined" in run("list")
    path.write_bytes(whole)
    run("rollback", "v0001")
    assert table.get(KEY, "v0001").quarantined is None, "its files are whole again"
