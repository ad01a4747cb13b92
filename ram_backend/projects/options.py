"""Admins' settings for a project, parsed strictly, merged by precedence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from ram_backend.errors import ProjectOptionsError

MAX_TAGS = 50_000
MAX_TAG_LENGTH = 500
MAX_TOP_K = 1_000_000

_ALLOWED = {
    "tags": 'a list of tags, such as ["cat", "dog"], or one text with commas between them, each of at most'
    f" {MAX_TAG_LENGTH} characters",
    "threshold": "a number from 0 to 1",
    "per_tag": 'an object with a number from 0 to 1 per tag, such as {"cat": 0.4}',
    "top_k": f"a whole number from 1 to {MAX_TOP_K}",
    "precision": "a number from 0 to 1",
    "add_cost": "a number from 0.01 to 100",
}


def _split(value: object) -> object:
    return [part for part in re.split(r"[,\n]", value) if part.strip()] if isinstance(value, str) else value


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Tag = Annotated[
    str,
    StringConstraints(
        strict=True, strip_whitespace=True, min_length=1, max_length=MAX_TAG_LENGTH, pattern=r"^[^\x00]*$"
    ),
]
_Tags = Annotated[
    tuple[_Tag, ...],
    Field(min_length=1, max_length=MAX_TAGS),
    BeforeValidator(_split),
    AfterValidator(lambda tags: tuple(dict.fromkeys(tags))),
]
_Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
_TopK = Annotated[int, Field(strict=True, ge=1, le=MAX_TOP_K), BeforeValidator(_whole)]


PROMISED_FROM, OVERCONFIDENCE = 300, 1.6
"""Photos learned from before a precision is promised, and factor on its log-odds.

After 300 corrections on Flickr8k .82 of the ticks above .9 were right, and .89
of those above .97.
"""


class ProjectOptions(BaseModel):
    """Admins' settings from one source; None (or no entry): this source has none.

    Attributes:
        tags: the requested tags, in this order, each once.
        threshold: for all tags; in [0, 1]. A tag is on where its score is
            strictly above.
        per_tag: threshold of single tags, by name; each in [0, 1].
        top_k: at most this many tags are shown, the best ones; >= 1.
        precision: in place of `threshold`: least share of ticks that are right,
            by what was learned from the project's corrections; in [0, 1].
        add_cost: of a missing tag, in removed ticks, .01 to 100: calibrated
            tags are ticked above 1 / (1 + add_cost).
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    tags: _Tags | None = None
    threshold: _Share | None = None
    per_tag: Annotated[dict[_Tag, _Share], Field(max_length=MAX_TAGS)] = {}
    top_k: _TopK | None = None
    precision: _Share | None = None
    add_cost: Annotated[float, Field(strict=True, ge=0.01, le=100, allow_inf_nan=False)] | None = None

    def __bool__(self) -> bool:
        return bool(self.to_json())

    def __hash__(self) -> int:
        return hash((self.tags, self.threshold, self.top_k, self.precision, self.add_cost))

    def threshold_of(self, names: Sequence[str], learned: int = 0) -> float | None:
        """Of a tag with these names, its own first; that of a precision is above it.

        From fewer than `PROMISED_FROM` photos that were `learned` from, none
        promises a precision: nothing is above 1.
        """
        own = next((self.per_tag[name] for name in names if name in self.per_tag), None)
        if own is not None or self.precision is None:
            return self.threshold if own is None else own
        right, wrong = self.precision**OVERCONFIDENCE, (1 - self.precision) ** OVERCONFIDENCE
        return 1.0 if learned < PROMISED_FROM else right / (right + wrong)

    def to_json(self) -> dict[str, Any]:
        """The fields that are given; `parse_options` reads them back."""
        return self.model_dump(mode="json", exclude_defaults=True)


def merge(*options: ProjectOptions) -> ProjectOptions:
    """One from several, strongest first, field by field; `per_tag` tag by tag.

    A threshold of a single tag holds also against one for all tags from a
    stronger source. Threshold and precision are alternatives: only the
    strongest source's one holds.
    """
    merged: dict[str, Any] = {}
    per_tag: dict[str, float] = {}
    for each in options:
        per_tag = {**each.per_tag, **per_tag}
        given = {name: value for name, value in each if value is not None}
        if merged.keys() & {"threshold", "precision"}:
            given = {name: value for name, value in given.items() if name not in ("threshold", "precision")}
        merged = {**given, **merged}
    return ProjectOptions.model_construct(**merged | {"per_tag": per_tag})


def parse_options(value: object, *, source: str = "Extra params of the connection") -> ProjectOptions:
    """Parses admins' settings, as `/setup` brings them: an object, a JSON text, or null.

    Keys may be in any case and with hyphens; one whose value is null is not
    given.

    Raises:
        ProjectOptionsError: begins with `source`; names the first bad key, its
            value and what is allowed.
    """
    found: dict[str, object] = {}
    for key, entry in _mapping(value, source).items():
        name = str(key).strip().lower().replace("-", "_")
        if name not in _ALLOWED:
            close = get_close_matches(name[:60], _ALLOWED, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ProjectOptionsError(
                f"{source}: {_shown(key)}={_shown(entry)}: there is no such key{hint}; allowed: {', '.join(_ALLOWED)}."
            )
        if entry is not None:
            found[name] = entry
    if found.keys() >= {"threshold", "precision"}:
        raise ProjectOptionsError(f"{source}: threshold and precision both say where tags are ticked: give one.")
    try:
        return ProjectOptions.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name, *inner = map(str, first["loc"])
        shown = f"{name}={_shown(found[name])}"
        if name == "per_tag" and inner:
            shown = f"{name}[{_shown(inner[0])}]={_shown(first['input'])}"
        raise ProjectOptionsError(f"{source}: {shown} can't be used; allowed: {_ALLOWED[name]}.") from None


def _mapping(value: object, source: str) -> Mapping[Any, object]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            expected = 'a JSON object such as {"threshold": 0.5}, or nothing'
            raise ProjectOptionsError(f"{source}: {_shown(value)} is not JSON; allowed: {expected}.") from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        expected = f"an object with some of the keys {', '.join(_ALLOWED)}"
        raise ProjectOptionsError(f"{source}: {_shown(value)} is not an object; allowed: {expected}, or nothing.")
    return value


def _shown(value: object) -> str:
    """A value on one short line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
