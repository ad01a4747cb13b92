"""The cache of image tokens: shared by processes, bounded, and never the reason for another score."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ram_backend.tagging.tagger import rounded
from ram_backend.tagging.token_cache import TOKEN_DTYPE, CachedImage, TokenCache, token_key

REPOSITORY = Path(__file__).resolve().parents[2]


def key(name: str, preprocessing: str = "p", encoder: str = "e") -> str:
    return token_key(hashlib.sha256(name.encode()).hexdigest(), preprocessing, encoder)


def tokens(seed: int, shape: tuple[int, int] = (5, 8)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 3


def entry(seed: int) -> CachedImage:
    return CachedImage(tokens(seed), phash=2**64 - 1 - seed, size=(640, 480))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def cache(tmp_path: Path) -> TokenCache:
    return TokenCache(tmp_path / "tokens", 1_000_000)


def test_making_one_has_no_effect(cache: TokenCache, tmp_path: Path) -> None:
    assert cache.get(key("a")) is None
    assert list(tmp_path.iterdir()) == []


def test_hit_and_miss_give_the_same_bits(cache: TokenCache) -> None:
    original = tokens(0)
    missed = cache.put(key("a"), entry(0))
    hit = cache.get(key("a"))
    assert hit is not None
    assert (hit.phash, hit.size) == (2**64 - 1, (640, 480))
    assert missed.dtype == hit.tokens.dtype == np.float32
    assert missed.tobytes() == hit.tokens.tobytes() == rounded(original, TOKEN_DTYPE).tobytes()
    assert not np.array_equal(missed, original)  # so the rounding is real
    assert np.abs(missed - original).max() < 0.01


def test_large_values_stay_finite_on_hit_and_miss(cache: TokenCache) -> None:
    original = np.array([[1e6, -1e6, 65504, 1e-9]], dtype=np.float32)
    missed = cache.put(key("a"), CachedImage(original, 0, (1, 1)))
    assert missed.tolist()[0][:3] == [65504, -65504, 65504]
    hit = cache.get(key("a"))
    assert hit is not None
    assert hit.tokens.tobytes() == missed.tobytes()


def test_every_part_of_the_key_counts() -> None:
    keys = {
        key("a"),
        key("b"),
        key("a", preprocessing="q"),
        key("a", encoder="f"),
        key("a", "pe", ""),
        key("a", "p", "e "),
    }
    assert len(keys) == 6
    assert key("a") == key("a")


def test_the_first_tokens_under_a_key_stay(cache: TokenCache, tmp_path: Path) -> None:
    first = cache.put(key("a"), entry(1))
    other = TokenCache(tmp_path / "tokens", 1_000_000)
    assert np.array_equal(other.put(key("a"), entry(2)), first)
    assert np.array_equal(cache.put(key("a"), entry(3)), first)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "header", "foreign"])
def test_a_damaged_entry_is_computed_again(
    cache: TokenCache, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(key("a"), entry(1))
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-5] ^= 1
    elif damage == "header":
        data[0] ^= 1
    path.write_bytes({"empty": b"", "short": bytes(data[:-7]), "foreign": b"\x80\x04K\x01."}.get(damage, bytes(data)))
    with caplog.at_level(logging.WARNING):
        assert cache.get(key("a")) is None
    assert "damaged" in caplog.text
    assert np.array_equal(cache.put(key("a"), entry(2)), rounded(tokens(2), TOKEN_DTYPE))
    again = cache.get(key("a"))
    assert again is not None
    assert np.array_equal(again.tokens, rounded(tokens(2), TOKEN_DTYPE))


def test_a_damaged_entry_is_replaced_also_where_nobody_read_it(cache: TokenCache, tmp_path: Path) -> None:
    cache.put(key("a"), entry(1))
    files(tmp_path)[0].write_bytes(b"rubbish")
    cache.put(key("a"), entry(2))
    again = cache.get(key("a"))
    assert again is not None
    assert np.array_equal(again.tokens, rounded(tokens(2), TOKEN_DTYPE))


def test_those_not_used_for_longest_go_first(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    TokenCache(folder, 10**9).put(key("size"), entry(0))
    size = files(folder)[0].stat().st_size
    files(folder)[0].unlink()
    cache = TokenCache(folder, 10 * size)
    for number in range(10):
        cache.put(key(str(number)), entry(number))
        path = next(path for path in files(folder) if path.name.startswith(key(str(number))))
        os.utime(path, (1000 + number, 1000 + number))
    assert cache.get(key("0")) is not None  # used just now
    cache.put(key("10"), entry(10))
    left = {number for number in range(11) if cache.get(key(str(number))) is not None}
    assert left >= {0, 10, 9, 8, 7}
    assert 1 not in left
    assert left == set(range(11)) - set(range(1, 12 - len(left)))  # the oldest in a row


def test_it_stays_within_its_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    caches = [TokenCache(folder, 20_000) for _ in range(2)]
    for number in range(300):
        caches[number % 2].put(key(str(number)), entry(number))
        assert sum(path.stat().st_size for path in files(folder)) <= 20_000 * 1.1
    assert sum(path.stat().st_size for path in files(folder)) > 10_000


def test_a_cache_of_no_bytes_keeps_nothing_and_rounds_all_the_same(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "tokens", 0)
    assert np.array_equal(cache.put(key("a"), entry(1)), rounded(tokens(1), TOKEN_DTYPE))
    assert cache.get(key("a")) is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_like_any_other_file(tmp_path: Path) -> None:
    old = tmp_path / "tokens" / "ab" / "x.part"
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(900))
    os.utime(old, (1000, 1000))
    cache = TokenCache(tmp_path / "tokens", 1000)
    cache.put(key("a"), entry(1))
    assert not old.exists()
    assert cache.get(key("a")) is not None


def test_no_trouble_with_the_disk_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tokens").write_text("a file where the folder should be")
    cache = TokenCache(tmp_path / "tokens", 1_000_000)
    for number in range(3):
        assert np.array_equal(cache.put(key("a"), entry(number)), rounded(tokens(number), TOKEN_DTYPE))
        assert cache.get(key("a")) is None
    assert caplog.text.count("can't be cached") == 1


def test_a_file_system_without_hard_links(cache: TokenCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    cache.put(key("a"), entry(1))
    assert cache.get(key("a")) is not None


WRITER = """
import sys
from pathlib import Path
import numpy as np
from ram_backend.tagging.token_cache import CachedImage, TokenCache, token_key
folder, seed, budget = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cache = TokenCache(folder, budget)
sys.stdin.readline()
for number in range(200):
    # what two processes compute for one image differs in the last bits: here it differs altogether
    tokens = np.full((20, 64), seed * 1000 + number % 7, dtype=np.float32)
    put = cache.put(token_key(f"{number:064x}", "p", "e"), CachedImage(tokens, number, (640, 480)))
    print(number, put[0, 0], bool((put == put[0, 0]).all()), flush=False)
