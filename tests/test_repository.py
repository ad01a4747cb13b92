"""What maintainers and strangers expect: CI, links, make targets, supported Pythons, a whole wheel, free photos."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from ram_backend.demo import photo_paths

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


def test_every_photo_has_its_origin_and_licence_named() -> None:
    text = (photo_paths()[0].parent / "PROVENANCE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+\.jpg)` \|(.+)$", text, re.MULTILINE)
    assert sorted(name for name, _ in rows) == [path.name for path in photo_paths()]
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    for name, row in rows:
        section = next(part for part in sections if f"`{name}`" in part)
        stated = row if "licence as stated |" in section else section.partition("|")[0]
        assert re.search(r"CC0|public domain", stated, re.IGNORECASE), name


@pytest.mark.slow
def test_the_wheel_holds_all_data_files(tmp_path: Path) -> None:
    package = REPOSITORY / "ram_backend"
    source = tmp_path / "source"  # a `build` folder of before would be packed again
    shutil.copytree(package, source / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    subprocess.run(command, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    on_disk = {
        path.relative_to(REPOSITORY).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert on_disk | {"ram_backend/py.typed"} <= inside
    licences = {name.partition("/licenses/")[2] for name in inside if "/licenses/" in name}
    needed = {"LICENSE", "wordnet-license.txt", "PROVENANCE.md", "MODEL_CARD.md"}
    assert needed - {Path(name).name for name in licences} == set()
    assert wheel.stat().st_size < 20_000_000
