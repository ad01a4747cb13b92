"""From settings and a project row to the API of the project's Label Studio."""

from __future__ import annotations

from ram_backend.errors import LabelStudioUnreachable
from ram_backend.labelstudio.client import LabelStudio, connect_command, open_label_studio
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.projects.connection import Pin, connection_of
from ram_backend.projects.project import Project
from ram_backend.settings import Settings


def label_studio_of(settings: Settings, project: Project, *, pin: Pin | None) -> LabelStudio:
    """The Label Studio of a project, with the login that it may be sent (design decision 15).

    Args:
        settings: its address and token where they are set; limits.
        project: whose.
        pin: of the database (`ProjectTable.changes().pin`).

    Raises:
        LabelStudioUnreachable: nobody has named its address.
        SettingsError: its address, its token or RAM_ALLOWED_IMAGE_HOSTS can't be used.
    """
    connection = connection_of(project, pin=pin, url=settings.label_studio_url, api_key=settings.label_studio_api_key)
    if connection.base_url is None:
        raise LabelStudioUnreachable(
            f"Nobody has named the Label Studio of project {project.key}: {connect_command(project.key.id)}."
        )
    return open_label_studio(
        settings, connection.base_url, connection.token, trusted=connection.trusted, hostname=project.hostname
    )


def open_project_api(settings: Settings, project: Project, *, pin: Pin | None) -> ProjectApi:
    """The API for one project; see `label_studio_of`."""
    return ProjectApi(label_studio_of(settings, project, pin=pin), project.key.id)
