"""From settings and a project row to the API of the project's Label Studio."""

from __future__ import annotations

from ram_backend.errors import LabelStudioUnreachable
from ram_backend.images.fetch import FetchLimits
from ram_backend.images.guard import AddressGuard
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.projects.connection import connection_of
from ram_backend.projects.project import Project
from ram_backend.settings import Settings


def open_label_studio(settings: Settings, project: Project, *, pinned_host: str | None) -> LabelStudio:
    """The Label Studio of a project, with the login that it may be sent (design decision 15).

    Args:
        settings: its address and token where they are set; limits.
        project: whose.
        pinned_host: of the database (`ProjectTable.changes().pinned_host`).

    Raises:
        LabelStudioUnreachable: nobody has named its address.
        SettingsError: its address, its token or RAM_ALLOWED_IMAGE_HOSTS can't be used.
    """
    connection = connection_of(
        project, pinned_host=pinned_host, url=settings.label_studio_url, api_key=settings.label_studio_api_key
    )
    if connection.base_url is None:
        raise LabelStudioUnreachable(
            f"Nobody has named the Label Studio of project {project.key}: set LABEL_STUDIO_URL and"
            " LABEL_STUDIO_API_KEY."
        )
    return LabelStudio(
        connection.base_url,
        connection.token,
        trusted=connection.trusted,
        known_as=[project.hostname] if project.hostname else [],
        limits=FetchLimits(
            max_bytes=settings.max_image_bytes, seconds=settings.fetch_seconds, connections=settings.fetch_threads
        ),
        guard=AddressGuard.parse(settings.allowed_image_hosts),
    )


def open_project_api(settings: Settings, project: Project, *, pinned_host: str | None) -> ProjectApi:
    """The API for one project; see `open_label_studio`."""
    return ProjectApi(open_label_studio(settings, project, pinned_host=pinned_host), project.key.id)
