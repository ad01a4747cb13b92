"""`ram-backend project`: what an admin sets, sees and is told."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import commands
from support.commands import connect, json_lines
from support.jobs import claimed
from support.server import choices_config
from support.starter import lend

from ram_backend.database.migrate import open_migrated
from ram_backend.errors import InputError, ProjectAmbiguous, ProjectNotFound, ProjectOptionsError
from ram_backend.jobs.job import Job
from ram_backend.jobs.table import JobTable
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import TrustedHost
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import load_settings

HOST, OTHER_HOST = "http://localhost:8080", "http://other:8080"
NOT_TRUSTED = "not trusted: run `ram-backend connect 1`"
SEVEN = ProjectKey(HOST, 7, 70)
CONFIG = choices_config("cat", "dog", "frobnicator of the north", attributes="{}")


def run(command: str, *arguments: object) -> str:
    return commands.run("project", command, *arguments)


def shown(project: object) -> dict:
    return json.loads(run("show", project, "--json"))


@pytest.fixture
def table() -> ProjectTable:
    """Project 7 of one Label Studio, and project 1 of two, once made anew."""
    for key in (ProjectKey(HOST, 1, 10), ProjectKey(HOST, 1, 11), ProjectKey(OTHER_HOST, 1, 10)):
        connect(key)
    table = ProjectTable(connect(SEVEN))
    table.pin_host(HOST)
    return table


def test_set_adds_and_unset_takes_back(table: ProjectTable) -> None:
    run("set", 7, "--tags", "cat, hot dog", "--per-tag", "cat=0.4", "--per-tag", "a=b=.3", "--threshold", 0.5)
    said = run("set", 7, "--per-tag", "cat=0.1", "--top-k", 2)
    assert [part for part in ("7.70@http://localhost:8080", "ram-backend prelabel 7") if part not in said] == []
    expected = {"tags": ["cat", "hot dog"], "threshold": 0.5, "per_tag": {"cat": 0.1, "a=b": 0.3}, "top_k": 2}
    facts = shown(7)
    assert facts["set"] == facts["holds"] == expected
    assert (facts["revision"], facts["access_token"], facts["host"], facts["extra_params"]) == (3, "set", "trusted", {})
    assert [part for part in ("hot dog", "a=b=0.3") if part not in run("show", 7)] == []
    run("unset", 7, "per_tag", "tags")
    assert shown(7)["set"] == {"threshold": 0.5, "top_k": 2}
    run("unset", 7, "all")
    assert shown(7)["set"] == {}
    assert {project.key.id for project in table.changes().projects if project.admin_options} == set()


def test_extra_params_are_stronger_and_their_problem_is_shown(table: ProjectTable) -> None:
    connect(SEVEN, extra_params={"threshold": 0.2})
    connect(SEVEN, extra_params='{"threshold": 9}')
    assert "threshold 0.2" in run("set", 7, "--threshold", 0.6, "--top-k", 3)
    facts = shown(7)
    assert facts["holds"] == {"threshold": 0.2, "top_k": 3}
    assert facts["extra_params"] == {"threshold": 0.2}
    for text in (facts["extra_params_problem"], run("show", 7), run("list")):
        assert "threshold=9" in text


def test_each_option_in_force_comes_from_a_layer(table: ProjectTable) -> None:
    connect(SEVEN, CONFIG.format('model_score_threshold="0.3"'), extra_params={"top_k": 4, "per_tag": {"cat": 0.2}})
    layers = {each["option"]: (each["value"], each["from"]) for each in shown(7)["in_force"]}
    assert layers["tags"] == (3, "label config")
    run("set", 7, "--tags", "cat,dog", "--threshold", 0.9, "--top-k", 9, "--per-tag", "dog=0.5")
    facts = shown(7)
    assert {each["option"]: (each["value"], each["from"]) for each in facts["in_force"]} == {
        "tags": (["cat", "dog"], "project set"),
        "threshold": (0.3, "label config, control tags"),
        "top_k": (4, "extra params"),
        "per_tag": ({"dog": 0.5, "cat": 0.2}, "extra params and project set"),
    }
    assert (facts["served"], facts["corrections"]) == ("base", "0 changed, next training at 30")
    assert "threshold 0.3  (label config, control tags)" in run("show", 7)
    run("unset", 7, "all")
    connect(SEVEN, CONFIG.format(""), extra_params={})
    assert "threshold per tag  (what is served, else the bundle starter)" in run("show", 7)


def test_list() -> None:
    assert "connect this backend" in run("list")
    for key in (ProjectKey(OTHER_HOST, 1, 10), SEVEN, ProjectKey(HOST, 1, 11), ProjectKey(HOST, 1, 10)):
        connect(key)
    text = run("list")
    names = [*(f"{project}@{HOST}" for project in ("1.10", "1.11", "7.70")), f"1.10@{OTHER_HOST}"]
    assert [name for name in names if name not in text] == []
    assert NOT_TRUSTED in text
    assert [line["project"] for line in json_lines("project", "list", "--json")] == names


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["set", "7"], InputError, "Nothing to set"),
        (["set", "7", "--threshold", "1.5"], ProjectOptionsError, "project set: threshold=1.5 .*from 0 to 1"),
        (["set", "7", "--per-tag", "cat"], InputError, "NAME=NUMBER"),
        (["set", "7", "--per-tag", "cat=nan"], InputError, "NAME=NUMBER"),
        (["set", "7", "--tags", " , "], InputError, "No tags in --tags"),
        (["set", "7", "--tags", "a", "--tags-file", "b"], InputError, "use one"),
        (["set", "7", "--tags-file", "missing.txt"], InputError, "missing.txt can't be read"),
        (["set", "8", "--threshold", "0.5"], ProjectNotFound, "no project 8 .*7.70@"),
        (["set", "1", "--threshold", "0.5"], ProjectAmbiguous, r"1\.10@http://localhost.*, 1\.10@http://other:8080"),
        (["show", "demo"], InputError, "names no project"),
        (["pin-host", "ftp://x"], InputError, "not an address"),
        (["pin-host", " "], InputError, "empty"),
    ],
)
def test_wrong_input_is_refused(table: ProjectTable, arguments: list[str], error: type[Exception], said: str) -> None:
    before = table.changes().change
    with pytest.raises(error, match=said):
        run(*arguments)
    assert table.changes().change == before


def test_pin_host(table: ProjectTable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(f"1.10@{OTHER_HOST}")["host"].startswith(NOT_TRUSTED)
    assert f"{OTHER_HOST} is trusted" in run("pin-host", "http://Other:8080/")
    assert table.changes().trusted_host == TrustedHost(OTHER_HOST, by_command=True)
    assert shown(f"1.10@{OTHER_HOST}")["host"] == "trusted"
    assert shown(7)["host"].startswith("not trusted")
    run("pin-host", "http://elsewhere")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://label-studio:8080")
    assert "LABEL_STUDIO_URL is set and stronger" in run("pin-host", HOST)
    assert (shown(7)["address"], shown(7)["host"]) == ("http://label-studio:8080", "trusted")


def test_tags_from_a_file_and_a_long_list_that_is_cut_for_people_only(table: ProjectTable, tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_text("\ufeffcat\n\n a, b \r\nété\n", encoding="utf-8")
    run("set", 7, "--tags-file", tmp_path / "tags.txt")
    assert shown(7)["set"] == {"tags": ["cat", "a, b", "été"]}
    tags = [f"tag {number}" for number in range(500)]
    assert "and 492 more" in run("set", 7, "--tags", ",".join(tags))
    assert "tag 499" not in run("show", 7)
    assert shown(7)["set"]["tags"] == tags


def test_a_precision_that_cannot_be_promised_yet(table: ProjectTable, starter_data: Path, tmp_path: Path) -> None:
    lend(starter_data, tmp_path / "data")
    connect(SEVEN, CONFIG.format(""))
    assert "precision" not in shown(7)
    run("set", 7, "--threshold", 0.4)
    run("set", 7, "--precision", 0.9)
    assert shown(7)["holds"] == {"precision": 0.9}
    (first,) = shown(7)["precision"]
    assert "that 90% of the ticks are right can't be promised" in first
    assert "can't be promised" in run("show", 7)


def test_what_the_label_config_makes_of_it_is_said(table: ProjectTable) -> None:
    connect(SEVEN, CONFIG.format('model_score_threshold="0.3"'))
    given = ("set", 7, "--tags", "Cat,ct", "--per-tag", "nosuch=0.5", "--threshold", 0.9)
    with pytest.raises(InputError, match=r"'ct' \(did you mean cat\?\), 'nosuch'; --force"):
        run(*given)
    assert shown(7)["set"] == {}
    said = run(*given, "--force")
    assert "from the label config, for 'tags': {\"threshold\": 0.3}" in said
    assert "No choice of the label config is called 'ct' (did you mean cat?), 'nosuch'" in said
    assert len(shown(7)["remarks"]) == 2
    connect(SEVEN, "<View")
    assert "label config" in shown(7)["remarks"][0]


def test_forget_counts_asks_and_removes(table: ProjectTable) -> None:
    counted = run("forget", 7, "--dry-run")
    assert "7.70@http://localhost:8080: 1 x row of projects, 0 x version" in counted
    commands.run("project", "forget", 7, status=1)  # nobody answers
    assert SEVEN in table.keys()  # noqa: SIM118
    queue = JobTable(database := open_migrated(load_settings()))
    claimed(queue, job := queue.request(SEVEN, "train", "asked for").job.id)
    with database.writing() as session:
        session.get_one(Job, job).heartbeat_at = datetime(2026, 1, 1, tzinfo=UTC)  # its worker died
    assert "forgotten" in run("forget", 7, "--yes")
    with pytest.raises(ProjectNotFound):
        run("show", 7)
    assert len(table.keys()) == 3
