"""Label Studio client of a project, with the login that it may be sent."""

from __future__ import annotations

from ram_backend.errors import LabelStudioUnreachable
from ram_backend.labelstudio.client import LabelStudio, connect_command, open_label_studio
from ram_backend.projects.project import Project, TrustedHost, connection_of
from ram_backend.settings import Settings


def label_studio_of(settings: Settings, project: Project, *, trusted_host: TrustedHost | None) -> LabelStudio:
    """The Label Studio of a project, with the login that it may be sent.

    Raises:
        LabelStudioUnreachable: its address is unknown.
        SettingsError: its address, its token or RAM_ALLOWED_IMAGE_HOSTS can't
            be used.
    """
    connection = connection_of(
        project, trusted_host=trusted_host, url=settings.label_studio_url, api_key=settings.label_studio_api_key
    )
    if connection.base_url is None:
        raise LabelStudioUnreachable(
            f"Nobody has named the Label Studio of project {project.key}: {connect_command(project.key.id)}."
        )
    return open_label_studio(
        settings, connection.base_url, connection.token, trusted=connection.trusted, hostname=project.hostname
    )
