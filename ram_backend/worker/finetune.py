"""Fine-tuning job: a project's corrections to a new bundle."""

from __future__ import annotations

from contextlib import closing
from itertools import compress
from pathlib import Path

from ram_backend.evaluation.labels import LabelledImage, LabelSet
from ram_backend.evaluation.report import cell
from ram_backend.feedback.labels import to_matrix
from ram_backend.feedback.ledger import Ledger
from ram_backend.finetuning.run import Note, Progress, make_bundle
from ram_backend.jobs.job import JobOptions, JobResult
from ram_backend.labelstudio.client import LabelStudio, fetch_limits
from ram_backend.labelstudio.task_images import ImageReference, TaskImages
from ram_backend.models.bundle import check_new_name
from ram_backend.projects.project import Project
from ram_backend.settings import Settings
from ram_backend.versions.directory import folder_of
from ram_backend.worker.run_job import JobContext
from ram_backend.worker.training_data import gather_corrections, tags_left_on


def finetune_project(context: JobContext) -> JobResult:
    """Does a fine-tuning job.

    Raises:
        InputError, NotAvailable: as `project_labels` and `make_bundle`.
    """
    options, notes = JobOptions.of(context.job.options), list[str]()
    settings = context.settings.model_copy(update={"bundle": options.bundle})
    wanted = options.finetuning or {}
    check_new_name(settings.bundles_dir, wanted["name"])
    project, label_studio = context.open_project()
    ledger, heartbeat = context.service.ledger, context.heartbeat
    labels, images = project_labels(project, label_studio, ledger, settings, heartbeat, notes.append)
    made = make_bundle(labels, images, settings, wanted, lambda *at: heartbeat(*at[:3]), notes.append)
    assert made is not None
    found = made.manifest["evaluation"]
    figures = [f"mAP of {each['name']} {cell(each) or 'unknown'}" for each in found["models"]]
    measured = f"on {found['images']} images that were left out, {', '.join(figures)}"
    return JobResult(" ".join([f"Bundle {made.name} is ready: {measured}.", *notes]), found)


def project_labels(
    project: Project,
    label_studio: LabelStudio | None,
    ledger: Ledger,
    settings: Settings,
    progress: Progress,
    note: Note,
) -> tuple[LabelSet, Path]:
    """Labels of the tags that annotators left on, and the folder of their images.

    Raises:
        InputError: nobody has left a tag on.
        LabelStudioUnreachable: no image can be had.
    """
    found = gather_corrections(project, label_studio, ledger, progress)
    tags = tags_left_on(project, found.labels)
    on, weights = to_matrix(found.labels, tags)
    references = [ImageReference(each.task_id, each.reference) for each in found.labels]
    folder = settings.photos_dir / folder_of(project.key)
    images, errors = list[LabelledImage](), list[str]()

    progress("images")
    limits, threads = fetch_limits(settings), settings.fetch_threads
    with closing(TaskImages(label_studio, limits=limits, threads=threads)) as source:
        saved = source.save_all(references, folder, errors.append)
    for path, here, known in zip(saved, on, weights > 0, strict=True):
        if path is not None:
            right, wrong = (frozenset(compress(tags, known & each)) for each in (here, ~here))
            images.append(LabelledImage(path.name, right, negatives=wrong))
    failed = [f"{len(errors)} images can't be fetched; the first: {errors[0]}"] if errors else []
    for text in (*found.notes, *failed):
        note(text)
    return LabelSet(f"project {project.key}", tuple(images), tags), folder
