"""Collection of training data: reconcile, merge labels, encode images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import ImageError, ImageUnreachable, InputError, LabelStudioUnreachable
from ram_backend.feedback.corrections import corrections_of, merge_corrections
from ram_backend.feedback.events import Fingerprint
from ram_backend.feedback.labels import ImageLabels
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.reconcile import reconcile
from ram_backend.feedback.shown import image_key
from ram_backend.jobs.job import JobResult
from ram_backend.labelstudio.client import LabelStudio, fetch_limits
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.task_images import ImageReference, TaskImages
from ram_backend.models.bundle import Bundle
from ram_backend.models.network import Network
from ram_backend.projects.options import ProjectOptions
from ram_backend.projects.project import Project
from ram_backend.tagging.image_loader import LoadedImage, open_image_loader
from ram_backend.worker.run_job import JobContext

MOST_MISSING = 0.5
"""A training waits if a larger share of the images is unavailable."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProjectCorrections:
    """The corrections of a project at one time, and the L texts that could be chosen.

    Labels are one per image with a statement, as far as its place is known.
    Notes are for people, one sentence each. Annotators are users by annotation;
    `add_costs` is what it costs to add a tag, in removed ticks.
    `fixed_thresholds` are an admin's, for the new version and for the served
    one. All controls tick at most `most_ticked` tags per image; None: any.
    """

    labels: Sequence[ImageLabels]
    tags: tuple[str, ...]
    last_event: int
    fingerprint: Fingerprint
    annotators: Mapping[int, int | None]
    add_costs: Mapping[str, float]
    fixed_thresholds: Mapping[str, tuple[float, float]]
    most_ticked: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class EncodedImages:
    """N corrected images, in order of their tasks.

    Attributes:
        content: sha256 of each one's bytes, in hex.
        phash: (N,) uint64 perceptual hashes.
        tokens: (N, T, D) float16, as they are cached; in a file without a name.
    """

    labels: Sequence[ImageLabels]
    content: tuple[str, ...]
    phash: NDArray[np.uint64]
    tokens: NDArray[np.float16] = field(repr=False)
    notes: tuple[str, ...]


def gather_corrections(
    project: Project,
    label_studio: LabelStudio | None,
    ledger: Ledger,
    heartbeat: Callable[..., None],
    learned: int = 0,
) -> ProjectCorrections:
    """Reconciles the ledger with Label Studio, if possible, and reads all corrections.

    What is served has `learned` from that many photos.

    Raises:
        LabelConfigError: the project's label config can't be used.
    """
    key = project.key
    schema = parse_label_config(project.label_config)
    notes: list[str] = []
    newer: Mapping[int, Mapping[str, Any]] = {}
    heartbeat("reconcile")
    try:
        if label_studio is None:
            raise LabelStudioUnreachable("Nobody has named its address.")
        api = ProjectApi(label_studio, key.id)
        newer = reconcile(ledger, key, api, progress=lambda tasks: heartbeat("reconcile", tasks)).task_data
    except (LabelStudioUnreachable, InputError) as error:
        _log.warning("project %s: not reconciled with Label Studio: %s", key, error)
        notes.append(f"Label Studio was not reachable ({error}): only webhook events are used.")
    heartbeat("gather")
    last_event = ledger.last_event(key)
    annotations = ledger.annotations(key, up_to=last_event)
    shown = ledger.shown(key, annotated=True)
    labels = merge_corrections(corrections_of(schema, annotations, shown, task_data=newer))
    with_place = [each for each in labels if each.reference]
    if len(with_place) < len(labels):
        notes.append(f"{len(labels) - len(with_place)} tasks have no image reference.")
    costs, limits = dict[str, float](), list[int | None]()
    fixed = dict[str, tuple[float | None, float | None]]()

    def thresholds(options: ProjectOptions, names: Sequence[str]) -> tuple[float | None, float | None]:
        return options.threshold_of(names, len(with_place)), options.threshold_of(names, learned)

    for control in schema.tag_controls:
        options = project.options(ProjectOptions(**control.attributes))
        cost = control.add_cost if options.add_cost is None else options.add_cost
        for choice in control.choices:
            costs |= dict.fromkeys(choice.texts, cost)
            fixed |= dict.fromkeys(choice.texts, thresholds(options, choice.names))
        most = [1 if control.single else None, options.top_k, control.max_usages]
        limits.append(min((each for each in most if each is not None), default=None))
    texts = list(costs)
    for candidates in {id(each.candidates): each.candidates for each in with_place}.values():
        texts += candidates
    fixed = {text: thresholds(options, [text]) for text in texts} | fixed
    return ProjectCorrections(
        labels=with_place,
        tags=tuple(dict.fromkeys(text for text in texts if text.strip())),
        last_event=last_event,
        fingerprint=ledger.fingerprint(key, up_to=last_event),
        annotators={each.parsed.id: each.parsed.completed_by for each in annotations},
        add_costs=dict.fromkeys(texts, cost) | costs,
        fixed_thresholds={
            text: (new, old) for text, (new, old) in fixed.items() if new is not None and old is not None
        },
        most_ticked=None if None in limits else sum(each for each in limits if each is not None),
        notes=tuple(notes),
    )


