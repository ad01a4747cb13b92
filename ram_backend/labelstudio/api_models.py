"""Pydantic models of Label Studio's REST API: tasks, backends, settings, webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

from ram_backend.labelstudio.annotations import unix_microseconds

FAILED_SCORE = 1.0
"""Score of a task whose image can't be fetched (protocol section 4)."""


class _Record(BaseModel):
    """An object of the API. A field of another type than expected counts as missing."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    @field_validator("*", mode="wrap")
    @classmethod
    def _default_where_invalid(cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return handler(value)
        except ValidationError:
            field = cls.model_fields[info.field_name or ""]
            if field.is_required():
                raise
            return field.get_default(call_default_factory=True)


class ListedTask(_Record):
    """A task with its data, all annotations and predictions, unparsed."""

    id: int
    data: dict[str, Any] = Field(default_factory=dict, repr=False)
    annotations: list[dict[str, Any]] = Field(default_factory=list, repr=False)
    predictions: list[dict[str, Any]] = Field(default_factory=list, repr=False)


class ConnectedBackend(_Record):
    """An ML backend as a project has it on record.

    Attributes:
        title: annotators read it; the project's `model_version` is this title
            while predictions are live.
        model_version: of the last answer of its `/setup`.
        state: "CO" connected, "DI" disconnected, "ER" error, "TR" training,
            "PR" predicting.
        auth_method: "BASIC_AUTH" or "NONE".
    """

    id: int
    url: str = ""
    title: str = ""
    model_version: str | None = None
    state: str = "CO"
    error_message: str | None = None
    auth_method: str = "NONE"
    basic_auth_user: str | None = None
    extra_params: Any = None

    @property
    def login(self) -> str | None:
        """User of its basic auth; None: it has none."""
        return self.basic_auth_user or None if self.auth_method == "BASIC_AUTH" else None

    @property
    def error(self) -> str:
        """The last error on one short line; "" where there is none."""
        return " ".join((self.error_message or "").split())[:300]

    @property
    def answers(self) -> bool:
        """Whether Label Studio reaches it."""
        return self.state not in ("DI", "ER")


class ProjectSettings(_Record):
    """A project's settings; `model_version` is a backend's title (live predictions) or a version."""

    created_at: str = ""
    label_config: str = Field(default="", repr=False)
    model_version: str = ""
    show_collab_predictions: bool = True
    sampling: str = ""

    @property
    def created(self) -> int:
        """Creation time in Unix seconds, as in `ProjectKey`; 0: not given."""
        return unix_microseconds(self.created_at) // 1_000_000

    @property
    def by_uncertainty(self) -> bool:
        """Whether tasks come in the order of the predictions' scores."""
        return self.sampling == "Uncertainty sampling"


class Webhook(_Record):
    """A webhook of a project; its headers may hold secrets."""

    id: int
    url: str = ""
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    is_active: bool = False
    send_payload: bool = False
    send_for_all_actions: bool = False

    @property
    def backend(self) -> str | None:
        """Address of its backend; None: it is for something else."""
        address = self.url.partition("?")[0].rstrip("/")
        return address.removesuffix("/webhook") if address.endswith("/webhook") else None

    def sends(self, headers: Mapping[str, str]) -> bool:
        """Whether it is active and sends all events with whole objects and these headers."""
        complete = self.is_active and self.send_payload and self.send_for_all_actions
        return complete and headers.items() <= self.headers.items()


@dataclass(frozen=True)
class TaskPredictions:
    """A task's predictions of one version.

    Attributes:
        task: id of the task.
        current: id of the prediction that counts; None: it has none.
        duplicates: ids of further ones.
        failed: the one that counts is empty because the image could not be
            fetched.
    """

    task: int
    current: int | None
    duplicates: tuple[int, ...] = ()
    failed: bool = False

    @classmethod
    def of(cls, task: ListedTask, version: str) -> TaskPredictions:
        """Selects them; the parent of an annotation counts before earlier ones."""
        found = {each["id"]: each for each in task.predictions if each.get("model_version") == version}
        parents = {each.get("parent_prediction") for each in task.annotations}
        order = sorted(found, key=lambda number: (number not in parents, number))
        if not order:
            return cls(task.id, None)
        first = found[order[0]]
        failed = first.get("result") == [] and first.get("score") == FAILED_SCORE
        return cls(task.id, order[0], tuple(order[1:]), failed)


_R = TypeVar("_R", bound=_Record)


def valid_rows(model: type[_R], rows: object) -> list[_R]:
    """The valid rows of a list."""
    found = []
    for row in rows if isinstance(rows, list) else ():
        try:
            found.append(model.model_validate(row))
        except ValidationError:
            continue
    return found
