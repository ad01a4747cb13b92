"""What `pip install` brings: the wheel has everything that the code reads, and nothing heavy by mistake."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "ram_backend"


@pytest.mark.slow
def test_the_wheel_holds_all_data_files(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a `build` folder of before would be packed again
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    subprocess.run(command, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    on_disk = {
        path.relative_to(REPOSITORY).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert on_disk | {"ram_backend/py.typed"} <= inside
    licences = {name.partition("/licenses/")[2] for name in inside if "/licenses/" in name}
    needed = {"LICENSE", "wordnet-license.txt", "PROVENANCE.md", "MODEL_CARD.md"}
    assert needed - {Path(name).name for name in licences} == set()
    assert wheel.stat().st_size < 20_000_000