"""


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("budget", [10_000_000, 60_000])
def test_two_processes_that_write_at_once(tmp_path: Path, writers: list[subprocess.Popen[str]], budget: int) -> None:
    folder = tmp_path / "tokens"
    for seed in (1, 2):
        command = [sys.executable, "-c", WRITER, str(folder), str(seed), str(budget)]
        writers.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        )
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in writers]
    assert [process.returncode for process in writers] == [0, 0]
    assert all(line.endswith("True") for lines in outputs for line in lines)  # nobody saw half of a file
    if budget > 1_000_000:  # nothing was evicted: both were given the same tokens, and so is everybody later
        assert outputs[0] == outputs[1]
        cache = TokenCache(folder, budget)
        for line in outputs[0]:
            number, value, _ = line.split()
            hit = cache.get(token_key(f"{int(number):064x}", "p", "e"))
            assert hit is not None
            assert hit.tokens[0, 0] == float(value)
    else:
        assert sum(path.stat().st_size for path in files(folder)) <= budget * 1.1
    assert not [path for path in files(folder) if path.suffix == ".part"]


def test_many_threads(cache: TokenCache) -> None:
    start, got = threading.Barrier(8), []

    def work(seed: int) -> None:
        start.wait()
        for number in range(50):
            got.append((number, cache.put(key(str(number)), entry(seed)).tobytes()))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 400
    assert len(set(got)) == 50
