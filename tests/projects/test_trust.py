"""Which Label Studio is trusted, and where tokens go: settings, pins by command, pins by `/setup`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from projects.conftest import HOST, KEY, OTHER_HOST, REF, TOKEN, settle, setup
from support.processes import wait_until

from ram_backend.database.migrate import open_migrated
from ram_backend.projects.cache import ProjectCache
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Connection, Project, TrustedHost, connection_of
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import load_settings

OpenStore = Callable[..., ProjectCache]


def test_the_first_host_is_pinned_and_gets_tokens_alone(store: ProjectCache, table: ProjectTable) -> None:
    assert store.trusted_host is None
    mine, theirs = setup(store), setup(store, hostname=OTHER_HOST)
    settle(store)
    assert store.trusted_host == table.changes().trusted_host == TrustedHost(HOST, by_command=False)
    trusted, other = store.connection(mine), store.connection(theirs)
    assert (trusted.base_url, trusted.token, trusted.trusted) == (HOST, TOKEN, True)
    assert (other.base_url, other.token, other.trusted) == (OTHER_HOST, TOKEN, False), "its own token, under the guard"
    table.pin_host(OTHER_HOST)
    wait_until(lambda: store.trusted_host == TrustedHost(OTHER_HOST, by_command=True))
    assert not store.connection(mine).trusted
    assert store.connection(theirs).token == TOKEN
    setup(store)
    settle(store)
    assert table.changes().trusted_host == TrustedHost(OTHER_HOST, by_command=True)


def test_a_pin_by_command_keeps_the_token_of_its_host_only(table: ProjectTable) -> None:
    with_token = TrustedHost(HOST, by_command=True, token=TOKEN)
    table.pin_host(HOST, by_command=False)
    assert table.pin_host(HOST, token=TOKEN) == with_token == table.changes().trusted_host
    before = table.changes().change
    assert table.pin_host(HOST) == table.pin_host(OTHER_HOST, by_command=False) == with_token
    assert table.changes().change == before
    assert table.pin_host(OTHER_HOST).token is None
    assert TOKEN not in repr(with_token)
    kept = TrustedHost(OTHER_HOST, by_command=True, token="kept")
    theirs, mine = Project(ProjectKey(OTHER_HOST, 1, 1), access_token=TOKEN), Project(KEY, access_token=TOKEN)
    assert connection_of(load_settings(), theirs, kept) == Connection(OTHER_HOST, "kept", trusted=True)
    assert connection_of(load_settings(), mine, kept) == Connection(HOST, TOKEN, trusted=False), "to no other host"


@pytest.mark.parametrize(("server", "studio"), [("0.0.0.0", HOST), ("127.0.0.1", OTHER_HOST), ("127.0.0.1", "")])
def test_setup_pins_nothing_unless_both_are_on_loopback(open_store: OpenStore, server: str, studio: str) -> None:
    """Without the guard, the first request pins any address, inside the network as well."""
    store = open_store(host=server, label_studio_api_key="own")
    project = setup(store, hostname=studio)
    settle(store)
    assert store.trusted_host is None
    assert store.connection(project) == Connection(studio or None, TOKEN, trusted=False)


def test_the_settings_token_goes_to_no_host_of_setup(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(label_studio_api_key="own")
    pinned, other = setup(store), setup(store, hostname=OTHER_HOST)
    settle(store)
    assert store.connection(pinned) == Connection(HOST, TOKEN, trusted=True)
    assert store.connection(other) == Connection(OTHER_HOST, TOKEN, trusted=False)
    ProjectTable(open_migrated(load_settings(data_dir=tmp_path))).pin_host(HOST)
    wait_until(lambda: store.connection(pinned).token == "own")
    assert store.connection(other).token == TOKEN


def test_a_changed_token_is_to_be_tried_at_the_trusted_host_only(store: ProjectCache) -> None:
    def candidate_connection(hostname: str, token: str | None) -> Connection | None:
        return store.candidate_connection(store.key(REF, hostname), token)

    assert candidate_connection(HOST, "new") is None, "nothing to replace"
    setup(store)
    setup(store, hostname=OTHER_HOST)
    settle(store)
    assert candidate_connection(HOST, TOKEN) is None
    assert candidate_connection(HOST, None) is None
    assert candidate_connection(OTHER_HOST, "new") is None, "one that only /setup named"
    assert candidate_connection(HOST, "new") == Connection(HOST, "new", trusted=True)


def test_the_settings_are_stronger_than_what_setup_brings(open_store: OpenStore) -> None:
    store = open_store(label_studio_url="http://label-studio:8080/", label_studio_api_key="own")
    connection = store.connection(setup(store, hostname=OTHER_HOST))
    assert connection == Connection("http://label-studio:8080", "own", trusted=True)
    settle(store)
    assert store.trusted_host is None


def test_a_project_stays_itself_where_browsers_get_another_address(open_store: OpenStore) -> None:
    """One Label Studio by the settings: in containers its published port may change."""
    store = open_store(label_studio_url="http://label-studio:8080")
    assert setup(store).key == setup(store, hostname="http://localhost:8081").key == KEY
    assert store.key("1.5", "http://localhost:8081") == ProjectKey("http://localhost:8081", 1, 5)
    settle(store)
    assert setup(open_store(), hostname="http://localhost:8081").key != KEY
