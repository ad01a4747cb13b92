"""Immutable value objects of a project, its `/setup` update and its trusted host. Pure.

`LABEL_STUDIO_API_KEY` goes to `LABEL_STUDIO_URL` or to a host that was pinned
by a command. A host that only a `/setup` named gets that request's token.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from ram_backend.errors import ProjectOptionsError
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import ProjectOptions, merge, parse_options
from ram_backend.settings import Settings

NO_OPTIONS = ProjectOptions()


@dataclass(frozen=True)
class Project:
    """One project, as admins and Label Studio have set it up; immutable.

    Attributes:
        access_token: of the last `/setup` that brought one: a secret, shown
            nowhere.
        extra_params: the last valid extra params of the connection.
        extra_params_error: why those of the last `/setup` can't be used; None:
            they can.
        admin_options: of `ram-backend project set`.
        revision: number of changes to label config, extra params or set
            options.
        updated_at: when the row was last written; None: not yet.
    """

    key: ProjectKey
    label_config: str = field(default="", repr=False)
    access_token: str | None = field(default=None, repr=False)
    extra_params: ProjectOptions = NO_OPTIONS
    extra_params_error: str | None = None
    admin_options: ProjectOptions = NO_OPTIONS
    revision: int = 1
    updated_at: datetime | None = field(default=None, compare=False)

    @property
    def hostname(self) -> str:
        """Address of the Label Studio, as `/setup` named it; "" where it named none."""
        return self.key.instance

    @cached_property
    def characters(self) -> int:
        """Length of the texts that `/setup` brought."""
        tags = [*(self.extra_params.tags or ()), *self.extra_params.per_tag]
        return len(self.label_config) + len(self.access_token or "") + sum(map(len, tags))

    def options(self, attributes: ProjectOptions = NO_OPTIONS) -> ProjectOptions:
        """Merged options: extra params before a control's `attributes` before `project set`.

        Where the result has none, the bundle's defaults hold.
        """
        return merge(self.extra_params, attributes, self.admin_options)

    def changed(self, **fields: Any) -> Project:
        """The project with other values of some fields, and its revision then."""
        after = replace(self, **fields)
        scores = (after.label_config, after.extra_params, after.admin_options)
        matters = not self.revision or scores != (self.label_config, self.extra_params, self.admin_options)
        return replace(after, revision=self.revision + matters)


@dataclass(frozen=True)
class Setup:
    """The content of one `/setup`; None: the earlier ones stay (`error` says why)."""

    key: ProjectKey
    label_config: str = field(repr=False)
    access_token: str | None = field(repr=False)
    extra_params: ProjectOptions | None
    error: str | None = None

    @classmethod
    def read(cls, key: ProjectKey, *, label_config: str, access_token: str | None, extra_params: object) -> Setup:
        """Parses a request; bad extra params become `error`. Raises nothing."""
        token = _storable(access_token or "").strip() or None
        try:
            return cls(key, _storable(label_config), token, parse_options(extra_params))
        except ProjectOptionsError as error:
            return cls(key, _storable(label_config), token, None, str(error))

    def applied_to(self, project: Project | None) -> Project:
        """The project afterwards; None: there was none."""
        before = project or Project(self.key, revision=0)
        return before.changed(
            label_config=self.label_config,
            access_token=self.access_token or before.access_token,
            extra_params=before.extra_params if self.extra_params is None else self.extra_params,
            extra_params_error=self.error,
        )


def _storable(text: str) -> str:
    """The text without what databases refuse: NUL, halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class TrustedHost:
    """The Label Studio that is trusted where the settings name none.

    `by_command`: `connect` (which may bring a token) or `project pin-host`
    named it; else it was the first `/setup`, with both ends on loopback.
    """

    host: str
    by_command: bool
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Connection:
    """Address (None: nobody has named one) and token of a project's Label Studio.

    `trusted`: it may be at an internal address.
    """

    base_url: str | None
    token: str | None = field(repr=False)
    trusted: bool


def connection_of(settings: Settings, project: Project, trusted_host: TrustedHost | None) -> Connection:
    """The settings' address and token, else those of the project's `/setup`."""
    key = (settings.label_studio_api_key or "").strip()
    named = (settings.label_studio_url or "").strip().rstrip("/")
    if named:
        return Connection(named, key or project.access_token, trusted=True)
    if trusted_host is None or project.hostname != trusted_host.host:
        return Connection(project.hostname or None, project.access_token, trusted=False)
    if trusted_host.by_command:
        return Connection(trusted_host.host, key or trusted_host.token or project.access_token, trusted=True)
    return Connection(trusted_host.host, project.access_token, trusted=True)
