"""`make studio` and `make run`: what they start, they stop."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
from e2e.conftest import REPOSITORY, VENV
from support.processes import is_up, wait_until
from support.studio_api import StudioApi

from ram_backend.cli.servers import Account, Server
from ram_backend.demo import photo_paths


class Shown:
    """A command that runs in a terminal of its own, as far as signals go, and what it has printed so far."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as written:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
                restore_signals=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGTERM)

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        wait_until(lambda: re.search(pattern, self.text, re.MULTILINE) or self.process.poll() is not None, 600)
        found = re.search(pattern, self.text, re.MULTILINE)
        assert found, self.text
        return found

    def end(self, stop: signal.Signals) -> None:
        """Stops it: by Ctrl-C, which a terminal sends to all of the foreground group, or another signal to it alone."""
        if self.process.poll() is None:
            send = os.killpg if stop is signal.SIGINT else os.kill
            send(self.process.pid, stop)
            self.process.wait(300)


def make(*targets: str) -> list[str]:
    """`make`, with the environment that runs this test in place of .venv/."""
    return ["make", "--old-file=install", "--old-file=label-studio", f"BIN={Path(sys.executable).parent}", *targets]


def test_make_studio_fills_a_project_and_ctrl_c_stops_what_it_started(
    label_studio: Server, studio_folder: Path, account: Account, api: StudioApi, backend_data: Callable[[str], Path]
) -> None:
    folder = backend_data("make-studio")
    (folder / "label-studio").symlink_to(studio_folder)  # its Label Studio runs already
    command = make("studio", f"RAM_STUDIO_VENV={VENV}")
    environment = {"RAM_DATA_DIR": str(folder), "RAM_PORT": "19290"}
    for _ in range(2):
        with Shown(command, environment, folder / "printed.log") as running:
            running.wait_for(r"^Learning: a first version is tried at 30 corrected photos, and the project has 18")
            assert f"{label_studio.url}  (ran already, and keeps running)" in running.text
            assert account.password in running.text
            assert f"({len(photo_paths())} of {len(photo_paths())} photos have predictions)" in running.text
            backend = running.wait_for(r"^Backend +(http://\S+)$")[1]
            assert is_up(backend)
            said = subprocess.run(
                [sys.executable, "-m", "ram_backend", "doctor", "--json"],
                env={**os.environ, "RAM_DATA_DIR": str(folder)},
                capture_output=True,
                text=True,
                check=False,
            ).stdout
            findings = {each["what"]: each for each in map(json.loads, said.splitlines())}
            assert findings["workers"]["state"] == "ok"
            bad = [each for name, each in findings.items() if name.startswith("project") and each["state"] == "bad"]
            assert bad == []
            running.end(signal.SIGINT)
            assert "Traceback" not in running.text
        assert not is_up(backend)
        assert is_up(label_studio.url)
    found = api.project("RAM demo")
    (record,) = api.backends(found["id"])
    assert [len(task["predictions"]) for task in api.tasks(found["id"])] == [1] * len(photo_paths())
    assert record.url == backend


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_make_run_tags_photos_then_serves_until_it_is_told_to_stop(
    backend_data: Callable[[str], Path], stop: signal.Signals
) -> None:
    folder = backend_data("make-run")
    environment = {"RAM_DATA_DIR": str(folder), "RAM_PORT": "19390"}
    with Shown(make("run"), environment, folder / "printed.log") as running:
        url = running.wait_for(r"^ram-backend serves (http://\S+)")[1]
        assert f"{len(photo_paths())} photos" in running.text.split("ram-backend serves")[0]
        assert is_up(url)
        running.end(stop)
        assert "Stopped." in running.text
        assert "Traceback" not in running.text
    assert not is_up(url)
