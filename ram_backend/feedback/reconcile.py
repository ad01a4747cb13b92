"""Reconciliation of the ledger with Label Studio."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ram_backend.errors import LabelStudioRefused, LabelStudioUnreachable
from ram_backend.feedback.events import (
    CurrentAnnotation,
    EventKind,
    FeedbackEvent,
    LabelSpace,
    label_space_of,
    missing,
    statement_event,
)
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ShownChoice, ShownPrediction
from ram_backend.labelstudio.annotations import ParsedAnnotation, parse_id, read_annotation, read_items
from ram_backend.labelstudio.api_models import ListedTask
from ram_backend.labelstudio.client import LabelStudio, connect_command, open_label_studio
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project, TrustedHost, connection_of
from ram_backend.settings import Settings

SETTLED = timedelta(seconds=60)
"""An annotation that came later than this before a listing isn't taken for gone.

Label Studio sends the webhook before it commits the annotation.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconciled:
    """Counts of a reconciliation, and the data of the listed tasks.

    Attributes:
        listed: annotations that Label Studio has.
        added: statements that the ledger lacked.
        gone: annotations that Label Studio no longer has.
        returned: annotations that an earlier listing lacked.
        shown: predictions that annotators started from, newly recorded.
        left_out: annotations that can't be parsed.
    """

    listed: int
    added: int
    gone: int
    returned: int
    shown: int
    left_out: int
    task_data: Mapping[int, Mapping[str, Any]] = field(repr=False)


def reconcile(
    ledger: Ledger,
    key: ProjectKey,
    api: ProjectApi,
    *,
    began: datetime | None = None,
    settled: timedelta = SETTLED,
    progress: Callable[[int], None] | None = None,
) -> Reconciled:
    """Lists all annotated tasks, then adds what the ledger lacks.

    A statement that differs only by its missing parent prediction is not added:
    Label Studio forgets deleted predictions. An annotation that the listing
    lacks is looked up once more by its task before it counts as gone, and only
    if it arrived before `began` (by default now) minus `settled`. `progress` is
    called with the number of tasks read so far.

    Raises:
        LabelStudioUnreachable: nothing was written.
        LabelStudioRefused: there is no such project; nothing was written.
    """
    began = began or datetime.now(UTC)
    offered = _same_project(key, api)
    mark = ledger.last_event(key)
    known = {annotation.parsed.id: annotation for annotation in ledger.annotations(key, up_to=mark)}
    headers = ledger.headers(key, up_to=mark)
    listing = _Listing(began, offered)
    for count, task in enumerate(api.annotated_tasks(), 1):
        listing.take(task)
        if progress is not None and count % 100 == 0:
            progress(count)
    unseen = sorted({known[number].parsed.task for number in known.keys() - listing.parsed.keys()})
    for task in api.tasks(unseen):
        listing.take(task)
    recorded = {(header.annotation_id, header.task_id, header.updated_us, header.content) for header in headers}
    events = [
        event
        for event in listing.statements
        if (event.annotation_id, event.task_id, event.updated_us, event.content) not in recorded
        and not _lost_its_prediction(listing.parsed[event.annotation_id], known.get(event.annotation_id))
    ]
    gone = [
        annotation.parsed
        for number, annotation in known.items()
        if number not in listing.parsed and annotation.received_at <= began - settled
    ]
    returned = [listing.parsed[number] for number in missing(headers) & listing.parsed.keys()]
    moment = (began - _EPOCH) // timedelta(microseconds=1)
    added = ledger.record(key, events)
    seen: dict[EventKind, list[ParsedAnnotation]] = {"annotation_missing": gone, "annotation_found": returned}
    pairs = ((kind, each) for kind, rows in seen.items() for each in rows)
    ledger.record(key, [FeedbackEvent(kind, each.id, each.task, began, moment) for kind, each in pairs])
    numbers = {each.prediction_id for rows in ledger.shown(key, annotated=True).values() for each in rows}
    shown = [each for each in listing.shown.values() if each.prediction_id not in numbers]
    ledger.record_shown(key, shown)
    result = Reconciled(
        listed=len(listing.parsed),
        added=added,
        gone=len(gone),
        returned=len(returned),
        shown=len(shown),
        left_out=listing.left_out,
        task_data=listing.task_data,
    )
    _log.info("reconciled %s: %s", key, result)
    return result


def label_studio_of(settings: Settings, project: Project, *, trusted_host: TrustedHost | None) -> LabelStudio:
    """The Label Studio of a project, with the login that it may be sent.

    Raises:
        LabelStudioUnreachable: its address is unknown.
        SettingsError: address, token or RAM_ALLOWED_IMAGE_HOSTS can't be used.
    """
    connection = connection_of(settings, project, trusted_host)
    if connection.base_url is None:
        raise LabelStudioUnreachable(
            f"Nobody has named the Label Studio of project {project.key}: {connect_command(project.key.id)}."
        )
    return open_label_studio(
        settings, connection.base_url, connection.token, trusted=connection.trusted, hostname=project.hostname
    )


class _Listing:
    """Label Studio's annotations and predictions, read page by page."""

    def __init__(self, began: datetime, offered: LabelSpace | None) -> None:
        self._began = began
        self._offered = offered
        self.parsed: dict[int, ParsedAnnotation] = {}
        self.statements: list[FeedbackEvent] = []
        self.shown: dict[int, ShownPrediction] = {}
        self.task_data: dict[int, Mapping[str, Any]] = {}
        self.left_out = 0

    def take(self, task: ListedTask) -> None:
        if task.id in self.task_data:
            return
        self.task_data[task.id] = task.data
        predictions = {parse_id(prediction): prediction for prediction in task.predictions}
        for annotation in task.annotations:
            parsed = read_annotation(annotation, task=task.id)
            if parsed is None:
                self.left_out += 1
                continue
            self.parsed[parsed.id] = parsed
            event = statement_event(parsed, self._began, task_data=task.data, offered=self._offered)
            self.statements.append(event)
            if (number := parsed.parent_prediction) and number in predictions:
                self.shown[number] = _shown(task.id, parsed, predictions[number])


def _same_project(key: ProjectKey, api: ProjectApi) -> LabelSpace | None:
    """Checks that key and API mean one project; returns its current label space."""
    settings = api.settings()
    if key.created and settings.created and key.created != settings.created:
        raise LabelStudioRefused(
            f"Project {key.id} in the Label Studio at {api.label_studio.origin} was made at another time than {key}:"
            " it is another project. Check LABEL_STUDIO_URL, or connect this backend there."
        )
    return label_space_of(settings.label_config)


def _lost_its_prediction(listed: ParsedAnnotation, known: CurrentAnnotation | None) -> bool:
    """Whether an annotation equals the known one but for its parent prediction."""
    if known is None or listed.parent_prediction is not None:
        return False
    before = known.parsed
    return replace(listed, parent_prediction=before.parent_prediction, auto_created=before.auto_created) == before


def _shown(task: int, parsed: ParsedAnnotation, prediction: Mapping[str, Any]) -> ShownPrediction:
    number = parsed.parent_prediction
    version, result = prediction.get("model_version"), prediction.get("result")
    items = read_items(result if isinstance(result, list) else ())
    return ShownPrediction(
        task_id=task,
        model_version=version if isinstance(version, str) and version else f"prediction {number}",
        shown_at=parsed.created_at or _EPOCH,
        choices=tuple(ShownChoice(item.from_name, path, None, True) for item in items for path in item.values),
        prediction_id=number,
        source="listing",
    )
