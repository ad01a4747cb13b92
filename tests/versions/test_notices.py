"""Notices over Valkey: they hasten things, and nothing depends on them."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from ram_backend.jobs.valkey import Valkey
from ram_backend.settings import load_settings
from ram_backend.versions import notices as module
from ram_backend.versions.notices import Listener, announce


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_nobody_there_is_no_error() -> None:
    assert announce(None) is False
    assert announce("") is False
    assert announce(f"redis://127.0.0.1:{closed_port()}") is False
    assert announce("no address at all") is False


def test_a_listener_without_a_server_ends_when_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = threading.Event()
    listener = Listener(f"redis://127.0.0.1:{closed_port()}", heard.set)
    listener.start()
    listener.close()
    assert not listener._thread.is_alive()
    assert not heard.is_set()


@pytest.mark.service
def test_a_notice_is_heard_also_after_the_server_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSES_S", (0.05, 0.1))
    settings = load_settings(data_dir=tmp_path / "data")
    heard = threading.Semaphore(0)
    valkey = Valkey(settings).__enter__()
    listener = Listener(valkey.url, heard.release)
    listener.start()
    try:
        assert heard.acquire(timeout=30), "a new connection counts as one: something may have been missed"
        assert announce(valkey.url)
        assert heard.acquire(timeout=30)
        valkey.__exit__(None, None, None)
        valkey = Valkey(settings).__enter__()
        assert heard.acquire(timeout=30), "connected again"
        assert announce(valkey.url)
        assert heard.acquire(timeout=30)
    finally:
        listener.close()
        valkey.__exit__(None, None, None)
