"""A run of the engine over labelled images: encode, judge, write findings.

    portions/DIGEST.npz  tokens, scores and hashes of some images; written once
    findings.jsonl       labels that are probably wrong, tags that are probably missing
    labels.jsonl         the labels as they would be with all findings accepted
    probabilities.npz    that each judged tag is there, whatever its label
    report.html          the same with pictures

Nothing here changes a label: people decide. A portion is named by its images
and the model, and an image is encoded with its portion: several processes may
encode for one run, and one that was killed gives what an undisturbed one gives.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from ram_backend.engine.findings import Finding, findings_of
from ram_backend.engine.noise_model import fit_noise_model
from ram_backend.engine.signals import SIGNALS, CrossFittedRidge, Portion
from ram_backend.errors import ImageError, ImageUnreachable, InputError
from ram_backend.gate.training_set import folds_of
from ram_backend.images.decode import thumbnail
from ram_backend.images.near_duplicates import group_near_duplicates
from ram_backend.tagging.image_loader import ImageLoader, LoadedImage
from ram_backend.tagging.tagger import Tagger

PORTION, AT_ONCE = 512, 16
"""Images of a file, and those that are encoded together."""
MIN_LABELS = 5
"""A tag that fewer images have is not judged."""
ALIKE_UP_TO = 20_000
"""Images up to which near-duplicates are found by distance, else by equal hashes."""
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
        captions: (N, L) share of an image's captions that name the tag, or None.
        source: folder and times; names alone aren't images.
        extra: further fields of an image's labels, or nothing.
    """

    names: Sequence[str]
    tags: tuple[str, ...]
    labels: NDArray[np.bool_]
    known: NDArray[np.bool_]
    load: Callable[[Sequence[int]], Iterator[bytes | Exception]] = field(repr=False)
    captions: NDArray[np.float32] | None = None
    source: str = ""
    extra: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class EngineResult:
    """What a run found; `summary` is JSON."""

    findings: list[Finding]
    summary: dict[str, Any]

    @property
    def message(self) -> str:
        """One line for people."""
        found = self.summary
        return (
            f"{found['images']} images, {found['labels']} labels: {found['wrong']} probably wrong,"
            f" {found['missing']} probably missing, {len(found['near_duplicates'])} groups of near-duplicates."
        )


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
        InputError: no image can be read, or no tag has `MIN_LABELS` images.
    """
    columns = np.flatnonzero((images.labels & images.known).sum(axis=0) >= MIN_LABELS)
    if not len(columns):
        raise InputError(f"No tag is on for {MIN_LABELS} images. Label more images.")
    files, parts, content, hashes, errors = list[Path](), [], list[str](), [np.empty(0, np.uint64)], list[str]()
    for file, numbers in encode(folder, images, tagger, loader, progress):
        with np.load(file) as stored:
            errors += stored["errors"].tolist()
            if len(stored["rows"]):
                files.append(file)
                parts.append(numbers.start + stored["rows"])
                content += stored["content"].tolist()
                hashes.append(stored["phash"])
    if not files:
        raise InputError(f"None of {len(images.names)} images can be read; the first: {errors[0]}")
    rows, phash = np.concatenate(parts), np.concatenate(hashes)
    groups = (
        group_near_duplicates(phash, content) if len(rows) <= ALIKE_UP_TO else np.unique(phash, return_inverse=True)[1]
    )
    folds = np.zeros(len(images.names), dtype=np.int64)
    folds[rows] = folds_of(groups, content)
    labels, known = ([each[part][:, columns] for part in parts] for each in (images.labels, images.known))

    def portions() -> Iterator[Portion]:
        for at, file in enumerate(files):
            progress("compare", at, len(files))
            with np.load(file) as stored:
                tokens, scores = stored["tokens"], stored["scores"][:, columns]
            named = None if images.captions is None else images.captions[parts[at]][:, columns]
            yield Portion(folds[parts[at]], tokens, scores, labels[at], known[at], named)

    evidence = CrossFittedRidge(portions())
    signals = [file.with_suffix(".npy") for file in files]
    for file, each in zip(signals, portions(), strict=True):
        np.save(file, evidence.signals(each))
    model = fit_noise_model(map(np.load, signals), labels, known, evidence.rates)
    names = [images.tags[column] for column in columns]
    findings: list[Finding] = []
    probabilities = np.full((len(images.names), len(names)), np.nan, dtype=np.float16)
    for part, found, on, mask in zip(parts, map(np.load, signals), labels, known, strict=True):
        present = model.present(found, on)
        probabilities[part] = np.where(mask, present, np.nan)
        findings += findings_of(part, names, present, model.standardised(found), on, mask)
    np.savez(folder / "probabilities.npz", files=list(images.names), tags=names, probabilities=probabilities)
    findings.sort(key=lambda each: (-each.probability, each.number, each.tag))
    counts = Counter(each.kind for each in findings)
    alike = defaultdict(list)
    for group, row in zip(groups.tolist(), rows.tolist(), strict=True):
        alike[group].append(images.names[row])
    summary = {
        "images": len(rows),
        "unreadable": errors,
        "tags": len(columns),
        "tags_not_judged": len(images.tags) - len(columns),
        "labels": int((images.labels & images.known)[rows][:, columns].sum()),
        "wrong": counts["wrong"],
        "missing": counts["missing"],
        "share_left_out": round(model.missing, 3),
        "weights": dict(zip(SIGNALS, np.round(model.weights, 3).tolist(), strict=False)),
        "near_duplicates": [members for members in alike.values() if len(members) > 1],
    }
    _write(folder, images, findings, summary, limits, progress)
    return EngineResult(findings, summary)


def encode(
    folder: Path, images: EngineInput, tagger: Tagger, loader: ImageLoader, progress: Progress, share: int = 0
) -> list[tuple[Path, range]]:
    """Encodes the portions that nobody has encoded yet.

    Args:
        folder: of the run.
        images: of the run.
        tagger: see `run_engine`.
        loader: see `run_engine`.
        progress: called with stage, step and steps.
        share: processes that encode for one run at the same time each have a
            number, and an order of portions that follows from it.

    Returns:
        Of each portion its file and the numbers of its images.
    """
    (folder / "portions").mkdir(parents=True, exist_ok=True)
    total, found = len(images.names), list[tuple[Path, range]]()
    for start in range(0, total, PORTION):
        numbers = range(start, min(start + PORTION, total))
        identity = json.dumps([tagger.model_version, images.source, *(images.names[number] for number in numbers)])
        name = f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"
        found.append((folder / "portions" / name, numbers))
    for done, (file, numbers) in enumerate(random.Random(share).sample(found, len(found)) if share else found):
        progress("encode", done, len(found))
        if not file.exists() or _lacks_images(file):
            _encode_portion(file, numbers, images, tagger, loader)
    return found


def _lacks_images(file: Path) -> bool:
    """Whether the host of an image didn't answer."""
    with np.load(file) as stored:
        return bool(stored.get("unreachable", 0))


