"""Trust policy: which address and which token a project's Label Studio is asked with; pure.

`LABEL_STUDIO_API_KEY` goes to `LABEL_STUDIO_URL` or to a host that was pinned by a command. A host that only a
`/setup` request named gets the token that this request brought, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ram_backend.projects.project import Project


@dataclass(frozen=True)
class Pin:
    """The Label Studio that is trusted where the settings name none.

    Attributes:
        host: its address, as `instance_of` writes it.
        by_command: `connect` or `project pin-host` named it; False: the first `/setup` did, both ends on loopback.
        token: what `connect` was given for it; None: nothing.
    """

    host: str
    by_command: bool
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Connection:
    """How a project's Label Studio is reached.

    Attributes:
        base_url: its address; None: nobody has named one.
        token: what to authenticate with: a legacy token or a personal access token; None: nothing.
        trusted: whether internal addresses of it may be fetched.
    """

    base_url: str | None
    token: str | None = field(repr=False)
    trusted: bool


def connection_of(project: Project, *, pin: Pin | None, url: str | None, api_key: str | None) -> Connection:
    """The settings' address where there is one, else the address that the project's `/setup` named.

    Args:
        project: which one.
        pin: the pinned Label Studio.
        url: Label Studio's address from the settings.
        api_key: the token from the settings.
    """
    key, named = (api_key or "").strip(), (url or "").strip().rstrip("/")
    if named:
        return Connection(named, key or project.access_token, trusted=True)
    if pin is None or project.hostname != pin.host:
        return Connection(project.hostname or None, project.access_token, trusted=False)
    if pin.by_command:
        return Connection(pin.host, key or pin.token or project.access_token, trusted=True)
    return Connection(pin.host, project.access_token, trusted=True)
