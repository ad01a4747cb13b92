"""One line of what `ram-backend doctor` has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit

TIMEOUT_S = 3.0


class State(StrEnum):
    """How a check went."""

    ok = "ok"
    note = "note"
    bad = "bad"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, and what to do where it is not well."""

    what: str
    state: State
    found: str
    remedy: str = ""


def without_password(url: str) -> str:
    """An address as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None and parts.username is None:
        return url
    return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))
