"""`ram-backend connect`: sets a project of Label Studio up in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ram_backend.cli.output import out, read_text
from ram_backend.cli.serve import url_of
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import SettingsError
from ram_backend.labelstudio.client import LabelStudio, open_label_studio
from ram_backend.labelstudio.config_xml import vocabulary_config
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.provisioning import ConnectOptions, Provisioner
from ram_backend.models.registry import find_bundle
from ram_backend.projects.keys import instance_of
from ram_backend.projects.options import parse_options
from ram_backend.projects.project import TrustedHost
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings
from ram_backend.vocabulary.label_system import load_label_system

XML_FILE = "give an XML file with --label-config, such as those in label_configs/"


def connect(
    project: Annotated[int, typer.Argument(min=1, metavar="PROJECT", help="Number of the project in Label Studio.")],
    url: Annotated[
        str | None, typer.Option("--url", help="Backend, as Label Studio sees it (default: this host's).")
    ] = None,
    label_config: Annotated[
        Path | None,
        typer.Option(help="XML file (default: the project's, if it has something to tag)."),
    ] = None,
    extra_params: Annotated[str | None, typer.Option(help="JSON object, such as '{\"threshold\": 0.4}'.")] = None,
    uncertain_first: Annotated[
        bool, typer.Option("--uncertain-first", help="Serve the most uncertain tasks first.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete other backends of the project, and their webhooks.")
    ] = False,
) -> None:
    """Connect a project with a running `ram-backend serve`: label config, backend, webhook with its secret, live order.

    Needs LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, once, and keeps them in the
    database, so that the server and its workers may fetch from there;
    RAM_WEBHOOK_SECRET, or BASIC_AUTH_USER and BASIC_AUTH_PASS, as the server
    has them. Asking again changes nothing that is right already.
    """
    settings = load_settings()
    bundles = settings.bundles_dir
    options = ConnectOptions(
        url=url_of(settings.host, settings.port or 9090) if url is None else instance_of(url, of="the backend"),
        label_config=None if label_config is None else read_text(label_config, XML_FILE),
        fallback=lambda: vocabulary_config(
            load_label_system() if settings.bundle == "starter" else find_bundle(settings.bundle, bundles).vocabulary
        ),
        login=settings.basic_auth(),
        secret=settings.webhook_headers(),
        extra_params=None if extra_params is None else parse_options(extra_params, source="--extra-params").to_json(),
        by_uncertainty=uncertain_first,
        replace_others=replace,
    )
    table = ProjectTable(open_migrated(settings))
    before = table.changes().trusted_host
    label_studio, token = _label_studio(settings, before)

    host = instance_of(label_studio.base_url)
    instead = ""
    if before is not None and before.host != host:
        instead = f" instead of {before.host}"
    trusted = table.pin_host(host, token=token)  # for servers that share this database
    _report("trust", f"{host} may be sent this token{instead}", trusted != before)
    Provisioner(ProjectApi(label_studio, project), options, _report).run()
    out.print(f"Project {project} is connected: {label_studio.base_url}/projects/{project}/data", markup=False)
    out.print(f"Predictions for all tasks at once: ram-backend prelabel {project}", markup=False)


def _report(what: str, found: str, changed: bool) -> None:
    out.print(f"{'changed' if changed else 'ok     '}  {what}: {found}", markup=False)


def _label_studio(settings: Settings, trusted_host: TrustedHost | None) -> tuple[LabelStudio, str]:
    """The Label Studio of the settings, or the pinned one with its token."""
    url = (settings.label_studio_url or "").strip()
    token = (settings.label_studio_api_key or "").strip()
    if trusted_host is not None and trusted_host.token and url in ("", trusted_host.host):
        url, token = trusted_host.host, token or trusted_host.token
    named = {"LABEL_STUDIO_URL": url, "LABEL_STUDIO_API_KEY": token}
    if missing := [name for name, value in named.items() if not value]:
        raise SettingsError(
            f"Set {' and '.join(missing)}: Label Studio's address as this machine sees it, and a personal access token"
            " (Account & Settings in Label Studio)."
        )
    found = open_label_studio(settings, url, token)
    found.version()
    found.whoami()
    return found, token
