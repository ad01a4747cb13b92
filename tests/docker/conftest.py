"""Reads docker/ as Compose does, as far as the tests need it: no engine runs here."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"
VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^{}]*))?\})")


class Compose:
    """A compose file: its text, and `content` as YAML gives it, before variables are replaced."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.content: dict[str, Any] = yaml.safe_load(self.text)
        self.services: dict[str, dict[str, Any]] = self.content["services"]

    def replaced(self, variables: Mapping[str, str]) -> dict[str, Any]:
        """The content with variables replaced; KeyError, with the message, where `${NAME:?message}` has none.

        Keys of `environment` without a value get the variable of their name, or are left out where there is none.
        """

        def value(found: re.Match[str]) -> str:
            if found["name"] is None:
                return "$"
            if found["how"] == ":?" and not variables.get(found["name"]):
                raise KeyError(f"{found['name']}: {found['rest']}")
            return variables.get(found["name"]) or found["rest"] or ""

        text = self.text
        while VARIABLE.search(text):  # defaults may have variables in them
            text = VARIABLE.sub(value, text)
        content: dict[str, Any] = yaml.safe_load(text)
        for service in content["services"].values():
            service["environment"] = {
                name: variables[name] if given is None else given
                for name, given in service.get("environment", {}).items()
                if given is not None or name in variables
            }
        return content


@pytest.fixture
def compose() -> Compose:
    return Compose(DOCKER / "compose.yaml")


@pytest.fixture
def made_env(tmp_path: Path) -> Path:
    """The .env that make-env.sh writes, in a copy of the folder."""
    folder = tmp_path / "docker"
    shutil.copytree(DOCKER, folder, ignore=shutil.ignore_patterns(".env"))
    subprocess.run(["sh", folder / "make-env.sh"], check=True, capture_output=True)
    return folder / ".env"


@pytest.fixture
def variables(made_env: Path) -> dict[str, str]:
    """What compose reads from that .env."""
    lines = [line for line in made_env.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)