def tags_left_on(project: Project, labels: Sequence[ImageLabels]) -> tuple[str, ...]:
    """The tags that are on for at least one image, sorted.

    Raises:
        InputError: there are none.
    """
    tags = tuple(sorted({tag for each in labels for tag, label in each.states.items() if label.label}))
    if not tags:
        raise InputError(f"Project {project.key} has no tag that somebody left on: annotate some tasks first.")
    return tags


def reconcile_ledger(context: JobContext) -> JobResult:
    """Does a job that only compares the ledger with Label Studio.

    Raises:
        LabelStudioUnreachable: nothing was written; another attempt may help.
    """
    _, label_studio = context.open_project()
    if label_studio is None:
        raise LabelStudioUnreachable("Nobody has named its address.")
    api, ledger = ProjectApi(label_studio, context.key.id), context.service.ledger
    found = reconcile(ledger, context.key, api, progress=lambda tasks: context.heartbeat("reconcile", tasks))
    counts = {name: value for name, value in vars(found).items() if isinstance(value, int)}
    return JobResult(f"{found.listed} annotations: {found.added} new ones, {found.gone} gone.", counts)


def encode_images(
    context: JobContext,
    labels: Sequence[ImageLabels],
    bundle: Bundle,
    network: Network,
    label_studio: LabelStudio | None,
) -> EncodedImages:
    """Tokens of corrected images; records the images' hashes in the ledger.

    Raises:
        LabelStudioUnreachable: too many images are unavailable now.
    """
    settings, ledger, key = context.settings, context.service.ledger, context.key
    loader = open_image_loader(settings, bundle.preprocessing, network.encoder_id)
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=settings.cache_dir) as file:  # may exceed the memory
        tokens = np.memmap(file, dtype=np.float16, mode="w+", shape=(len(labels), *network.token_shape))
    known = ledger.images(key)
    hashes: dict[int, tuple[str, int]] = {}  # sha256 and perceptual hash of each row
    for row, each in enumerate(labels):
        context.heartbeat("cached images", row, len(labels))
        image = known.get(image_key(each.task_id, each.reference))
        if image is not None and (cached := loader.cached(image[0])) is not None:
            tokens[row], hashes[row] = cached.tokens, image
    new = [row for row in range(len(labels)) if row not in hashes]
    errors: list[Exception] = []

    def load() -> Iterator[tuple[int, LoadedImage]]:
        fetched = source.fetch_all(ImageReference(labels[row].task_id, labels[row].reference) for row in new)
        for count, row in enumerate(new):
            context.heartbeat("new images", count, len(new))
            try:
                outcome = next(fetched, None)
                if not isinstance(outcome, bytes):
                    raise outcome or errors[-1]  # Label Studio failed: all did
                image = loader.load(outcome, name=f"image of task {labels[row].task_id}")
            except (ImageError, ImageUnreachable) as error:
                errors.append(error)
            else:
                yield row, image

    loaded, limits = load(), fetch_limits(settings)
    with closing(TaskImages(label_studio, limits=limits, threads=settings.fetch_threads)) as source:
        while batch := dict(islice(loaded, settings.batch_size)):
            for row, encoded in zip(batch, loader.encode(network, list(batch.values())), strict=True):
                tokens[row], hashes[row] = encoded, (batch[row].sha256, batch[row].phash)
    unreachable = [error for error in errors if not isinstance(error, ImageError)]
    if len(unreachable) > MOST_MISSING * len(labels):
        count = f"{len(unreachable)} of {len(labels)} corrected images"
        raise LabelStudioUnreachable(f"{count} are unavailable now; the first of them: {unreachable[0]}")
    fetched = [row for row in new if row in hashes]
    ledger.record_images(key, {image_key(labels[row].task_id, labels[row].reference): hashes[row] for row in fetched})
    rows = sorted(hashes)
    for place, row in enumerate(rows):  # none is written over before it has moved
        if row != place:
            tokens[place] = tokens[row]
    return EncodedImages(
        labels=[labels[row] for row in rows],
        content=tuple(hashes[row][0] for row in rows),
        phash=np.array([hashes[row][1] for row in rows], dtype=np.uint64),
        tokens=tokens[: len(rows)],
        notes=(f"{len(errors)} images were left out; the first of them: {errors[0]}",) if errors else (),
    )
