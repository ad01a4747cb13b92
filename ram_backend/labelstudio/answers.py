"""What Label Studio says when it refuses something, for people: pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

LONGEST = 400
_DEEPEST = 4
_ADDRESS = re.compile(rb"provided URL was not allowed|URL resolves to a reserved", re.IGNORECASE)
_MARKUP = re.compile(r"<[^<>]*>")
_NOTHING_NEW = "Validation error"


def refuses_address(body: bytes) -> bool:
    """Whether a 403 is about an address within the request, and not about who asks (protocol section 9)."""
    return _ADDRESS.search(body) is not None


def said_in(body: bytes) -> str:
    """The reasons in an answer of the API, on one line after a colon, at most 400 characters; "." where there are none.

    Args:
        body: of an answer with an error status: JSON with `detail`, and with `validation_errors` by field.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return "."
    if not isinstance(answer, dict):
        return "."
    found = [text for key in ("validation_errors", "detail") for text in _texts(answer.get(key), _DEEPEST)]
    said = " ".join(" ".join(_MARKUP.sub("", text) for text in found if text != _NOTHING_NEW).split())
    return f": {said[:LONGEST]}" if said else "."


def _texts(value: object, deepest: int) -> Iterable[str]:
    """All texts within, each with the name of the field that it is about."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and deepest:
        for key, inner in value.items():
            named = "" if key == "non_field_errors" else f"{key}: "
            yield from (f"{named}{text}" for text in _texts(inner, deepest - 1))
    elif isinstance(value, list) and deepest:
        for inner in value:
            yield from _texts(inner, deepest - 1)
