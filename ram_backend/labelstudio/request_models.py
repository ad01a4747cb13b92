"""Pydantic models of `/setup`, `/predict`, `/webhook` (protocol sections 2, 3, 7).

Unknown fields are ignored, optional ones may be missing or null. Annotations
and tasks of a webhook stay unparsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticUseDefault

from ram_backend.errors import InputError
from ram_backend.labelstudio.annotations import unix_microseconds
from ram_backend.labelstudio.config_xml import MAX_CHARACTERS

MAX_CONTAINERS = 100_000
MAX_VALUES = 500_000
"""Most lists and objects, and values: more take many times the body's size."""

_LARGEST = 2**63 - 1
_Text = str | None
Body = TypeVar("Body", bound=BaseModel)


def _null_is_missing(value: object) -> object:
    if value is None:
        raise PydanticUseDefault
    return value


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_NullIsMissing = BeforeValidator(_null_is_missing)
_Project = Annotated[str, BeforeValidator(_number_as_text), _NullIsMissing]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True, hide_input_in_errors=True)


class SetupRequest(_Lenient):
    """`POST /setup`.

    Attributes:
        project: "NUMBER.CREATED".
        label_config: XML, `schema` on the wire; "" where it is missing.
        access_token: a legacy token, which may be disabled there.
        extra_params: an object, a JSON text or None, for `parse_options`.
    """

    project: _Project = ""
    label_config: Annotated[str, _NullIsMissing] = Field(
        default="", max_length=MAX_CHARACTERS, validation_alias=AliasChoices("schema", "label_config")
    )
    hostname: _Text = None
    access_token: _Text = Field(default=None, repr=False)
    extra_params: Any = None


class Task(_Lenient):
    """One task of `/predict`; its annotations and predictions are not read."""

    id: int | str | None = None
    data: Annotated[dict[str, Any], _NullIsMissing] = Field(default_factory=dict)


class PredictRequest(_Lenient):
    """`POST /predict`; without label config, that of the last `/setup` holds."""

    project: _Project = ""
    tasks: Annotated[list[Task], Field(fail_fast=True)]
    label_config: _Text = Field(default=None, max_length=MAX_CHARACTERS)


class EventProject(_Lenient):
    """The used fields of an event's project."""

    id: Any = None
    created_at: Any = None
    label_config: Any = None
    min_annotations_to_start_training: Any = None


class WebhookRequest(_Lenient):
    """`POST /webhook` of any action.

    Attributes:
        action: such as "ANNOTATION_CREATED"; "" where it is missing.
        project: an object, or its number.
        annotation, annotations: an object, a list (`ANNOTATIONS_CREATED`), or
            those deleted: see `annotation_objects`.
        task, tasks: an object, a list, or those imported or deleted: see
            `task_objects`.
    """

    action: Annotated[str, _NullIsMissing] = ""
    project: Annotated[EventProject | Any, Field(union_mode="left_to_right")] = None
    annotation: Any = None
    annotations: Any = None
    task: Any = None
    tasks: Any = None

    @property
    def project_reference(self) -> str:
        """The project as in `/setup`, such as "1.1795452148"; "": none."""
        project = self.project if isinstance(self.project, EventProject) else EventProject(id=self.project)
        number = project.id
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _LARGEST:
            return ""
        return f"{number}.{unix_microseconds(project.created_at) // 1_000_000}"

    @property
    def annotation_objects(self) -> list[dict[str, Any]]:
        """All annotations of the event; deleted ones have `id` alone."""
        return [*_objects(self.annotation), *_objects(self.annotations)]

    @property
    def task_objects(self) -> list[dict[str, Any]]:
        """All tasks of the event; deleted ones have `id` alone."""
        return [*_objects(self.task), *_objects(self.tasks)]


def read_request(model: type[Body], body: bytes | bytearray | str | Path | Mapping[str, Any]) -> Body:
    """Validates a request's body: JSON, a file of it, or parsed already.

    Raises:
        InputError: no JSON, no object, too many values, or a bad field; names
            it without its value, which may be a secret.
    """
    try:
        if isinstance(body, Mapping):
            return model.model_validate(body)
        if isinstance(body, Path):
            body = body.read_bytes()
        content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        # Brackets and commas inside texts count, too.
        if content.count(b"[") + content.count(b"{") > MAX_CONTAINERS or content.count(b",") > MAX_VALUES:
            raise InputError(
                f"the body: holds more than {MAX_CONTAINERS:,} lists and objects, or {MAX_VALUES:,} values."
                " Send fewer tasks at a time."
            )
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the body"
        raise InputError(f"{place}: {first['msg']}. See the protocol of Label Studio's ML backends.") from None


def _objects(value: object) -> list[dict[str, Any]]:
    given = value if isinstance(value, list) else [value]
    return [each for each in given if isinstance(each, dict)]
