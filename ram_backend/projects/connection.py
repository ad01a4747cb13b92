"""How a project's Label Studio is reached, and whether it may be sent credentials: pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from ram_backend.projects.project import Project


@dataclass(frozen=True)
class Connection:
    """How a project's Label Studio is reached.

    Attributes:
        base_url: its address; None: nobody has named one.
        token: what to authenticate with: a legacy token or a personal access token; None: nothing.
        trusted: whether it may be sent the token, and internal addresses of it may be fetched.
    """

    base_url: str | None
    token: str | None = field(repr=False)
    trusted: bool


def connection_of(project: Project, *, pinned_host: str | None, url: str | None, api_key: str | None) -> Connection:
    """The settings' address where there is one, else the project's own, trusted where it is the pinned one.

    The token is the settings', else that of the project's `/setup`; there is none where the address is not trusted.

    Args:
        project: which one.
        pinned_host: address of the pinned Label Studio, as `instance_of` writes it.
        url: Label Studio's address from the settings.
        api_key: the token from the settings.
    """
    named = (url or "").strip().rstrip("/")
    base = named or project.hostname or None
    trusted = bool(named) or (base is not None and base == pinned_host)
    return Connection(base, ((api_key or "").strip() or project.access_token) if trusted else None, trusted)
