"""A run: findings, report, resumption after a kill."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.tiny_model import picture

from ram_backend.engine import run as engine
from ram_backend.engine.run import EngineInput, run_engine
from ram_backend.errors import ImageUnreachable, ImageUnreadable, InputError
from ram_backend.images.decode import decode
from ram_backend.tagging.image_loader import LoadedImage
from ram_backend.tagging.tagger import TagScores

TAGS = ("blue", "red")


class _Tagger:
    network = SimpleNamespace(token_shape=(5, 24))
    model_version = "colours-1"

    def score(self, tokens: np.ndarray) -> TagScores:
        scores = tokens[:, 0, [2, 0]].astype(np.float32) * 4
        return TagScores(scores, scores, scores)


class _Loader:
    """Tokens are colours of the picture's cells; a file number is in its size, so that hashes differ."""

    def __init__(self, die_at: int | None = None, noise: float = 0.1) -> None:
        self.loaded, self._die_at, self._noise = 0, die_at, noise

    def load(self, data: bytes, *, name: str) -> LoadedImage:
        self.loaded += 1
        if self.loaded == self._die_at:
            raise KeyboardInterrupt
        pixels, _ = decode(data, exif_orientation=True, alpha="white", max_pixels=10**6, max_bytes=10**6, name=name)
        random = np.random.default_rng(int(name))
        mean = np.asarray(pixels, np.float32).mean(axis=(0, 1)) / 255
        noise = self._noise * random.standard_normal((5, 24))
        tokens = (np.tile(np.concatenate([mean - 0.5, np.zeros(21)]), (5, 1)) + noise).astype(np.float32)
        return LoadedImage(f"{int(name):064x}", int(random.integers(2**62)), pixels.size, tokens, None)

    def encode(self, network: Any, images: Sequence[LoadedImage]) -> list[np.ndarray]:
        return [image.tokens for image in images if image.tokens is not None]


def _images(broken: int | None = None, error: type = ImageUnreadable) -> tuple[EngineInput, np.ndarray]:
    random = np.random.default_rng(3)
    clean = random.random((160, 2)) < 0.35
    labels = clean ^ (random.random(clean.shape) < 0.06)

    def load(numbers: Sequence[int]) -> Iterator[bytes | Exception]:
        for number in numbers:
            if number == broken:
                yield error("no picture")
                continue
            blue, red = clean[number]
            yield picture((230 if red else 60, 60, 230 if blue else 60), (32, 24), "JPEG")

    return EngineInput([str(n) for n in range(160)], TAGS, labels, np.ones_like(labels), load), clean


def _run(folder: Path, images: EngineInput, loader: _Loader | None = None) -> engine.EngineResult:
    loader = loader or _Loader()
    quiet = {"limits": (10**6, 10**6), "progress": lambda *_: None}
    return run_engine(folder, images, _Tagger(), loader, **quiet)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PORTION", 32)


def test_findings_are_the_planted_errors_and_the_report_shows_them(tmp_path: Path) -> None:
    images, clean = _images(broken=5)
    result = _run(tmp_path, images)
    wrong = {(number, TAGS[tag]) for number, tag in np.argwhere(clean != images.labels) if number != 5}
    found = {(each.number, each.tag) for each in result.findings}
    assert len(found & wrong) >= 0.65 * len(found)
    assert len(found & wrong) >= 0.55 * len(wrong)
    assert result.summary["images"] == 159
    assert "no picture" in result.summary["unreadable"][0]
    page = (tmp_path / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert f"<dd>{result.summary['wrong']}</dd>" in page
    lines = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert [line["probability"] for line in lines] == sorted((line["probability"] for line in lines), reverse=True)
    cleaned = [set(json.loads(line)["tags"]) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    right = sum(cleaned[n] == {TAGS[t] for t in np.flatnonzero(clean[n])} for n in range(160))
    assert right > (clean == images.labels).all(axis=1).sum()


def test_what_captions_name_is_evidence(tmp_path: Path) -> None:
    """Where an image says little: of twenty tags in it, its caption names nineteen."""
    images, clean = _images()
    named = (clean & (np.random.default_rng(4).random(clean.shape) < 0.95)).astype(np.float32)
    wrong = {(number, TAGS[tag]) for number, tag in np.argwhere(clean != images.labels)}
    without, by_captions = (
        _run(tmp_path / str(n), replace(images, captions=each), _Loader(noise=0.5))
        for n, each in enumerate((None, named))
    )
    caught, more = (len({(each.number, each.tag) for each in run.findings} & wrong) for run in (without, by_captions))
    assert more > caught + 5, (caught, more)
    assert any(each.sources[0] == "caption" for each in by_captions.findings)


def test_killed_and_resumed_gives_the_same(tmp_path: Path) -> None:
    images, _ = _images()
    whole = _run(tmp_path / "whole", images)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "killed", images, _Loader(die_at=100))
    rest = _Loader()
    resumed = _run(tmp_path / "killed", images, rest)
    assert rest.loaded == 160 - 96  # three portions of 32 were finished
    assert resumed.findings == whole.findings
    for name in ("findings.jsonl", "labels.jsonl", "summary.json", "report.html"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_image_whose_host_did_not_answer_is_fetched_again(tmp_path: Path) -> None:
    images, _ = _images()
    assert _run(tmp_path, _images(5, ImageUnreachable)[0]).summary["images"] == 159
    assert _run(tmp_path, images).findings == _run(tmp_path / "fresh", images).findings


def test_other_labels_of_the_same_images_are_judged_without_encoding(tmp_path: Path) -> None:
    images, _ = _images(broken=5)
    _run(tmp_path, images)
    other, loader = replace(images, labels=images.labels ^ (np.arange(160) % 20 == 0)[:, None]), _Loader()
    changed = _run(tmp_path, other, loader)
    assert loader.loaded == 0
    assert changed.findings == _run(tmp_path / "fresh", other).findings


def test_too_few_labels_are_named(tmp_path: Path) -> None:
    images, _ = _images()
    none = EngineInput(images.names, images.tags, np.zeros_like(images.labels), images.known, images.load)
    with pytest.raises(InputError, match="Label more images"):
        _run(tmp_path, none)
