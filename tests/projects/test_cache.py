"""Projects as the server keeps them: from memory, idempotent, in step with other processes, through outages."""

import json
import logging
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from projects.conftest import CONFIG, HOST, KEY, OTHER_HOST, TOKEN, options, settle, setup
from support.processes import wait_until

from ram_backend.database.engine import open_database
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import InputError, ProjectOptionsError
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ShownPrediction
from ram_backend.projects.cache import ProjectCache
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import ProjectOptions
from ram_backend.projects.project import Setup, TrustedHost
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings


def test_setup_is_answered_at_once_and_kept_over_a_restart(store: ProjectCache, settings: Settings) -> None:
    project = setup(store, extra_params='{"threshold": 0.5, "tags": "cat,dog"}')
    assert store.get(KEY) is project
    settle(store)
    same = setup(store, extra_params={"Threshold": 0.5, "tags": ["cat", "dog"], "top_k": None})
    assert (same, store.pending) == (project, 0), "the same again writes nothing"
    assert (project.key, project.revision, project.hostname) == (KEY, 1, HOST)
    assert project.extra_params == ProjectOptions(threshold=0.5, tags=("cat", "dog"))
    store.close()  # writes what is pending
    with closing(ProjectCache(settings).start()) as again:
        assert again.projects() == [project]
        assert again.projects()[0].access_token == TOKEN
        assert again.connection(project).token == TOKEN
        assert again.problem is None


def test_the_revision_grows_with_what_matters_for_scores_only(table: ProjectTable) -> None:
    def write(label_config: str = CONFIG, token: str | None = TOKEN, extra_params: object = None) -> int:
        setup = Setup.read(KEY, label_config=label_config, access_token=token, extra_params=extra_params)
        return table.apply(setup).revision

    assert write() == 1
    assert write(token="another") == 1
    assert write(token="another", extra_params={"threshold": 7}) == 1
    assert write(extra_params={"top_k": 3}) == 2
    assert write(CONFIG.replace("tags", "more"), None, {"top_k": 3}) == 3
    assert table.edit_options(KEY, options(0.2)).revision == 4
    assert table.edit_options(KEY, options(0.2)).revision == 4
    (stored,) = table.changes().projects
    assert (stored.revision, stored.access_token) == (4, TOKEN)


def test_bad_params_are_raised_and_stored_and_the_last_good_ones_stay(store: ProjectCache, table: ProjectTable) -> None:
    with pytest.raises(ProjectOptionsError):
        setup(store, "2.5", extra_params={"a": 1})
    settle(store)
    assert "'a'=1" in (table.changes().projects[0].extra_params_error or "")
    setup(store, extra_params={"threshold": 0.5})
    for _ in range(2):
        with pytest.raises(ProjectOptionsError, match=r"threshold=2 .*a number from 0 to 1"):
            setup(store, extra_params={"threshold": 2}, label_config="<View/>", access_token=None)
    settle(store)
    stored = table.changes().projects[-1]
    assert (stored.extra_params, stored.access_token) == (ProjectOptions(threshold=0.5), TOKEN)
    assert "threshold=2" in (stored.extra_params_error or "")
    assert stored.label_config == "<View/>"
    assert setup(store, label_config="<View/>").extra_params_error is None
    settle(store)
    stored = table.changes().projects[-1]
    assert (stored.extra_params, stored.extra_params_error) == (ProjectOptions(), None)


@pytest.mark.parametrize("bad", [{"hostname": "ftp://x"}, {"project": "one"}])
def test_a_malformed_setup_takes_nothing_in(store: ProjectCache, bad: dict[str, str]) -> None:
    with pytest.raises(InputError):
        setup(store, **bad)
    assert store.projects() == []
    assert store.trusted_host is None


def test_what_no_database_keeps_does_no_harm(store: ProjectCache, table: ProjectTable) -> None:
    setup(store, label_config="<View>\0\ud800</View>", access_token="to\0ken")
    setup(store, "2.5")
    settle(store)
    assert store.problem is None
    assert {project.label_config for project in table.changes().projects} == {"<View>?</View>", CONFIG}


