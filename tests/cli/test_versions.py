"""`ram-backend versions`: what an admin sees of what was learned, and does about it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from support.versions import REJECT, lineage, write
from typer.testing import CliRunner

from ram_backend.cli.versions import app
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import ProjectNotFound, VersionDamaged, VersionNotFound, VersionRefused
from ram_backend.jobs.queue import JobQueue
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.directory import write_version
from ram_backend.versions.table import VersionTable

KEY = ProjectKey("http://localhost:8080", 7, 70)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def connect(settings: Settings) -> None:
    setup = Setup.read(KEY, label_config="<View/>", access_token=None, extra_params=None)
    ProjectTable(open_migrated(settings)).apply(setup)


def requested() -> list[tuple[ProjectKey, str]]:
    """The jobs that were asked for: what each refreshes, and why."""
    queue = JobQueue(open_migrated(load_settings()))
    return [(job.key, job.reason) for job in queue.jobs(kind="refresh")]


@pytest.fixture
def table() -> VersionTable:
    """Project 7 with two accepted versions, the second one served, and a rejected one."""
    settings = load_settings()
    connect(settings)
    table = VersionTable(open_migrated(settings))
    for bias, parent, verdict in ((0.0, None, None), (1.0, "v0001", None), (2.0, "v0002", REJECT)):
        more = {} if verdict is None else {"verdict": verdict}
        table.record(write(settings.versions_dir, bias, key=KEY, parent=parent, **more))
    table.publish(KEY, "v0001", expected=None)
    table.publish(KEY, "v0002", expected="v0001")
    return table


def test_a_project_without_versions() -> None:
    connect(load_settings())
    assert "no version yet" in run("list", 7)
    assert json.loads(run("list", 7, "--json"))["versions"] == []


def test_list(table: VersionTable) -> None:
    said = run("list", 7)
    assert "v0001" in said
    assert REJECT["reason"] in said, "why it was rejected can be read"
    assert "rejected" in said
    (served,) = [line for line in said.splitlines() if line.endswith("served")]
    assert served.startswith("v0002")
    facts = json.loads(run("list", 7, "--json"))
    assert (facts["served"], facts["pinned"]) == ("v0002", False)
    assert [(each["version"], each["state"], each["served"]) for each in facts["versions"]] == [
        ("v0001", "accepted", False),
        ("v0002", "accepted", True),
        ("v0003", "rejected", False),
    ]


def test_show(table: VersionTable) -> None:
    facts = json.loads(run("show", 7, "v0002", "--json"))
    assert facts["lineage"] == lineage("v0001").to_json()
    assert facts["files"] == "whole"
    said = run("show", 7, "v0002")
    for expected in ("lineage.parent", "v0001", "lineage.corrections.withdrawn", "lineage.seed", "residual", "whole"):
        assert expected in said
    with pytest.raises(VersionNotFound, match="v0003"):
        run("show", 7, "v0009")
    with pytest.raises(ProjectNotFound):
        run("show", 8, "v0001")


def test_show_says_what_is_damaged(table: VersionTable) -> None:
    settings = load_settings()
    (path,) = settings.versions_dir.glob("*/v0002/delta.safetensors")
    os.truncate(path, 10)
    assert "10 bytes instead of" in run("show", 7, "v0002")


def test_diff(table: VersionTable) -> None:
    facts = json.loads(run("diff", 7, "v0001", "v0002", "--json"))
    assert facts["tags_that_differ"] == 2
    assert facts["tags"][0]["before"]["bias"] == 0.0
    assert facts["tags"][0]["after"]["bias"] == 1.0
    assert run("diff", 7, "v0001", "v0001").splitlines()[-1] == "No tag differs."
    base = json.loads(run("diff", 7, "base", "v0001", "--json"))
    assert base["corrections_between"] == 100
    assert base["tags"][0]["weights_moved"] == pytest.approx(0.25 * 3**0.5)
    said = run("diff", 7, "base", "v0002", "--top", 1)
    assert "and 1 more" in said
    assert "bundle's to 0.5" in said


def test_diff_puts_first_what_changed_most(table: VersionTable) -> None:
    from support.versions import delta

    from ram_backend.models.delta import Delta

    settings = load_settings()
    plain = delta(0.0)
    tensors = {name: array.copy() for name, array in plain.to_tensors().items()}
    tensors["weight"][1] += 2.0
    tensors["thresholds"][0] = 0.7
    stored = write_version(
        settings.versions_dir, KEY, Delta.from_tensors(plain.tags, tensors), {}, lineage(), {"outcome": "accept"}
    )
    table.record(stored)
    tags: list[dict[str, Any]] = json.loads(run("diff", 7, "v0001", stored.name, "--json"))["tags"]
    assert [each["tag"] for each in tags] == ["green", "red"]
    assert (tags[1]["before"]["threshold"], tags[1]["after"]["threshold"]) == (0.5, 0.7)


def test_rollback(table: VersionTable) -> None:
    said = run("rollback", 7)
    assert "is served v0001 instead of v0002, and pinned" in said
    assert "A worker brings Label Studio's predictions up to date (job " in said
    assert requested() == [(KEY, "rolled back from v0002 to v0001")]
    now = table.served(KEY)
    assert (now.version, now.pinned) == ("v0001", True)
    assert "served, pinned" in run("list", 7)
    run("rollback", 7)
    assert table.served(KEY).name == "base", "the parent of the first version"
    with pytest.raises(VersionRefused, match="nothing before it"):
        run("rollback", 7)
    run("rollback", 7, "v0002")
    assert table.served(KEY).version == "v0002"


def test_rollback_to_what_is_served_only_pins(table: VersionTable) -> None:
    run("rollback", 7, "v0002")
    assert table.served(KEY).pinned
    assert requested() == []


def test_rollback_to_what_may_not_be_served(table: VersionTable) -> None:
    with pytest.raises(VersionRefused, match="not accepted"):
        run("rollback", 7, "v0003")
    with pytest.raises(VersionNotFound):
        run("rollback", 7, "v0042")
    settings = load_settings()
    (path,) = settings.versions_dir.glob("*/v0001/delta.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(VersionDamaged, match="bytes instead of"):
        run("rollback", 7, "v0001")
    assert table.served(KEY).version == "v0002"
    table.quarantine(KEY, "v0001", "it was truncated")
    assert "quarantined" in run("list", 7)
    path.write_bytes(whole)
    run("rollback", 7, "v0001")
    assert table.get(KEY, "v0001").quarantined is None, "its files are whole again"


def test_pin_and_unpin(table: VersionTable) -> None:
    assert "pinned to v0002" in run("pin", 7)
    assert table.served(KEY).pinned
    assert "not pinned any more; it is served v0002" in run("unpin", 7)
    assert not table.served(KEY).pinned
