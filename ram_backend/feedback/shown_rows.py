"""Rows of served predictions and of image identities: upserts and queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ram_backend.feedback.rows import (
    FeedbackEventRow,
    ShownRow,
    TaskImageRow,
    insert_into,
    of_project,
)
from ram_backend.feedback.shown import (
    KnownImages,
    ServedPrediction,
    TaskImage,
    read_choices,
    read_images,
    reference_digest,
)
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import key_columns


def put_shown(session: Session, key: ProjectKey, shown: Sequence[ServedPrediction]) -> None:
    """Upserts served predictions and the images that they are of; see `Ledger.record_shown`.

    Rows are written in one order in every process, so that two that write the same rows can't deadlock.
    """
    insert = insert_into(session, ShownRow)
    new = insert.excluded
    number = {"prediction_id": func.coalesce(new.prediction_id, ShownRow.prediction_id)}
    whole = {name: getattr(new, name) for name in ("version", "shown_at", "source", "choices", "images")}
    ordered = sorted(shown, key=lambda each: (each.task_id, each.model_version))
    for source, replaced in (("served", {**whole, **number}), ("listing", number)):
        rows = [_shown_row(key, each) for each in ordered if each.source == source]
        if rows:
            identity = _identity(ShownRow, "model_version")
            session.execute(insert.on_conflict_do_update(index_elements=identity, set_=replaced), rows)
    images = [
        TaskImage(each.task_id, image.reference, image.sha256, image.phash) for each in shown for image in each.images
    ]
    put_images(session, key, images)


def put_images(session: Session, key: ProjectKey, images: Iterable[TaskImage]) -> None:
    """Upserts identities of images, in one order in every process."""
    now = datetime.now(UTC)
    rows = [
        {
            **key_columns(key),
            "task_id": image.task_id,
            "reference": reference_digest(image.reference),
            "sha256": image.sha256,
            "phash": f"{image.phash:016x}",
            "seen_at": now,
        }
        for image in sorted(images, key=lambda image: (image.task_id, image.reference))
    ]
    if rows:
        insert = insert_into(session, TaskImageRow)
        replaced = {name: getattr(insert.excluded, name) for name in ("sha256", "phash", "seen_at")}
        identity = _identity(TaskImageRow, "reference")
        session.execute(insert.on_conflict_do_update(index_elements=identity, set_=replaced), rows)


def shown_of(session: Session, key: ProjectKey, *, annotated: bool) -> dict[int, list[ServedPrediction]]:
    """Served predictions by task, oldest first; see `Ledger.shown`."""
    query = select(ShownRow).where(of_project(ShownRow, key)).order_by(ShownRow.shown_at, ShownRow.row_id)
    if annotated:
        stated = (of_project(FeedbackEventRow, key), FeedbackEventRow.kind == "stated")
        query = query.where(ShownRow.task_id.in_(select(FeedbackEventRow.task_id).where(*stated)))
    columns = query.with_only_columns(
        *(ShownRow.task_id, ShownRow.model_version, ShownRow.shown_at, ShownRow.choices, ShownRow.images),
        *(ShownRow.version, ShownRow.prediction_id, ShownRow.source),
    )
    found: dict[int, list[ServedPrediction]] = {}
    for task, model_version, shown_at, choices, images, version, prediction_id, source in session.execute(columns):
        each = ServedPrediction(
            task_id=task,
            model_version=model_version,
            shown_at=shown_at,
            choices=read_choices(choices),
            images=read_images(images),
            version=version,
            prediction_id=prediction_id,
            source="served" if source == "served" else "listing",
        )
        found.setdefault(task, []).append(each)
    return found


def images_of(session: Session, key: ProjectKey) -> KnownImages:
    """Identities of the images of a project's tasks when they were last seen."""
    columns = select(TaskImageRow.task_id, TaskImageRow.reference, TaskImageRow.sha256, TaskImageRow.phash)
    rows = session.execute(columns.where(of_project(TaskImageRow, key)).order_by(TaskImageRow.seen_at))
    return KnownImages({(task, digest): (sha, int(phash, 16)) for task, digest, sha, phash in rows})


def _identity(table: type[Any], last: str) -> list[Any]:
    return [table.instance, table.project_id, table.created, table.task_id, getattr(table, last)]


def _shown_row(key: ProjectKey, shown: ServedPrediction) -> dict[str, Any]:
    return {
        **key_columns(key),
        "task_id": shown.task_id,
        "model_version": shown.model_version.replace("\0", "").encode("utf-8", "replace").decode(),
        "version": shown.version,
        "prediction_id": shown.prediction_id,
        "shown_at": shown.shown_at,
        "source": shown.source,
        "choices": shown.choices_json(),
        "images": shown.images_json(),
    }