def test_what_another_process_writes_is_seen(store: ProjectCache, settings: Settings) -> None:
    setup(store)
    settle(store)
    with closing(ProjectCache(settings).start()) as other:
        assert other.projects() == store.projects()
        setup(other, "2.5", label_config="<View/>")
        wait_until(lambda: len(store.projects()) == 2)
        setup(other, label_config="<View>changed</View>")
        wait_until(lambda: store.projects()[0].label_config == "<View>changed</View>")
        assert setup(store, label_config="<View>changed</View>").revision == 2
        # and back again, by the process whose own last word it was
        assert setup(store).label_config == CONFIG
        wait_until(lambda: other.get(KEY) is not None and other.get(KEY).label_config == CONFIG)  # type: ignore[union-attr]


def test_a_request_without_hostname_finds_its_project(store: ProjectCache) -> None:
    assert store.find(1, 1795452148) is None
    mine = setup(store)
    setup(store, "1.1795459999")
    assert store.find(1, 1795452148) == mine
    theirs = setup(store, hostname=OTHER_HOST)
    assert theirs.key != mine.key
    assert store.find(1, 1795452148) == mine, "the trusted host's"
    third = setup(store, "9.9", hostname="http://third")
    setup(store, "9.9", hostname="http://fourth")
    assert setup(store, "9.9", hostname="http://third") == third
    assert store.find(9, 9) == third, "the last one set up"


