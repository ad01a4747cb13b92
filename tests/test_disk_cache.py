"""The cache on disk: shared by processes, bounded, and never the reason for another score."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ram_backend.disk_cache import DiskCache


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 1_000_000)


def test_the_first_content_under_a_name_stays(
    cache: DiskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.put("name", b"first") == b"first"
    other = DiskCache(tmp_path / "cache", 1_000_000)
    assert other.put("name", b"second") == cache.put("name", b"third") == other.get("name") == b"first"
    assert cache.get("other") is None
    assert len(files(tmp_path)) == 1
    monkeypatch.setattr(os, "link", Mock(side_effect=PermissionError("a file system without hard links")))
    assert cache.put("third", b"content") == cache.get("third") == b"content"
    nothing = DiskCache(tmp_path / "none", 0)
    assert (nothing.put("name", b"content"), nothing.get("name")) == (b"content", None)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "header", "foreign"])
@pytest.mark.parametrize("seen", [True, False])
def test_a_damaged_file_is_replaced(
    cache: DiskCache, tmp_path: Path, damage: str, seen: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put("name", b"content")
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-5] ^= 1
    elif damage == "header":
        data[0] ^= 1
    path.write_bytes({"empty": b"", "short": bytes(data[:-7]), "foreign": b"\x80\x04K\x01."}.get(damage, bytes(data)))
    with caplog.at_level(logging.WARNING):
        assert not seen or cache.get("name") is None
        assert cache.put("name", b"again") == b"again"
    assert "damaged" in caplog.text
    assert cache.get("name") == b"again"


def test_those_not_used_for_longest_go_first(tmp_path: Path) -> None:
    one = 40 + 100
    cache = DiskCache(tmp_path, 10 * one)
    for number in range(10):
        cache.put(f"n{number}", bytes(100))
        path = next(path for path in files(tmp_path) if path.name == f"n{number}")
        os.utime(path, (1000 + number, 1000 + number))
    assert cache.get("n0") is not None  # used just now
    cache.put("n10", bytes(100))
    left = {number for number in range(11) if cache.get(f"n{number}") is not None}
    assert left >= {0, 10, 9, 8, 7}
    assert 1 not in left
    assert left == set(range(11)) - set(range(1, 12 - len(left)))  # the oldest in a row


def test_it_stays_within_its_bytes(tmp_path: Path) -> None:
    caches = [DiskCache(tmp_path, 20_000) for _ in range(2)]
    for number in range(300):
        caches[number % 2].put(f"{number:03}", bytes(100))
        assert size(tmp_path) <= 20_000 * 1.1
    assert size(tmp_path) > 10_000


def test_what_a_killed_process_left_goes_like_any_other_file(cache: DiskCache, tmp_path: Path) -> None:
    old = tmp_path / "cache" / "ab" / "x.part"
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(900_000))
    os.utime(old, (1000, 1000))
    cache.put("name", bytes(200_000))
    assert not old.exists()
    assert cache.get("name") is not None


def test_no_trouble_with_the_disk_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = DiskCache(tmp_path / "cache", 1_000_000)
    for content in (b"a", b"b"):
        assert cache.put("name", content) == content
        assert cache.get("name") is None
    assert caplog.text.count("Nothing can be cached") == 1


WRITER = """
import sys
from pathlib import Path
from ram_backend.disk_cache import DiskCache
cache = DiskCache(Path(sys.argv[1]), int(sys.argv[3]))
sys.stdin.readline()
for number in range(200):
    put = cache.put(f"{number:03}", sys.argv[2].encode() * 2500)
    print(number, put[:1].decode(), len(put) == 2500 and len(set(put)) == 1)
"""


@pytest.mark.parametrize("budget", [10_000_000, 60_000])
def test_two_processes_that_write_at_once(tmp_path: Path, budget: int) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, seed, str(budget)], **pipes) for seed in "12"]
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0].splitlines() for process in writers]
    assert [process.returncode for process in writers] == [0, 0]
    assert all(line.endswith("True") for lines in outputs for line in lines)  # nobody saw half of a file
    assert not [path for path in files(tmp_path) if path.suffix == ".part"]
    if budget == 60_000:
        assert size(tmp_path) <= budget * 1.1
        return
    assert outputs[0] == outputs[1]  # nothing was evicted: both were given the same content, and so is everybody later
    cache = DiskCache(tmp_path, budget)
    for number, first, _ in map(str.split, outputs[0]):
        assert (cache.get(f"{int(number):03}") or b"").decode() == first * 2500
