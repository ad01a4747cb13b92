"""Event-sourced ledger of annotations: immutable events in the database, the current truth as a view over them.

All methods block on the database. A project's rows from before its first `/setup` have the instance ""; they are read
together with the rows of the project of the same number and creation time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from ram_backend.database.engine import Database
from ram_backend.feedback import view
from ram_backend.feedback.events import FeedbackEvent
from ram_backend.feedback.label_space import LabelSpace
from ram_backend.feedback.rows import FeedbackEventRow, LabelSpaceRow, insert_into, of_project
from ram_backend.feedback.shown import KnownImages, ServedPrediction, TaskImage
from ram_backend.feedback.shown_rows import images_of, put_images, put_shown, shown_of
from ram_backend.feedback.view import Changes, CurrentAnnotation, EventLine, Fingerprint
from ram_backend.labelstudio.annotations import StatedAnnotation
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import key_columns

_ADVISORY_LOCK = 0x52414D5F4C454447  # any number that nobody else uses in that database
_AT_ONCE = 400
_EVENT_COLUMNS = (
    FeedbackEventRow.event_id,
    FeedbackEventRow.kind,
    FeedbackEventRow.annotation_id,
    FeedbackEventRow.task_id,
    FeedbackEventRow.updated_us,
    FeedbackEventRow.content,
    FeedbackEventRow.usable,
)
T = TypeVar("T")


class Ledger:
    """The ledger of all projects in one database, whose migrations have run (`open_migrated`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self) -> None:
        """Closes the connections that nobody uses now; a later call opens new ones."""
        self._database.close()

    def record(self, key: ProjectKey, events: Sequence[FeedbackEvent]) -> int:
        """Appends events, all or none; they are durable when this returns. Known ones change nothing.

        Numbers are given one transaction after another: a reader that sees number n sees all before it.

        Returns:
            The number of new events.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        if not events:
            return 0
        offered = {event.offered.digest: event.offered for event in events if event.offered is not None}
        rows = [_event_row(key, event) for event in events]
        with self._database.writing() as session:
            if self._database.file is None:
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            self._add_offered(session, key, offered)
            insert = (
                insert_into(session, FeedbackEventRow).on_conflict_do_nothing().returning(FeedbackEventRow.event_id)
            )
            return sum(len(session.execute(insert, some).all()) for some in _portions(rows, _AT_ONCE))

    def annotations(self, key: ProjectKey, *, up_to: int | None = None) -> list[CurrentAnnotation]:
        """The current truth: the latest statement of each existing annotation, by number, usable or not.

        Args:
            key: the project.
            up_to: as of this event; None: now.

        Raises:
            DatabaseUnavailable: see the message.
        """
        with self._database.reading() as session:
            truth = view.current(self._lines(session, key, up_to))
            bodies = self._bodies(session, key, [line.event_id for line in truth.values()])
            offered = self._offered(session, key)
        return [_annotation(line, bodies[line.event_id], offered) for line in truth.values()]

    def lines(self, key: ProjectKey, *, up_to: int | None = None) -> list[EventLine]:
        """All events of a project without their statements, by number."""
        with self._database.reading() as session:
            return self._lines(session, key, up_to)

    def last_event(self, key: ProjectKey) -> int:
        """Number of a project's last event; 0: there is none."""
        last = select(FeedbackEventRow.event_id).where(of_project(FeedbackEventRow, key))
        with self._database.reading() as session:
            return session.scalar(last.order_by(FeedbackEventRow.event_id.desc()).limit(1)) or 0

    def changes_since(self, key: ProjectKey, event_id: int, *, up_to: int | None = None) -> Changes:
        """How the usable annotations changed between two events.

        Args:
            key: the project.
            event_id: after this event.
            up_to: up to this event; None: until now.
        """
        lines = self.lines(key, up_to=up_to)
        before = view.current(line for line in lines if line.event_id <= event_id)
        return view.changes(before, view.current(lines))

    def changed_since(self, key: ProjectKey, event_id: int) -> int:
        """Number of usable annotations that were added, edited or withdrawn after an event."""
        return self.changes_since(key, event_id).total

    def fingerprint(self, key: ProjectKey, *, up_to: int | None = None) -> Fingerprint:
        """Identity of the usable annotations; see `annotations` for `up_to`."""
        return view.fingerprint(view.current(self.lines(key, up_to=up_to)))

    def keys(self) -> list[ProjectKey]:
        """All projects that have events."""
        columns = (FeedbackEventRow.instance, FeedbackEventRow.project_id, FeedbackEventRow.created)
        with self._database.reading() as session:
            return sorted(ProjectKey(*row) for row in session.execute(select(*columns).distinct()))

    def last_events(self) -> dict[ProjectKey, int]:
        """Number of the last event of each project that there are events of."""
        columns = (FeedbackEventRow.instance, FeedbackEventRow.project_id, FeedbackEventRow.created)
        question = select(*columns, func.max(FeedbackEventRow.event_id)).group_by(*columns)
        with self._database.reading() as session:
            return {ProjectKey(*row[:3]): row[3] for row in session.execute(question)}

    def record_shown(self, key: ProjectKey, shown: Sequence[ServedPrediction]) -> None:
        """Upserts served predictions and the identities of their images.

        A task and `model_version` have one row, the last that was served. A listing's prediction is kept only if none
        was served; otherwise it adds Label Studio's number to the row.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        if not shown:
            return
        with self._database.writing() as session:
            put_shown(session, key, shown)

    def shown(self, key: ProjectKey, *, annotated: bool = False) -> dict[int, list[ServedPrediction]]:
        """Served predictions by task, oldest first.

        Args:
            key: the project.
            annotated: only for tasks that have annotations, which in a large project are few.
        """
        with self._database.reading() as session:
            return shown_of(session, key, annotated=annotated)

    def record_images(self, key: ProjectKey, images: Sequence[TaskImage]) -> None:
        """Upserts identities of images."""
        if images:
            with self._database.writing() as session:
                put_images(session, key, images)

    def images(self, key: ProjectKey) -> KnownImages:
        """Identities of the images of the project's tasks when they were last seen."""
        with self._database.reading() as session:
            return images_of(session, key)

    def _lines(self, session: Session, key: ProjectKey, up_to: int | None) -> list[EventLine]:
        query = select(*_EVENT_COLUMNS).where(of_project(FeedbackEventRow, key)).order_by(FeedbackEventRow.event_id)
        if up_to is not None:
            query = query.where(FeedbackEventRow.event_id <= up_to)
        return [EventLine(*row) for row in session.execute(query)]

    def _bodies(self, session: Session, key: ProjectKey, events: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        columns = (
            *(FeedbackEventRow.event_id, FeedbackEventRow.statement, FeedbackEventRow.task_data),
            *(FeedbackEventRow.offered, FeedbackEventRow.received_at),
        )
        query = select(*columns).where(of_project(FeedbackEventRow, key), FeedbackEventRow.kind == "stated")
        wanted = set(events)
        return {row[0]: tuple(row[1:]) for row in session.execute(query) if row[0] in wanted}

    def _offered(self, session: Session, key: ProjectKey) -> dict[str, LabelSpace]:
        rows = session.execute(select(LabelSpaceRow.digest, LabelSpaceRow.tags).where(of_project(LabelSpaceRow, key)))
        return {digest: LabelSpace.from_json(tags, digest) for digest, tags in rows}

    def _add_offered(self, session: Session, key: ProjectKey, offered: Mapping[str, LabelSpace]) -> None:
        there = select(LabelSpaceRow.digest).where(
            of_project(LabelSpaceRow, key), LabelSpaceRow.digest.in_(list(offered))
        )
        new = offered.keys() - set(session.scalars(there)) if offered else set()
        for digest in sorted(new):
            session.add(
                LabelSpaceRow(
                    **key_columns(key), digest=digest, tags=offered[digest].to_json(), first_seen_at=datetime.now(UTC)
                )
            )
        session.flush()


def _event_row(key: ProjectKey, event: FeedbackEvent) -> dict[str, Any]:
    return {
        **key_columns(key),
        "kind": event.kind,
        "annotation_id": event.annotation_id,
        "task_id": event.task_id,
        "updated_us": event.updated_us,
        "content": event.content,
        "usable": event.usable,
        "statement": event.statement,
        "task_data": event.task_data,
        "offered": event.offered.digest if event.offered is not None else "",
        "source": event.source,
        "received_at": event.received_at,
    }


def _annotation(line: EventLine, body: tuple[Any, ...], offered: Mapping[str, LabelSpace]) -> CurrentAnnotation:
    statement, task_data, digest, received_at = body
    return CurrentAnnotation(
        event_id=line.event_id,
        stated=StatedAnnotation.from_canonical(statement, updated_us=line.updated_us),
        task_data=json.loads(task_data) if task_data else {},
        offered=offered.get(digest),
        received_at=received_at,
    )


def _portions(items: Iterable[T], size: int) -> Iterator[list[T]]:
    waiting = iter(items)
    while some := list(islice(waiting, size)):
        yield some
