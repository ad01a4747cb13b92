"""Reads docker/ as Docker and Compose do, as far as the tests need it: neither runs here."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCKER = REPOSITORY / "docker"
VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^}]*))?\})")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its continued lines joined: `RUN` and what follows it."""

    name: str
    text: str


@dataclass(frozen=True)
class Compose:
    """A compose file.

    Attributes:
        text: as it is written.
        content: as YAML gives it, before variables are replaced.
    """

    text: str
    content: dict[str, Any]

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        services: dict[str, dict[str, Any]] = self.content["services"]
        return services

    def replaced(self, variables: Mapping[str, str]) -> dict[str, Any]:
        """The content with variables replaced; KeyError, with the message, where `${NAME:?message}` has none.

        Keys of `environment` without a value get the variable of their name, or are left out where there is none.
        """
        content: dict[str, Any] = yaml.safe_load(VARIABLE.sub(lambda found: _value(found, variables), self.text))
        for service in content["services"].values():
            environment = service.get("environment", {})
            service["environment"] = {
                name: variables[name] if value is None else value
                for name, value in environment.items()
                if value is not None or name in variables
            }
        return content


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, how, rest = found["name"], found["how"], found["rest"]
    if name is None:
        return "$"
    if value := variables.get(name, ""):
        return value
    if how == ":?":
        raise KeyError(f"{name}: {rest}")
    return rest or ""


def _instructions(path: Path) -> list[Instruction]:
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in joined]


@pytest.fixture(params=["cpu", "cuda"])
def dockerfile(request: pytest.FixtureRequest) -> list[Instruction]:
    return _instructions(DOCKER / f"{request.param}.Dockerfile")


@pytest.fixture
def instructions() -> Callable[[str], list[Instruction]]:
    return lambda name: _instructions(DOCKER / f"{name}.Dockerfile")


@pytest.fixture
def compose() -> Compose:
    text = (DOCKER / "compose.yaml").read_text()
    return Compose(text, yaml.safe_load(text))


@pytest.fixture
def made_env(tmp_path: Path) -> Path:
    """The .env that make-env.sh writes, in a folder of its own."""
    folder = tmp_path / "docker"
    folder.mkdir()
    for name in ("make-env.sh", ".env.example"):
        (folder / name).write_text((DOCKER / name).read_text())
    subprocess.run(["sh", folder / "make-env.sh"], check=True, capture_output=True)
    return folder / ".env"


@pytest.fixture
def variables(made_env: Path) -> dict[str, str]:
    """What compose reads from that .env."""
    lines = [line for line in made_env.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)
