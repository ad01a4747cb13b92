"""Event-sourced ledger of annotations: events, and their projection.

A project's rows from before its first `/setup` have the instance "" and are
read together with the later ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Index, UniqueConstraint, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from ram_backend.database.engine import Base, Database, RowId
from ram_backend.feedback.events import (
    AnnotationChanges,
    CurrentAnnotation,
    EventHeader,
    FeedbackEvent,
    Fingerprint,
    LabelSpace,
    changes,
    current,
    fingerprint,
)
from ram_backend.feedback.shown import ImageHashes, ShownPrediction, image_key, read_choices, read_images
from ram_backend.labelstudio.annotations import ParsedAnnotation
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import OfProject, key_columns, of_project

_of_project = partial(of_project, unnamed=True)  # including rows from before its first `/setup`
_ADVISORY_LOCK = 0x52414D5F4C454447  # any number that nobody else uses in that database


def _unique(table: str, *columns: str) -> UniqueConstraint:
    return UniqueConstraint("instance", "project_id", "created", *columns, name=f"uq_{table}_identity")


class EventRow(OfProject, Base):
    """One `FeedbackEvent`, never changed; `offered`: digest of its label space, or ""."""

    __tablename__ = "feedback_events"
    __table_args__ = (
        _unique("feedback_events", "kind", "annotation_id", "task_id", "updated_us", "content"),
        Index("ix_feedback_events_order", "project_id", "created", "event_id"),
        {"sqlite_autoincrement": True},  # erased ids don't come back
    )

    event_id: Mapped[RowId]
    kind: Mapped[str]
    annotation_id: Mapped[int]
    task_id: Mapped[int]
    updated_us: Mapped[int]
    content: Mapped[str]
    usable: Mapped[bool]
    statement: Mapped[str]
    task_data: Mapped[str | None]
    offered: Mapped[str]
    source: Mapped[str] = mapped_column(default="")  # 0.1.0 wrote where an event came from
    received_at: Mapped[datetime]


class LabelSpaceRow(OfProject, Base):
    """A label space, by the digest that events name; `tags` is JSON."""

    __tablename__ = "offered_tags"
    __table_args__ = (_unique("offered_tags", "digest"),)

    row_id: Mapped[RowId]
    digest: Mapped[str]
    tags: Mapped[str]
    first_seen_at: Mapped[datetime]


class ShownRow(OfProject, Base):
    """A served prediction; JSON columns; `prediction_id` comes by reconciliation."""

    __tablename__ = "shown"
    __table_args__ = (_unique("shown", "task_id", "model_version"),)

    row_id: Mapped[RowId]
    task_id: Mapped[int]
    model_version: Mapped[str]
    version: Mapped[str | None]
    prediction_id: Mapped[int | None]
    shown_at: Mapped[datetime]
    source: Mapped[str]
    choices: Mapped[str]
    images: Mapped[str]


class TaskImageRow(OfProject, Base):
    """Hashes of an image of a task, as last seen; `reference` is a sha256."""

    __tablename__ = "task_images"
    __table_args__ = (_unique("task_images", "task_id", "reference"),)

    row_id: Mapped[RowId]
    task_id: Mapped[int]
    reference: Mapped[str]
    sha256: Mapped[str]
    phash: Mapped[str]
    seen_at: Mapped[datetime]


_HEADER = [getattr(EventRow, name) for name in EventHeader._fields]
_CONTENTS = [
    getattr(EventRow, name)
    for name in ("event_id", "annotation_id", "updated_us", "statement", "task_data", "offered", "received_at")
]
_SHOWN = ("version", "shown_at", "source", "choices", "images")


class Ledger:
    """The ledger of all projects in one database (of `open_migrated`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, key: ProjectKey, events: Sequence[FeedbackEvent]) -> int:
        """Appends new events, all or none, durably; returns their number.

        Ids are given one transaction after another: a reader that sees id n
        sees all before it.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        if not events:
            return 0
        offered = {event.offered.digest: event.offered for event in events if event.offered is not None}
        rows = [
            {**key_columns(key), **vars(event), "offered": event.offered.digest if event.offered else ""}
            for event in events
        ]
        with self._database.writing() as session:
            if self._database.file is None:
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            known = select(LabelSpaceRow.digest).where(
                _of_project(LabelSpaceRow, key), LabelSpaceRow.digest.in_(offered)
            )
            new = offered.keys() - set(session.scalars(known))  # thousands of tags are not sent each time
            if new:
                now = datetime.now(UTC)
                spaces = [
                    {**key_columns(key), "digest": digest, "tags": offered[digest].to_json(), "first_seen_at": now}
                    for digest in sorted(new)
                ]
                session.execute(_insert_into(session, LabelSpaceRow).on_conflict_do_nothing(), spaces)
            insert = _insert_into(session, EventRow).on_conflict_do_nothing()
            return len(session.execute(insert.returning(EventRow.event_id), rows).all())

    def size(self, key: ProjectKey) -> int:
        """Characters of a project's statements and their tasks. Reads all of them."""
        texts = func.length(EventRow.statement) + func.length(func.coalesce(EventRow.task_data, ""))
        with self._database.reading() as session:
            total = session.scalar(select(func.sum(texts)).where(_of_project(EventRow, key)))
        return int(total or 0)

    def annotations(self, key: ProjectKey, *, up_to: int | None = None) -> list[CurrentAnnotation]:
        """The current annotations, usable or not, by id, as of event `up_to` (None: now)."""
        latest = current(self.headers(key, up_to=up_to))
        with self._database.reading() as session:
            spaces = select(LabelSpaceRow.digest, LabelSpaceRow.tags).where(_of_project(LabelSpaceRow, key))
            offered = {digest: LabelSpace.from_json(tags, digest) for digest, tags in session.execute(spaces)}
            query = select(*_CONTENTS).where(_of_project(EventRow, key), EventRow.kind == "stated")
            wanted = {header.event_id for header in latest.values()}
            found = {row.annotation_id: row for row in session.execute(query) if row.event_id in wanted}
        return [
            CurrentAnnotation(
                event_id=row.event_id,
                parsed=ParsedAnnotation.from_canonical(row.statement, updated_us=row.updated_us),
                task_data=json.loads(row.task_data) if row.task_data else {},
                offered=offered.get(row.offered),
                received_at=row.received_at,
            )
            for row in (found[number] for number in latest if number in found)
        ]

    def headers(self, key: ProjectKey, *, up_to: int | None = None) -> list[EventHeader]:
        """All events of a project without their statements, by id."""
        query = select(*_HEADER).where(_of_project(EventRow, key)).order_by(EventRow.event_id)
        if up_to is not None:
            query = query.where(EventRow.event_id <= up_to)
        with self._database.reading() as session:
            return [EventHeader(*row) for row in session.execute(query)]

    def last_event(self, key: ProjectKey) -> int:
        """Id of a project's last event; 0: there is none."""
        last = select(EventRow.event_id).where(_of_project(EventRow, key))
        with self._database.reading() as session:
            return session.scalar(last.order_by(EventRow.event_id.desc()).limit(1)) or 0

    def changes_since(self, key: ProjectKey, event_id: int, *, up_to: int | None = None) -> AnnotationChanges:
        """Changes of usable annotations after an event, up to another (None: now)."""
        headers = self.headers(key, up_to=up_to)
        return changes(current(each for each in headers if each.event_id <= event_id), current(headers))

    def fingerprint(self, key: ProjectKey, *, up_to: int | None = None) -> Fingerprint:
        """Identity of the usable annotations; see `annotations` for `up_to`."""
        return fingerprint(current(self.headers(key, up_to=up_to)))

    def last_events(self) -> dict[ProjectKey, int]:
        """Id of the last event of each project that has events."""
        project = (EventRow.instance, EventRow.project_id, EventRow.created)
        question = select(*project, func.max(EventRow.event_id)).group_by(*project)
        with self._database.reading() as session:
            return {ProjectKey(*row[:3]): row[3] for row in session.execute(question)}

    def record_shown(self, key: ProjectKey, shown: Sequence[ShownPrediction]) -> None:
        """Upserts served predictions and the identities of their images.

        A task and `model_version` have one row, the last that was served. A
        listing's prediction is kept only if none was served; otherwise it adds
        Label Studio's id to the row.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        ordered = sorted(shown, key=lambda each: (each.task_id, each.model_version))  # no deadlock of writers
        with self._database.writing() as session:
            insert = _insert_into(session, ShownRow)
            number = {"prediction_id": func.coalesce(insert.excluded.prediction_id, ShownRow.prediction_id)}
            whole = {name: getattr(insert.excluded, name) for name in _SHOWN}
            identity = [*_identity(ShownRow), ShownRow.model_version]
            for source, replaced in (("served", {**whole, **number}), ("listing", number)):
                rows = [_shown_row(key, each) for each in ordered if each.source == source]
                if rows:
                    session.execute(insert.on_conflict_do_update(index_elements=identity, set_=replaced), rows)
            images = {
                image_key(each.task_id, image.reference): (image.sha256, image.phash)
                for each in shown
                for image in each.images
            }
            self._put_images(session, key, images)

    def shown(
        self, key: ProjectKey, *, annotated: bool = False, version: str | None = None, limit: int | None = None
    ) -> dict[int, list[ShownPrediction]]:
        """Served predictions by task, oldest first.

        `annotated`: only of tasks with annotations. `version`: only by that
        version of the project. `limit`: the most predictions.
        """
        query = select(ShownRow).where(_of_project(ShownRow, key))
        query = query.order_by(ShownRow.shown_at, ShownRow.row_id)
        if annotated:
            annotated_tasks = (_of_project(EventRow, key), EventRow.kind == "stated")
            query = query.where(ShownRow.task_id.in_(select(EventRow.task_id).where(*annotated_tasks)))
        if version is not None:
            query = query.where(ShownRow.version == version)
        found: dict[int, list[ShownPrediction]] = {}
        with self._database.reading() as session:
            for row in session.scalars(query.limit(limit)):
                prediction = ShownPrediction(
                    task_id=row.task_id,
                    model_version=row.model_version,
                    shown_at=row.shown_at,
                    choices=read_choices(row.choices),
                    images=read_images(row.images),
                    version=row.version,
                    prediction_id=row.prediction_id,
                    source="served" if row.source == "served" else "listing",
                )
                found.setdefault(row.task_id, []).append(prediction)
        return found

    def record_images(self, key: ProjectKey, images: ImageHashes) -> None:
        """Upserts the hashes of images."""
        with self._database.writing() as session:
            self._put_images(session, key, images)

    def images(self, key: ProjectKey) -> ImageHashes:
        """Hashes of the images of the project's tasks when they were last seen."""
        columns = select(TaskImageRow.task_id, TaskImageRow.reference, TaskImageRow.sha256, TaskImageRow.phash)
        query = columns.where(_of_project(TaskImageRow, key)).order_by(TaskImageRow.seen_at)
        with self._database.reading() as session:
            rows = session.execute(query)
            return {(task, digest): (sha, int(phash, 16)) for task, digest, sha, phash in rows}

    def _put_images(self, session: Session, key: ProjectKey, images: ImageHashes) -> None:
        now = datetime.now(UTC)
        rows = [
            {"task_id": task_id, "reference": digest, "sha256": sha, "phash": f"{phash:016x}", "seen_at": now}
            | key_columns(key)
            for (task_id, digest), (sha, phash) in sorted(images.items())
        ]
        if rows:
            insert = _insert_into(session, TaskImageRow)
            replaced = {name: getattr(insert.excluded, name) for name in ("sha256", "phash", "seen_at")}
            identity = [*_identity(TaskImageRow), TaskImageRow.reference]
            session.execute(insert.on_conflict_do_update(index_elements=identity, set_=replaced), rows)


def _identity(table: type[ShownRow | TaskImageRow]) -> list[Any]:
    return [table.instance, table.project_id, table.created, table.task_id]


def _shown_row(key: ProjectKey, shown: ShownPrediction) -> dict[str, Any]:
    return {
        **key_columns(key),
        **vars(shown),
        "model_version": shown.model_version.replace("\0", "").encode("utf-8", "replace").decode(),
        "choices": shown.choices_json(),
        "images": shown.images_json(),
    }


def _insert_into(session: Session, table: type[Base]) -> Any:
    """The dialect's INSERT with ON CONFLICT, for SQLite or PostgreSQL."""
    dialect = session.get_bind().dialect.name
    return (postgresql if dialect == "postgresql" else sqlite).insert(table.__table__)
