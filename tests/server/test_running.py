"""The command as a process: ports, signals, log lines."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from server.playing import FakeLabelStudio, choices_config, picture, predict_body, setup_body, wait_until

from ram_backend.errors import SettingsError
from ram_backend.server import bind, configure_logging
from ram_backend.server.gate import request_id

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from server.playing import ColourNetwork, identity
from ram_backend.cli import serve as command
from ram_backend import server
from ram_backend.server import model

class Slow(ColourNetwork):
    def __init__(self):
        super().__init__(seconds=0.7)

model.load_network = lambda *args, **options: Slow()
server.prepare = lambda settings, say: None
server.identify = lambda settings: identity()
import ram_backend.cli
sys.argv = ["ram-backend", "serve", *sys.argv[1:]]
ram_backend.cli.main()
"""


@contextmanager
def served(*options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`ram-backend serve` with the tiny network; the process, and its output as it comes."""
    program = PROGRAM.format(tests=str(Path(__file__).resolve().parent.parent))
    process = subprocess.Popen(
        [sys.executable, "-c", program, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    lines: list[str] = []

    def follow() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        wait_until(lambda: any("Next:" in line for line in lines) or process.poll() is not None, 60)
        yield process, lines
    finally:
        if process.poll() is None:
            process.terminate()  # killed, it would leave its queue running
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)


def url_in(lines: list[str]) -> str:
    return next(word for line in lines if "serves" in line for word in line.split() if word.startswith("http://"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_the_status_is_0(studio: FakeLabelStudio, how: signal.Signals) -> None:
    config = choices_config("red")
    with served("--port", "0") as (process, lines), httpx.Client(base_url=url_in(lines), trust_env=False) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        client.post("/setup", json=setup_body(config, studio))
        answers: list[httpx.Response] = []
        body = predict_body(config, [studio.upload("a.png", picture((255, 0, 0)))])
        asking = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{url_in(lines)}/predict", json=body, timeout=30, trust_env=False)
            )
        )
        asking.start()
        wait_until(lambda: "ram_predictions_in_progress 1.0" in client.get("/metrics").text)
        process.send_signal(how)
        asking.join(30)
        assert process.wait(30) == 0
        wait_until(lambda: any("Stopped." in line for line in lines))
    assert answers[0].status_code == 200
    assert len(answers[0].json()["results"]) == 1


def test_a_taken_port_moves_on_and_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with served("--port", str(port)) as (_, lines):
            text = "".join(lines)
            assert f"Port {port} is taken" in text
            assert url_in(lines) != f"http://127.0.0.1:{port}"
            assert httpx.get(f"{url_in(lines)}/health", trust_env=False).json()["status"] == "UP"
            assert "3 tags" in text
            assert "Connect Model" in text


def test_hosts_that_cannot_be_listened_at() -> None:
    with pytest.raises(SettingsError, match=r"203\.0\.113\.7"):
        bind("203.0.113.7", 0)


def test_log_lines_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    try:
        configure_logging("info")
        token = request_id.set("abc")
        logging.getLogger("ram_backend.test").info("event %s", "a\nINFO forged\x1b[0m")
        request_id.reset(token)
        logging.getLogger("somebody.else").info("chatter")
    finally:
        logging.getLogger().handlers[:] = before
        logging.getLogger("ram_backend").setLevel(logging.NOTSET)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "[abc] ram_backend.test: event a\\x0aINFO forged\\x1b[0m" in said
