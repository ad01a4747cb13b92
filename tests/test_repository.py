"""What maintainers and strangers expect of the repository: CI, links, make targets, supported Pythons."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
CI = REPOSITORY / ".github/workflows/ci.yml"
NAMES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/docker.md", "docs/security.md")
PAGES = [REPOSITORY / name for name in NAMES]


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-workflows", CI),
        ("custom.github-workflows-require-timeout", CI),
        ("vendor.dependabot", REPOSITORY / ".github/dependabot.yml"),
    ],
)
def test_ci_follows_its_schema(schema: str, file: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, file]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_ci_tries_the_pythons_that_are_promised() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    promised = [each.rpartition(" ")[2] for each in project["classifiers"] if re.search(r"Python :: 3\.", each)]
    assert yaml.safe_load(CI.read_text())["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    assert project["requires-python"] == f">={promised[0]}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    texts = [path.read_text() for path in (*PAGES, CI, REPOSITORY / "docker/Dockerfile")]
    named = set(re.findall(r"(?:`|^|run: )make (?:--directory \.\. )?([a-z-]+)", "\n".join(texts), re.MULTILINE))
    assert len(named) > 8
    assert named - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
