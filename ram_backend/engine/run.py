"""A run of the engine over labelled images: encode, judge, write findings; in a folder of finished portions.

    run.json             what the run is about; another one is refused
    portions/00000.npz   tokens, scores and hashes of some images; written once, so that a killed run goes on
    findings.jsonl       labels that are probably wrong, tags that are probably missing
    labels.jsonl         the labels as they would be with all findings accepted
    report.html          the same with pictures

Nothing here changes a label: people decide. An image is encoded with its
portion, so a run that was killed gives what an undisturbed one gives.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from ram_backend.engine.evidence import SIGNALS, Evidence, Lazy, Portion
from ram_backend.engine.findings import Finding, findings_of
from ram_backend.engine.noise_model import fit_noise_model
from ram_backend.errors import ImageError, ImageUnreachable, InputError
from ram_backend.gate.folds import folds_of, group_near_duplicates
from ram_backend.images.decode import thumbnail
from ram_backend.tagging.image_loader import ImageLoader, LoadedImage
from ram_backend.tagging.tagger import Tagger

PORTION, AT_ONCE = 512, 16
"""Images of a file, and those that are encoded together."""
MIN_LABELS = 5
"""A tag that fewer images have is not judged."""
ALIKE_UP_TO = 20_000
"""Images up to which near-duplicates are found by distance; among more, equal perceptual hashes alone count."""
PICTURES, PER_TAG, PICTURE_SIZE = 400, 12, 160

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EngineInput:
    """N images with their labels for L tags.

    Attributes:
        names: of the images: files, or task numbers.
        tags: L distinct names.
        labels: (N, L) bool.
        known: (N, L) bool.
        load: bytes of the images with these numbers, in order; an error where
            there are none.
    """

    names: Sequence[str]
    tags: tuple[str, ...]
    labels: NDArray[np.bool_]
    known: NDArray[np.bool_]
    load: Callable[[Sequence[int]], Iterator[bytes | Exception]] = field(repr=False)

    @property
    def digest(self) -> str:
        """Names the content."""
        text = json.dumps([list(self.names), self.tags]).encode()
        return hashlib.sha256(text + self.labels.tobytes() + self.known.tobytes()).hexdigest()


@dataclass(frozen=True)
class EngineResult:
    """What a run found; `summary` is JSON."""

    findings: list[Finding]
    summary: dict[str, Any]


def run_engine(
    folder: Path,
    images: EngineInput,
    tagger: Tagger,
    loader: ImageLoader,
    *,
    limits: tuple[int, int],
    progress: Progress,
) -> EngineResult:
    """Runs the engine, or goes on with a run that was killed.

    Args:
        folder: of this run; made where it is missing.
        images: to be judged.
        tagger: of the images' tags; its model learned from none of these
            labels, else it defends them.
        loader: with a token cache, so that images are hashed.
        limits: most pixels and bytes of a picture in the report.
        progress: called with stage, step and steps.

    Raises:
        InputError: the folder is another run's, no image can be read, or no tag
            has `MIN_LABELS` images.
    """
    columns = np.flatnonzero((images.labels & images.known).sum(axis=0) >= MIN_LABELS)
    if not len(columns):
        raise InputError(f"No tag is on for {MIN_LABELS} images: there is nothing to compare. Label more images.")
    (folder / "portions").mkdir(parents=True, exist_ok=True)
    _claim(folder / "run.json", {"images": images.digest, "model_version": tagger.model_version})
    files, errors = _encode(folder / "portions", images, tagger, loader, progress)
    parts, content, phash = _hashes(files)
    rows = np.concatenate([np.empty(0, np.int64), *parts])
    if not len(rows):
        raise InputError(f"None of {len(images.names)} images can be read; the first: {errors[0]}")
    groups = (
        group_near_duplicates(phash, content) if len(rows) <= ALIKE_UP_TO else np.unique(phash, return_inverse=True)[1]
    )
    folds = np.zeros(len(images.names), dtype=np.int64)
    folds[rows] = folds_of(groups, content)
    labels, known = ([each[part][:, columns] for part in parts] for each in (images.labels, images.known))

    def portion(at: int) -> Portion:
        progress("compare", at, len(files))
        with np.load(files[at]) as stored:
            scores = stored["scores"][:, columns]
            return Portion(parts[at], folds[parts[at]], stored["tokens"], scores, labels[at], known[at])

    def signals_file(at: int) -> Path:
        return files[at].with_suffix(".signals.npy")

    portions = Lazy(portion, len(files))
    evidence = Evidence(portions)
    for at, each in enumerate(portions):
        np.save(signals_file(at), evidence.signals(each))
    signals = Lazy(lambda at: np.load(signals_file(at)), len(files))
    model = fit_noise_model(signals, labels, known, evidence.rates)
    names = [images.tags[column] for column in columns]
    findings: list[Finding] = []
    for part, found, on, mask in zip(parts, signals, labels, known, strict=True):
        findings += findings_of(part, names, model.present(found, on), model.standardised(found), on, mask)
    findings.sort(key=lambda each: (-each.probability, each.number, each.tag))
    counts = Counter(each.kind for each in findings)
    summary = {
        "images": len(rows),
        "unreadable": errors,
        "tags": len(columns),
        "tags_not_judged": len(images.tags) - len(columns),
        "labels": int(sum((label & mask).sum() for label, mask in zip(labels, known, strict=True))),
        "wrong": counts["wrong"],
        "missing": counts["missing"],
        "share_left_out": round(model.missing, 3),
        "weights": dict(zip(SIGNALS, np.round(model.weights, 3).tolist(), strict=True)),
        "near_duplicates": _duplicates(groups, [images.names[row] for row in rows.tolist()]),
    }
    _write(folder, images, findings, summary, limits, progress)
    return EngineResult(findings, summary)


def _claim(file: Path, identity: dict[str, str]) -> None:
    """Records what a run is about; InputError where the folder is another one's."""
    if file.exists() and json.loads(file.read_text()) != identity:
        raise InputError(f"{file.parent} holds a run over other images, labels or another model: give another folder.")
    file.write_text(json.dumps(identity))


