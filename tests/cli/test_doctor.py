"""`ram-backend doctor` names what is missing and what to do."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ram_backend.cli.doctor import examine
from ram_backend.cli.main import app
from ram_backend.labelstudio.diagnosis import Finding, State
from ram_backend.models.bundle import STARTER
from ram_backend.models.store import find_bundle
from ram_backend.settings import load_settings


def found() -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(load_settings())}


@pytest.fixture
def http_server() -> Iterator[str]:
    """A server on the loopback interface that answers as Label Studio's version address does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"release": "1.23.2"}).encode()
            self.send_response(200 if self.path == "/api/version/" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_fresh_installation_is_well_and_says_how_to_get_ram() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "bundles pull" in result.stdout
    report = found()
    assert report["RAM_BUNDLE"].state is State.ok
    assert report["device"].state is State.ok
    assert report["Redis"].found.startswith("not set")


def test_unknown_bundle_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_BUNDLE", "ram-huge")
    bad = [finding for finding in found().values() if finding.state is State.bad]
    assert any("ram-huge" in finding.found for finding in bad)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_a_starter_of_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    find_bundle(STARTER, load_settings().bundles_dir)
    assert found()["RAM_BUNDLE"].state is State.ok
    monkeypatch.setattr(sys.modules["ram_backend.cli.doctor"], "starter_digest", lambda: "0" * 64)
    finding = found()["RAM_BUNDLE"]
    assert finding.state is State.note
    assert "another release" in finding.found
    assert "remove" in finding.remedy


def test_redis_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_REDIS_URL", "redis://me:hidden@127.0.0.1:1/0")
    finding = found()["Redis"]
    assert finding.state is State.bad
    assert "RAM_REDIS_URL" in finding.remedy
    assert "hidden" not in finding.found


def test_redis_url_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_REDIS_URL", "localhost")
    assert found()["Redis"].state is State.bad


def test_label_studio(monkeypatch: pytest.MonkeyPatch, http_server: str) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", f"{http_server}/")
    report = found()
    assert report["Label Studio"].state is State.ok
    assert "1.23.2" in report["Label Studio"].found
    assert report["Label Studio token"].state is State.note
    monkeypatch.setenv("LABEL_STUDIO_URL", f"{http_server}/wrong")
    assert found()["Label Studio"].state is State.bad


def test_data_folder_that_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAM_DATA_DIR", str(tmp_path / "file"))
    finding = found()["data folder"]
    assert finding.state is State.bad
    assert "RAM_DATA_DIR" in finding.remedy