def test_a_locked_file_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ram_backend.database.engine.BUSY_S", 0.05)
    settings = load_settings(data_dir=tmp_path)
    with closing(ProjectCache(settings).start()) as store:
        setup(store)
        settle(store)
        locker = sqlite3.connect(tmp_path / "ram_backend.sqlite3", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        assert setup(store, extra_params={"threshold": 0.3}).revision == 2
        setup(store, "2.5")
        wait_until(lambda: store.problem)
        assert "locked" in (store.problem or "")
        assert store.pending == 2
        assert [project.key.id for project in store.projects()] == [1, 2]
        with closing(ProjectCache(settings).start()) as late:
            assert [project.key.id for project in late.projects()] == [1], "what is there can be read"
        locker.close()
        settle(store)
        wait_until(lambda: store.problem is None)
        stored = {project.key.id: project for project in ProjectTable(open_migrated(settings)).changes().projects}
        assert stored[1].extra_params == ProjectOptions(threshold=0.3)
        assert stored[1].revision == 2
        assert 2 in stored


def test_a_pin_that_was_not_known_holds_against_the_first_setup(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    ProjectTable(open_migrated(settings)).pin_host(HOST)
    store = ProjectCache(settings)  # not started: it has not read the pin
    project = setup(store, hostname=OTHER_HOST)
    assert not store.connection(project).trusted
    store.start()
    settle(store)
    assert not store.connection(project).trusted
    assert store.trusted_host == TrustedHost(HOST, by_command=True)
    store.close()


def test_a_database_put_back_from_an_older_copy(store: ProjectCache, settings: Settings) -> None:
    setup(store)
    setup(store, "2.5")
    settle(store)
    with open_database(settings).writing() as session:
        session.connection().exec_driver_sql("DELETE FROM projects WHERE project_id = 2")
        session.connection().exec_driver_sql("UPDATE backend SET change = 1")
    wait_until(lambda: [project.key.id for project in store.projects()] == [1])
    setup(store, "2.5")
    settle(store)
    assert len(ProjectTable(open_migrated(settings)).changes().projects) == 2


@pytest.mark.service
def test_a_server_that_goes_and_comes_back(cluster: Any, tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, database_url=cluster.new_database())
    with ExitStack() as stack:
        store = stack.enter_context(closing(ProjectCache(settings).start()))
        setup(store)
        settle(store)
        cluster.stop()
        try:
            wait_until(lambda: store.problem)
            assert "RAM_DATABASE_URL" in (store.problem or "")
            assert setup(store, label_config="<View/>").revision == 2
            assert setup(store, "2.5").revision == 1
            assert store.pending == 2
            assert len(store.projects()) == 2
            late = stack.enter_context(closing(ProjectCache(settings).start()))
            assert (bool(late.problem), late.projects()) == (True, [])
            mine = setup(late, "3.5")
            assert not late.connection(mine).trusted, "another host may be pinned there"
        finally:
            cluster.start()
        for each in (store, late):
            settle(each)
            wait_until(lambda each=each: each.problem is None)
        assert late.connection(mine).trusted
        stored = ProjectTable(open_migrated(settings)).changes().projects
        assert sorted(project.label_config for project in stored) == ["<View/>", CONFIG, CONFIG]


PROCESS = """
import json, sys, time
from ram_backend.projects.project import Setup
from ram_backend.projects.cache import ProjectCache
from ram_backend.settings import load_settings

number, data_dir, url = sys.argv[1:]
store = ProjectCache(load_settings(data_dir=data_dir, database_url=url or None)).start()
assert store.problem is None, store.problem
for project in range(10):
    for own in ("shared", f"own-{number}"):
        key = store.key(f"{project}.5", f"http://{own}.localhost")
        store.upsert(Setup.read(key, label_config="<View/>", access_token=None, extra_params={"top_k": 3}))
while store.pending or len(store.projects()) < 50:
    time.sleep(0.01)
trusted = store.trusted_host
print(json.dumps([trusted and trusted.host, sorted((str(each.key), each.revision) for each in store.projects())]))
store.close()
"""


def test_processes_that_start_at_once_migrate_once_and_agree(settings: Settings) -> None:
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", PROCESS]
    places = [settings.data_dir, settings.database_url or ""]
    processes = [subprocess.Popen([*command, str(number), *places], **options) for number in range(4)]
    try:
        outcomes = [each.communicate(timeout=120) for each in processes]
    finally:
        for each in processes:
            each.kill()
    assert [each.returncode for each in processes] == [0] * 4, outcomes
    answers = [json.loads(stdout) for stdout, _ in outcomes]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == "http://shared.localhost"
    assert len(answers[0][1]) == 50
    assert {revision for _, revision in answers[0][1]} == {1}
    changes = ProjectTable(open_migrated(settings)).changes()
    assert len(changes.projects) == 50
    assert changes.change == 50 + 1, "one write for each project, one for the pin"


def test_tokens_are_neither_shown_nor_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    with closing(ProjectCache(settings).start()) as store:
        project = setup(store)
        settle(store)
        shown = [repr(project), repr(store.connection(project)), repr(store.problem), repr(store._pending)]
        with pytest.raises(ProjectOptionsError) as caught:
            setup(store, extra_params={"threshold": 3}, access_token=TOKEN[::-1])
        monkeypatch.setattr(ProjectTable, "apply", lambda *_: 1 / 0)
        setup(store, label_config="<View/>")
        wait_until(lambda: store.problem)
        assert "ZeroDivisionError" in (store.problem or "")
    everything = " ".join([*shown, str(caught.value), caplog.text, (store.problem or "")])
    assert "ZeroDivisionError" in caplog.text
    assert TOKEN not in everything
    assert TOKEN[::-1] not in everything


def test_what_another_process_evicts_is_gone_unless_it_was_used(tmp_path: Path) -> None:
    own = load_settings(data_dir=tmp_path, max_projects=3)
    table = ProjectTable(open_migrated(own))
    shown = ShownPrediction(task_id=1, model_version="v", shown_at=datetime.now(UTC))
    Ledger(open_migrated(own)).record_shown(ProjectKey(HOST, 2, 5), [shown])
    with closing(ProjectCache(own).start()) as first, closing(ProjectCache(own).start()) as second:
        for number in (1, 2, 3):
            setup(first, f"{number}.5")
        wait_until(lambda: len(second.projects()) == 3)
        setup(second, "4.5", hostname=OTHER_HOST)
        wait_until(lambda: [key.id for key in sorted(table.keys())] == [2, 3, 4])
        wait_until(lambda: {each.key.id for each in first.projects()} == {2, 3, 4})
        assert (first.evicted, second.evicted) == (0, 1)
        assert not table.remove(ProjectKey(HOST, 2, 5)), "it was shown"
