"""The deterministic weights of the reference numbers: any element of any tensor, from its key's name alone.

SplitMix64 seeded by SHA-256 of salt + key; a value is the sum of the four 16-bit quarters of the generator's output,
shifted and scaled: near normal, no random-number library involved.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from security.hosting import MemoryWatch

from ram_backend.models.bundle import Bundle
from ram_backend.models.importing import import_checkpoint

SALT = "ram-reference-v1:"
_CHUNK = 1 << 18
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFF)


def _sums(seed: int, start: int, stop: int) -> NDArray[np.int64]:
    """S_start .. S_(stop-1): integers in [-131070, 131070], standard deviation 65536 / sqrt(3)."""
    with np.errstate(over="ignore"):
        x = np.arange(start + 1, stop + 1, dtype=np.uint64)
        x *= _GOLDEN
        x += np.uint64(seed)
        x ^= x >> np.uint64(30)
        x *= _MIX1
        x ^= x >> np.uint64(27)
        x *= _MIX2
        x ^= x >> np.uint64(31)
    total = x & _LOW
    for shift in (16, 32, 48):
        total += (x >> np.uint64(shift)) & _LOW
    return total.astype(np.int64) - 131070


def draw(key: str, shape: Iterable[int], mu: float, sigma: float, salt: str = SALT) -> NDArray[np.float32]:
    """The tensor of `key`: mean mu, standard deviation sigma, computed in float64 and rounded once."""
    shape = tuple(shape)
    count = int(np.prod(shape, dtype=np.int64))
    values = np.empty(count, dtype=np.float32)
    digest, factor = hashlib.sha256((salt + key).encode()).digest(), sigma * np.sqrt(3.0) / 65536
    seed = int.from_bytes(digest[:8], "little")
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        values[start:stop] = mu + factor * _sums(seed, start, stop).astype(np.float64)
    return values.reshape(shape)


def read_manifest(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Salt, and per state-dict key how its values are drawn."""
    data = json.loads(path.read_text(encoding="utf-8"))
    tensors = next(value for value in data.values() if isinstance(value, dict))
    return data["salt"], tensors


def state_dict(tensors: Mapping[str, Mapping[str, Any]], salt: str = SALT) -> dict[str, torch.Tensor]:
    """An official state dict with the values that `read_manifest` names; what a model computes itself is zeros."""
    weights: dict[str, torch.Tensor] = {}
    for key, entry in tensors.items():
        source = entry.get("tied_with") or key
        if entry["kind"] == "structural":
            weights[key] = torch.zeros((), dtype=getattr(torch, entry["dtype"])).expand(entry["shape"])
        elif source != key and source in weights:
            weights[key] = weights[source]
        else:
            weights[key] = torch.from_numpy(draw(source, entry["shape"], entry["mu"], entry["sigma"], salt))
    return weights


@contextmanager
def full_size(shared: Path, kind: str, work: Path, *, captions: bool = True) -> Iterator[tuple[Bundle, str, int]]:
    """The bundle of an official file with these weights, their salt, and the memory that its import took."""
    salt, tensors = read_manifest(shared / "ram-reference" / f"manifest.{kind}.json")
    some = {key: entry for key, entry in tensors.items() if captions or not is_caption_key(key)}
    torch.save({"model": state_dict(some, salt), "optimizer": {"state": {}}, "epoch": 1}, work / "file.pth")
    files, own = shared / "ram-files", kind == "tag2text"
    tags = files / ("tag2text_ori_tag_list.txt" if own else "ram_tag_list.txt")
    thresholds = None if own else files / "ram_tag_list_threshold.txt"
    with MemoryWatch() as memory:
        bundle = import_checkpoint(work / "file.pth", tags, thresholds=thresholds, name=kind, bundles_dir=work / "made")
    (work / "file.pth").unlink()
    yield bundle, salt, memory.grown
    shutil.rmtree(work / "made")


def stored(part: str, name: str) -> NDArray[np.float32]:
    """An array of `official_small.npz` or `official_head.npz`; what they hold is said in `test_ram.py`."""
    with np.load(Path(__file__).with_name(f"official_{part}.npz")) as arrays:
        return np.asarray(arrays[name])


def is_caption_key(key: str) -> bool:
    """Whether the captioner alone uses a key."""
    return key.startswith(("tag_encoder.", "text_decoder."))
