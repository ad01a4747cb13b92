"""Importing a room is cheap and has no effect, and no room reaches into another one's private modules."""

import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ram_backend

PACKAGE = Path(ram_backend.__file__).parent
ROOMS = sorted(f"ram_backend.{module.name}" for module in pkgutil.iter_modules([str(PACKAGE)]))
HEAVY = {"torch", "torchvision", "transformers", "timm", "open_clip", "sklearn", "scipy", "onnxruntime"}


@pytest.mark.parametrize("room", [room for room in ROOMS if not room.endswith("__main__")])
def test_importing_a_room_loads_nothing_heavy_and_writes_nothing(room: str, tmp_path: Path) -> None:
    code = f"import json, sys; import {room}; print(json.dumps(sorted(sys.modules)))"
    environment = {"HOME": str(tmp_path), "RAM_DATA_DIR": str(tmp_path / "data"), "RAM_THREADS": "not a number"}
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PACKAGE.parent, env=environment)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert room in loaded
    assert not HEAVY & loaded
    assert list(tmp_path.iterdir()) == []


def test_no_room_imports_private_modules_of_another() -> None:
    private = r"^\s*(?:from|import) ram_backend\.(\w+)(?:[\w.]*\._[a-z]|[\w.]* import (?:\([^)]*|[^\n]*)(?<!\w)_[a-z])"
    found = [
        path.name
        for path in PACKAGE.rglob("*.py")
        for room in re.findall(private, path.read_text(encoding="utf-8"), re.M)
        if room != path.relative_to(PACKAGE).parts[0]
    ]
    assert found == []


def test_the_drawing_of_the_rooms_has_each_import_and_no_arrow_that_follows_from_others() -> None:
    drawing = (
        (PACKAGE.parent / "docs/architecture.md").read_text(encoding="utf-8").split("flowchart TB\n")[1].split("```")[0]
    )
    rooms = set(re.findall(r"^    (\w+)\[", drawing, re.M))
    arrows = {
        (start, end)
        for starts, ends in re.findall(r"^    ([\w &]+) --> ([\w &]+)$", drawing, re.M)
        for start in starts.split(" & ")
        for end in ends.split(" & ")
    }
    imports = {
        (path.relative_to(PACKAGE).parts[0], room)
        for path in PACKAGE.rglob("*.py")
        for room in re.findall(r"^\s*(?:from|import) ram_backend\.(\w+)", path.read_text(encoding="utf-8"), re.M)
    }
    imports = {pair for pair in imports if rooms.issuperset(pair) and len(set(pair)) == 2}

    def below(start: str) -> set[str]:
        return {end for first, end in arrows if first == start for end in (end, *below(end))}

    assert arrows <= imports
    assert {(start, end) for start, end in imports if end not in below(start)} == set()
    following = {(start, end) for start, via in arrows for end in below(via)}
    assert arrows & following == set()
