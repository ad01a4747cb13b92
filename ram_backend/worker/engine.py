"""Job "engine": the data engine over a project's corrections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from ram_backend.engine.run import EngineInput, encode, run_engine
from ram_backend.feedback.corrections import corrections_of, merge_corrections
from ram_backend.feedback.labels import to_matrix
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import JobResult
from ram_backend.labelstudio.client import fetch_limits
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.task_images import ImageReference, TaskImages
from ram_backend.models.network import load_network
from ram_backend.models.registry import find_bundle
from ram_backend.projects.project import Project
from ram_backend.tagging.image_loader import open_image_loader
from ram_backend.tagging.subset import open_subset
from ram_backend.tagging.tagger import TOKEN_DTYPE, Tagger
from ram_backend.versions.directory import engine_folder
from ram_backend.worker.run_job import JobContext
from ram_backend.worker.training_data import tags_left_on


def engine(context: JobContext) -> JobResult:
    """Does an engine job. Share 0 judges, and encodes what no other share has.

    Raises:
        InputError: there is nothing to judge.
    """
    settings, heartbeat = context.settings, context.heartbeat
    project, studio = context.open_project()
    heartbeat("load the model")
    bundle = find_bundle(settings.bundle, settings.bundles_dir)
    device, threads = settings.device, settings.cpu_threads()
    network = load_network(bundle, device=device, precision=settings.precision, threads=threads)
    loader = open_image_loader(settings, bundle.preprocessing, network.encoder_id)
    limits = fetch_limits(settings)
    folder = engine_folder(settings.versions_dir, context.key)
    pictures = (settings.max_image_pixels, settings.max_image_bytes)
    with closing(TaskImages(studio, limits=limits)) as source:
        images = project_images(project, context.service.ledger, source)
        tagger = Tagger(bundle, network, open_subset(bundle, images.tags, settings), token_dtype=TOKEN_DTYPE)
        if context.job.share:
            encode(folder, images, tagger, loader, heartbeat, context.job.share)
            return JobResult("All images are encoded.")
        result = run_engine(folder, images, tagger, loader, limits=pictures, progress=heartbeat)
    return JobResult(result.message, result.summary)


def project_images(project: Project, ledger: Ledger, source: TaskImages) -> EngineInput:
    """All current corrections of a project, named by their tasks.

    Raises:
        InputError: nobody has left a tag on.
    """
    schema = parse_label_config(project.label_config)
    annotations = ledger.annotations(project.key)
    shown = ledger.shown(project.key, annotated=True)
    merged = merge_corrections(corrections_of(schema, annotations, shown))
    rows = [each for each in merged if each.reference]
    tags = tags_left_on(project, rows)
    labels, believed = to_matrix(rows, tags)

    def load(numbers: Sequence[int]) -> Iterator[bytes | Exception]:
        yield from source.fetch_all(ImageReference(rows[number].task_id, rows[number].reference) for number in numbers)

    return EngineInput([str(each.task_id) for each in rows], tags, labels, believed > 0, load)