def _encode(
    folder: Path, images: EngineInput, tagger: Tagger, loader: ImageLoader, progress: Progress
) -> tuple[list[Path], list[str]]:
    """Files of all portions, the missing ones encoded now; and the errors of images that can't be read."""
    files, errors = [], list[str]()
    for start in range(0, len(images.names), PORTION):
        progress("encode", start, len(images.names))
        file = folder / f"{start // PORTION:05}.npz"
        if not file.exists():
            _encode_portion(file, range(start, min(start + PORTION, len(images.names))), images, tagger, loader)
        with np.load(file) as stored:
            errors += stored["errors"].tolist()
            files += [file] if len(stored["rows"]) else []
    return files, errors


def _encode_portion(file: Path, numbers: range, images: EngineInput, tagger: Tagger, loader: ImageLoader) -> None:
    rows, content, phash, tokens, errors = [], [], [], [], []
    waiting: list[LoadedImage] = []
    for number, data in zip(numbers, images.load(numbers), strict=True):
        try:
            if isinstance(data, Exception):
                raise data
            waiting.append(loader.load(data, name=images.names[number]))
        except (ImageError, ImageUnreachable) as error:
            errors.append(f"{images.names[number]}: {error}")
        else:
            rows.append(number)
            content.append(waiting[-1].sha256)
            phash.append(waiting[-1].phash)
        if len(waiting) == AT_ONCE or number == numbers[-1]:
            tokens += loader.encode(tagger.network, waiting)
            waiting = []
    stacked = np.stack(tokens) if tokens else np.empty((0, *tagger.network.token_shape), np.float32)
    partial = file.with_suffix(".partial.npz")
    np.savez(
        partial,
        rows=np.array(rows, dtype=np.int64),
        content=np.array(content, dtype="U64"),
        phash=np.array(phash, dtype=np.uint64),
        tokens=stacked.astype(np.float16),
        scores=tagger.score(stacked).log_odds,
        errors=np.array(errors, dtype=np.str_),
    )
    partial.replace(file)


def _hashes(files: Sequence[Path]) -> tuple[list[NDArray[np.int64]], list[str], NDArray[np.uint64]]:
    """Rows of each portion; sha256 and perceptual hashes of all images that could be read."""
    rows, content, phash = [], list[str](), [np.empty(0, np.uint64)]
    for file in files:
        with np.load(file) as stored:
            rows.append(stored["rows"])
            content += stored["content"].tolist()
            phash.append(stored["phash"])
    return rows, content, np.concatenate(phash)


def _duplicates(groups: NDArray[np.int64], names: Sequence[str]) -> list[list[str]]:
    """Names of images that look alike."""
    alike = defaultdict(list)
    for group, name in zip(groups.tolist(), names, strict=True):
        alike[group].append(name)
    return [members for members in alike.values() if len(members) > 1]


def _write(
    folder: Path,
    images: EngineInput,
    findings: Sequence[Finding],
    summary: dict[str, Any],
    limits: tuple[int, int],
    progress: Progress,
) -> None:
    """Writes findings, labels, summary and report."""
    with (folder / "findings.jsonl").open("w", encoding="utf-8") as file:
        for each in findings:
            file.write(json.dumps({"file": images.names[each.number], **each.to_json()}, ensure_ascii=False) + "\n")
    of_image: dict[int, dict[str, Finding]] = defaultdict(dict)
    for each in findings:
        of_image[each.number][each.tag] = each
    with (folder / "labels.jsonl").open("w", encoding="utf-8") as file:
        for number, name in enumerate(images.names):
            on = [images.tags[column] for column in np.flatnonzero(images.labels[number] & images.known[number])]
            found = of_image[number]
            tags = [tag for tag in on if tag not in found] + [tag for tag in found if found[tag].kind == "missing"]
            maybe = [images.tags[column] for column in np.flatnonzero(~images.known[number])]
            line = {"file": name, "tags": tags, "maybe": maybe, "changed": {t: f.kind for t, f in found.items()}}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    (folder / "summary.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1), encoding="utf-8")
    by_tag: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: {"wrong": [], "missing": []})
    left = PICTURES
    for at, each in enumerate(findings):
        row = by_tag[each.tag][each.kind]
        shown = len(row) < PER_TAG and left > 0
        if shown:
            progress("report", at, len(findings))
            left -= 1
        picture = _picture(images, each.number, limits) if shown else None
        row.append({"name": images.names[each.number], "finding": each, "picture": picture})
    environment = Environment(loader=PackageLoader("ram_backend.engine"), autoescape=True, undefined=StrictUndefined)
    most = sorted(by_tag, key=lambda tag: -len(by_tag[tag]["wrong"]) - len(by_tag[tag]["missing"]))
    sections = [(tag, by_tag[tag]) for tag in most]
    page = environment.get_template("report.html").render(summary=summary, tags=sections, per_tag=PER_TAG)
    (folder / "report.html").write_text(page, encoding="utf-8")


def _picture(images: EngineInput, number: int, limits: tuple[int, int]) -> str | None:
    """A small JPEG of an image as a data URL; None: it can't be had now."""
    data = next(iter(images.load([number])))
    if isinstance(data, Exception):
        return None
    small = thumbnail(data, PICTURE_SIZE, *limits, images.names[number])
    return f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"
