"""Erasure of a project: its rows, its versions, its images' cached tokens."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import delete, func, not_, select
from sqlalchemy.orm import Session

from ram_backend.database.engine import Database
from ram_backend.disk_cache import DiskCache
from ram_backend.errors import NotAvailable, VersionsUnavailable
from ram_backend.feedback.ledger import ShownRow, TaskImageRow
from ram_backend.feedback.shown import read_images
from ram_backend.jobs.job import Job
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import OfProject, locked_counter, of_project
from ram_backend.settings import Settings
from ram_backend.versions.directory import engine_folder, folder_of


@dataclass(frozen=True)
class Traces:
    """What a project has left; `rows` are counted by table.

    Images are fetched ones and cached tokens, not those that another project
    has, too.
    """

    rows: Mapping[str, int]
    versions: tuple[Path, ...]
    images: tuple[Path, ...]


def traces_of(settings: Settings, database: Database, key: ProjectKey) -> Traces:
    """What `erase` would remove."""
    with database.reading() as session:
        return _traces(settings, session, key)


def erase(settings: Settings, database: Database, key: ProjectKey) -> Traces:
    """Removes everything of a project, ledger included; returns what there was.

    A call that failed can be repeated. Servers serve the base within a second.

    Raises:
        NotAvailable: a job of the project is running.
        VersionsUnavailable: files can't be removed; the rows stay.
    """
    with database.writing() as session:
        counter = locked_counter(session)
        mine = of_project(Job, key, unnamed=True)
        running = session.scalars(select(Job).where(mine, Job.state == "running").with_for_update()).first()
        if running is not None:
            raise NotAvailable(
                f"Job {running.short} of project {key} is running: wait for its end, or stop the worker."
            )
        traces = _traces(settings, session, key)
        for table in OfProject.__subclasses__():
            session.execute(delete(table).where(of_project(table, key, unnamed=True)))
        counter.change += 1
        try:
            for path in traces.images:
                path.unlink(missing_ok=True)
            for folder in (settings.versions_dir / folder_of(key), settings.photos_dir / folder_of(key)):
                if folder.exists():
                    shutil.rmtree(folder)
        except OSError as error:
            raise VersionsUnavailable(f"{error.filename} can't be removed ({error.strerror}): try again.") from error
    database.pragma("wal_checkpoint(TRUNCATE)")  # what was deleted is in the log, too
    return traces


def _traces(settings: Settings, session: Session, key: ProjectKey) -> Traces:
    rows = {
        str(table.__tablename__): session.scalar(
            select(func.count()).select_from(table).where(of_project(table, key, unnamed=True))
        )
        for table in OfProject.__subclasses__()
    }
    images = select(TaskImageRow.sha256)
    hashes = set(session.scalars(images.where(of_project(TaskImageRow, key, unnamed=True))))
    for text in session.scalars(select(ShownRow.images).where(of_project(ShownRow, key, unnamed=True))):
        hashes |= {image.sha256 for image in read_images(text)}
    for portion in engine_folder(settings.versions_dir, key).glob(f"portions/{'?' * 32}.npz"):
        with np.load(portion) as stored:
            hashes |= set(stored["content"].tolist())
    hashes -= set(session.scalars(images.where(not_(of_project(TaskImageRow, key, unnamed=True)))))
    cache = DiskCache(settings.cache_dir / "tokens", settings.token_cache_bytes)
    return Traces(
        rows={name: count for name, count in sorted(rows.items()) if count},
        versions=tuple(sorted((settings.versions_dir / folder_of(key)).glob("v*"))),
        images=(
            *sorted((settings.photos_dir / folder_of(key)).glob("*")),
            *(path for digest in sorted(hashes) for path in cache.files(digest)),
        ),
    )