def _encode_portion(file: Path, numbers: range, images: EngineInput, tagger: Tagger, loader: ImageLoader) -> None:
    rows, content, phash, tokens, errors, unreachable = [], [], [], [], [], 0
    waiting: list[LoadedImage] = []
    for number, data in zip(numbers, images.load(numbers), strict=True):
        try:
            if isinstance(data, Exception):
                raise data
            waiting.append(loader.load(data, name=images.names[number]))
        except (ImageError, ImageUnreachable) as error:
            errors.append(f"{images.names[number]}: {error}")
            unreachable += isinstance(error, ImageUnreachable)
        else:
            rows.append(number - numbers.start)
            content.append(waiting[-1].sha256)
            phash.append(waiting[-1].phash)
        if len(waiting) == AT_ONCE or number == numbers[-1]:
            tokens += loader.encode(tagger.network, waiting)
            waiting = []
    stacked = np.stack(tokens) if tokens else np.empty((0, *tagger.network.token_shape), np.float32)
    partial = file.with_suffix(f".{os.uname().nodename}.{os.getpid()}.partial.npz")
    np.savez(
        partial,
        rows=np.array(rows, dtype=np.int64),
        content=np.array(content, dtype="U64"),
        phash=np.array(phash, dtype=np.uint64),
        tokens=stacked.astype(np.float16),
        scores=tagger.score(stacked).log_odds,
        errors=np.array(errors, dtype=np.str_),
        unreachable=unreachable,
    )
    partial.replace(file)


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
            line |= images.extra[number] if images.extra else {}
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
