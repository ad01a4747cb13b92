"""The command as a process: ports, signals, log lines."""

import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.label_studio import FakeLabelStudio
from support.processes import served, url_in, wait_until
from support.server import choices_config, predict_body, setup_body
from support.tiny_model import picture

from ram_backend.errors import SettingsError
from ram_backend.server.uvicorn_runner import bind


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_the_status_is_0(studio: FakeLabelStudio, how: signal.Signals) -> None:
    config = choices_config("red")
    with served("--port", "0") as (process, lines), httpx.Client(base_url=url_in(lines), trust_env=False) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        client.post("/setup", json=setup_body(config, studio))
        body = predict_body(config, [studio.upload("a.png", picture((255, 0, 0)))])
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(httpx.post, f"{url_in(lines)}/predict", json=body, timeout=120, trust_env=False)
            wait_until(lambda: "ram_predictions_in_progress 1.0" in client.get("/metrics").text)
            process.send_signal(how)
            assert len(asking.result(120).json()["results"]) == 1
        assert process.wait(120) == 0
        wait_until(lambda: any("Stopped." in line for line in lines))


def test_a_taken_port_moves_on_and_says_so() -> None:
    with pytest.raises(SettingsError, match=r"203\.0\.113\.7"):
        bind("203.0.113.7", 0)
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
