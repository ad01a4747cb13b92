"""What a training learns from: the corrections of a project, after a look at Label Studio."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ram_backend.database.engine import Database
from ram_backend.errors import InputError, LabelStudioUnreachable, ProjectNotFound
from ram_backend.feedback.connecting import label_studio_of
from ram_backend.feedback.corrections import gather
from ram_backend.feedback.labels import TaskLabels, Weights
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.reconcile import reconcile
from ram_backend.feedback.view import Fingerprint
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.plan import LabelPlan
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings
from ram_backend.worker.heartbeat import Heartbeat

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """A project, and how its Label Studio is reached.

    Attributes:
        project: its row.
        plan: of its label config.
        label_studio: None: nobody has named it.
    """

    project: Project
    plan: LabelPlan
    label_studio: LabelStudio | None

    @property
    def api(self) -> ProjectApi | None:
        """Label Studio's API for the project."""
        return None if self.label_studio is None else ProjectApi(self.label_studio, self.project.key.id)


@dataclass(frozen=True)
class Gathered:
    """The corrections of a project at one moment.

    Attributes:
        labels: one per image that somebody said something about, and whose place is known.
        tags: L distinct texts that were asked about.
        last_event: of the ledger at that moment.
        fingerprint: of the corrections.
        notes: what else people should know, one sentence each.
    """

    labels: Sequence[TaskLabels]
    tags: tuple[str, ...]
    last_event: int
    fingerprint: Fingerprint
    notes: Sequence[str] = field(default_factory=tuple)


def open_place(settings: Settings, database: Database, key: ProjectKey) -> Place:
    """The project's row and its Label Studio.

    Raises:
        ProjectNotFound: there is no such row any more.
        LabelConfigError: its label config can't be used.
        SettingsError: the address of Label Studio, or RAM_ALLOWED_IMAGE_HOSTS, can't be used.
        DatabaseUnavailable: see the message.
    """
    changes = ProjectTable(database).changes()
    project = next((each for each in changes.projects if each.key == key), None)
    if project is None:
        raise ProjectNotFound(f"There is no project {key} any more; see `ram-backend project list`.")
    try:
        label_studio: LabelStudio | None = label_studio_of(settings, project, pin=changes.pin)
    except LabelStudioUnreachable:
        label_studio = None
    return Place(project, parse_label_config(project.label_config), label_studio)


def gather_corrections(settings: Settings, ledger: Ledger, place: Place, heartbeat: Heartbeat) -> Gathered:
    """Brings the ledger in step with Label Studio, if that answers, and reads all current corrections.

    Raises:
        DatabaseUnavailable: see the message.
        JobLost: see `Heartbeat`.
    """
    key = place.project.key
    notes: list[str] = []
    newer: Mapping[int, Mapping[str, Any]] = {}
    heartbeat("reconcile")
    try:
        api = place.api
        if api is None:
            raise LabelStudioUnreachable("Nobody has named its address.")
        newer = reconcile(ledger, key, api, progress=lambda tasks: heartbeat("reconcile", tasks)).task_data
    except (LabelStudioUnreachable, InputError) as error:
        _log.warning("project %s: not compared with Label Studio: %s", key, error)
        notes.append(f"Label Studio was not asked ({error}): corrections are those that its events brought.")
    heartbeat("gather")
    last_event = ledger.last_event(key)
    annotations = ledger.annotations(key, up_to=last_event)
    labels = gather(place.plan, annotations, ledger.shown(key, annotated=True), Weights.of(settings), task_data=newer)
    with_place = [each for each in labels if each.reference]
    if len(with_place) < len(labels):
        notes.append(f"{len(labels) - len(with_place)} tasks don't say where their image is.")
    texts = [text for control in place.plan.tag_controls for choice in control.choices for text in choice.texts]
    asked = [
        tag for each in {id(each.candidates): each.candidates for each in with_place}.values() for tag in each.tags
    ]
    tags = tuple(dict.fromkeys(tag for tag in (*texts, *asked) if tag.strip()))
    return Gathered(
        labels=with_place,
        tags=tags,
        last_event=last_event,
        fingerprint=ledger.fingerprint(key, up_to=last_event),
        notes=tuple(notes),
    )
