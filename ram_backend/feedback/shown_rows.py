"""What was shown, and what images were: read from and written to the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from ram_backend.feedback.shown import KnownImages, Shown, TaskImage, read_choices, read_images, reference_digest
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import key_columns


@dataclass(frozen=True)
class ShownRows:
    """What was shown, as rows to write: made before the transaction, which should be short.

    Rows go in the same order in every process: else two that write the same ones might wait for each other.

    Attributes:
        served: what a server answered.
        listed: what a listing has.
        images: what the images were.
    """

    served: list[dict[str, Any]]
    listed: list[dict[str, Any]]
    images: list[dict[str, Any]]

    @classmethod
    def of(cls, key: ProjectKey, shown: Sequence[Shown]) -> ShownRows:
        """The rows of one project."""
        ordered = sorted(shown, key=lambda each: (each.task_id, each.model_version))
        served, listed = (
            [_shown_row(key, each) for each in ordered if each.source == source] for source in ("served", "listing")
        )
        images = [
            TaskImage(each.task_id, image.reference, image.sha256, image.phash)
            for each in shown
            for image in each.images
        ]
        return cls(served, listed, image_rows(key, images))

    def put(self, session: Session) -> None:
        """Writes them; see `Ledger.record_shown`."""
        insert = insert_into(session, ShownRow)
        new = insert.excluded
        number = {"prediction_id": func.coalesce(new.prediction_id, ShownRow.prediction_id)}
        all_of_it = {name: getattr(new, name) for name in ("version", "shown_at", "source", "choices", "images")}
        for rows, over in ((self.served, {**all_of_it, **number}), (self.listed, number)):
            if rows:
                identity = _identity(ShownRow, "model_version")
                session.execute(insert.on_conflict_do_update(index_elements=identity, set_=over), rows)
        put_images(session, self.images)


def image_rows(key: ProjectKey, images: Iterable[TaskImage]) -> list[dict[str, Any]]:
    """What images are, as rows to write."""
    now = datetime.now(UTC)
    return [
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


def put_images(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Writes what images are, over what they were."""
    if rows:
        insert = insert_into(session, TaskImageRow)
        over = {name: getattr(insert.excluded, name) for name in ("sha256", "phash", "seen_at")}
        identity = _identity(TaskImageRow, "reference")
        session.execute(insert.on_conflict_do_update(index_elements=identity, set_=over), rows)


def shown_of(session: Session, key: ProjectKey, *, annotated: bool) -> dict[int, list[Shown]]:
    """What was shown, by task, oldest first; see `Ledger.shown`."""
    query = select(ShownRow).where(of_project(ShownRow, key)).order_by(ShownRow.shown_at, ShownRow.row_id)
    if annotated:
        stated = (of_project(FeedbackEventRow, key), FeedbackEventRow.kind == "stated")
        query = query.where(ShownRow.task_id.in_(select(FeedbackEventRow.task_id).where(*stated)))
    columns = query.with_only_columns(
        *(ShownRow.task_id, ShownRow.model_version, ShownRow.shown_at, ShownRow.choices, ShownRow.images),
        *(ShownRow.version, ShownRow.prediction_id, ShownRow.source),
    )
    found: dict[int, list[Shown]] = {}
    for task, model_version, shown_at, choices, images, version, prediction_id, source in session.execute(columns):
        each = Shown(
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
    """What images of tasks were when they were last seen."""
    columns = select(TaskImageRow.task_id, TaskImageRow.reference, TaskImageRow.sha256, TaskImageRow.phash)
    rows = session.execute(columns.where(of_project(TaskImageRow, key)).order_by(TaskImageRow.seen_at))
    return KnownImages({(task, digest): (sha, int(phash, 16)) for task, digest, sha, phash in rows})


def _identity(table: type[Any], last: str) -> list[Any]:
    return [table.instance, table.project_id, table.created, table.task_id, getattr(table, last)]


def _shown_row(key: ProjectKey, shown: Shown) -> dict[str, Any]:
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
