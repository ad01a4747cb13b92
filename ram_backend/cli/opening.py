"""Loading for the commands: a tagger, or a project and its database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import typer

from ram_backend.cli.output import notes, read_text
from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import VocabularyError, listed
from ram_backend.feedback.reconcile import label_studio_of
from ram_backend.jobs.service import JobService
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.models.bundle import Bundle, file_sha256
from ram_backend.models.network import load_network
from ram_backend.models.registry import find_bundle
from ram_backend.projects.keys import ProjectKey, select
from ram_backend.projects.project import Project, TrustedHost
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging.subset import Subset, open_subset, resolve_subset, whole_vocabulary
from ram_backend.tagging.tagger import Tagger
from ram_backend.vocabulary.embeddings import embed_descriptions, load_descriptions, open_text_encoder

_PROJECT = "Number of the project in Label Studio, or as `project list` writes it."
ProjectArgument = Annotated[str, typer.Argument(metavar="PROJECT", help=_PROJECT)]
BundleOption = Annotated[str | None, typer.Option(help="Name of the bundle (default: RAM_BUNDLE, else starter).")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or auto (default: RAM_DEVICE, else auto).")]


@dataclass(frozen=True)
class OpenProject:
    """A project, the pinned Label Studio, and the migrated database."""

    settings: Settings
    database: Database
    project: Project
    trusted_host: TrustedHost | None

    @property
    def key(self) -> ProjectKey:
        """Which project."""
        return self.project.key

    @cached_property
    def jobs(self) -> JobService:
        """Requests for jobs, and the tables that they need."""
        return JobService(self.settings, self.database)

    @cached_property
    def api(self) -> ProjectApi:
        """Its Label Studio; LabelStudioUnreachable where nobody has named one."""
        studio = label_studio_of(self.settings, self.project, trusted_host=self.trusted_host)
        return ProjectApi(studio, self.key.id)


def open_project(text: str) -> OpenProject:
    """Finds a project in the database, by its number or key (see `select`)."""
    settings = load_settings()
    database = open_migrated(settings)
    changes = ProjectTable(database).changes()
    projects = {each.key: each for each in changes.projects}
    return OpenProject(settings, database, projects[select(projects, text)], changes.trusted_host)


def listed_tags(tags: str | None, tags_file: Path | None) -> list[str] | None:
    """The tags of `--tags` or `--tags-file`; None if neither was given."""
    if tags is not None and tags_file is not None:
        raise VocabularyError("--tags and --tags-file were both given: use one.")
    if tags_file is not None:
        names = read_text(tags_file, "give a text file with one tag a line").splitlines()
    elif tags is not None:
        names = tags.split(",")
    else:
        return None
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise VocabularyError(f"No tags in {'--tags' if tags is not None else tags_file}: name at least one.")
    return names


def open_tagger(settings: Settings, names: Sequence[str] | None, descriptions: Path | None = None) -> Tagger:
    """A tagger of the settings' bundle, with a text encoder if a tag needs one.

    Args:
        settings: name of the bundle, device, precision, threads.
        names: the tags; None: those of `descriptions`, else the whole
            vocabulary.
        descriptions: JSON file of tags that are scored from descriptions.
    """
    with notes.status("Opening the bundle") as status:
        bundle = find_bundle(settings.bundle, settings.bundles_dir, progress=status.update)
        subset = _subset(bundle, names, descriptions, settings)
        status.update(f"Loading {bundle.name}")
        device, threads = settings.device, settings.cpu_threads()
        network = load_network(bundle, device=device, precision=settings.precision, threads=threads)
        tagger = Tagger(bundle, network, subset)
    if subset.new_tags:
        new = listed(subset.new_tags, 8)
        notes.print(f"Not looked up in the vocabulary of {bundle.name} but scored from text: {new}", markup=False)
    return tagger


def _subset(bundle: Bundle, names: Sequence[str] | None, descriptions: Path | None, settings: Settings) -> Subset:
    if descriptions is None:
        return whole_vocabulary(bundle) if names is None else open_subset(bundle, names, settings)
    sentences = load_descriptions(descriptions)
    asked = list(sentences) if names is None else names
    sentences = {name: sentences[name] for name in asked if name in sentences}
    encoder = open_text_encoder(bundle.text_encoder, settings) if bundle.text_encoder else None
    described = embed_descriptions(encoder, sentences) if encoder is not None else {}
    return resolve_subset(bundle, asked, encoder, described=described, described_from=file_sha256(descriptions))
