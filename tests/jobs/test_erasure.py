"""A forgotten project leaves no row, no file and no cached image; other projects keep theirs."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.jobs import KEY, OTHER, claimed, connect, correct
from support.tiny_model import ColourNetwork, picture, tiny_bundle
from support.versions import write

from ram_backend.database.engine import Base, Database
from ram_backend.disk_cache import DiskCache
from ram_backend.errors import NotAvailable, VersionsUnavailable
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ShownChoice, ShownImage, ShownPrediction
from ram_backend.jobs.erasure import erase, traces_of
from ram_backend.jobs.table import JobTable
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import ProjectOptions
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import ImageLoader
from ram_backend.versions.directory import engine_folder, folder_of
from ram_backend.versions.table import VersionTable

SHARED, MINE, THEIRS = (picture((n, 10, 10), (6, 6)) for n in (1, 2, 3))
UNNAMED = ProjectKey("", KEY.id, KEY.created)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fill(settings: Settings, database: Database, key: ProjectKey, pictures: tuple[bytes, ...]) -> None:
    """Everything that a project can have."""
    connect(database, key)
    ProjectTable(database).edit_options(key, lambda _: ProjectOptions(top_k=3))
    ledger, cache = Ledger(database), DiskCache(settings.cache_dir / "tokens", settings.token_cache_bytes)
    limits = {"max_pixels": settings.max_image_pixels, "max_bytes": settings.max_image_bytes}
    loader = ImageLoader(tiny_bundle().preprocessing, "mean-colour", cache, **limits)
    for task, data in enumerate(pictures, start=1):
        loader.encode(ColourNetwork(), [loader.load(data, name="image")])
        image = ShownImage("image", f"of {key}", digest(data), 7)
        choices = (ShownChoice("tags", ("red",), 0.9, True),)
        ledger.record_shown(key, [ShownPrediction(task, "m", datetime.now(UTC), choices, (image,))])
    correct(database, 1, 2, key=key)
    folder = settings.photos_dir / folder_of(key)
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(pictures[-1])
    examined = picture((key.id, 200, 10), (6, 6))  # by the data engine alone
    loader.encode(ColourNetwork(), [loader.load(examined, name="image")])
    (portions := engine_folder(settings.versions_dir, key) / "portions").mkdir(parents=True)
    (portions / f"{0:032}.host.7.partial.npz").write_bytes(b"of a killed worker")
    np.savez(portions / f"{0:032}.npz", content=[digest(examined)])
    table = VersionTable(database)
    table.record(write(settings.versions_dir, key=key))
    table.publish(key, "v0001", expected=None)
    JobTable(database).request(key, "train", f"because of {key}")


def rows(database: Database, key: ProjectKey) -> dict[str, list[Any]]:
    """Its rows in every table that has any project's, whatever the instance."""
    found = {}
    with database.reading() as session:
        for table in Base.metadata.sorted_tables:
            if "project_id" in table.c:
                same = (table.c.project_id == key.id) & (table.c.created == key.created)
                found[table.name] = [tuple(row) for row in session.execute(table.select().where(same))]
    return {name: each for name, each in found.items() if each}


def files_with(folder: Path, *needles: str) -> list[str]:
    """Files whose name or content has one of these."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return [
        str(path) for path in paths if any(each in str(path) or each.encode() in path.read_bytes() for each in needles)
    ]


@pytest.fixture
def two_projects(settings: Settings, database: Database) -> Database:
    fill(settings, database, KEY, (SHARED, MINE))
    fill(settings, database, OTHER, (SHARED, THEIRS))
    correct(database, 3, key=UNNAMED)
    return database


def test_nothing_is_left_and_other_projects_keep_theirs(settings: Settings, two_projects: Database) -> None:
    before, counted = rows(two_projects, OTHER), traces_of(settings, two_projects, KEY)
    tables = set(before) | {"projects"}
    assert tables >= {"feedback_events", "shown", "task_images", "versions", "served", "jobs"}
    assert set(counted.rows) == tables, "the fixture fills every table"
    assert counted.rows["feedback_events"] == 3, "what came before its Label Studio was named, too"
    assert (len(counted.versions), len(counted.images)) == (1, 3)
    last = Ledger(two_projects).last_event(UNNAMED)
    assert erase(settings, two_projects, KEY) == counted
    assert rows(two_projects, KEY) == {}
    two_projects.close()
    identity = str(KEY.created), digest(MINE), f"because of {KEY}"
    assert files_with(settings.data_dir, *identity) == []
    assert rows(two_projects, OTHER) == before
    assert len(files_with(settings.data_dir / "cache", digest(SHARED), digest(THEIRS))) == 2
    assert len(list(settings.versions_dir.glob(f"{OTHER.id}.*/v0001/manifest.json"))) == 1
    assert ProjectTable(two_projects).keys() == [OTHER]
    correct(two_projects, 1)
    assert Ledger(two_projects).last_event(KEY) > last, "an erased event's id is no other's"


def test_a_running_job_is_not_pulled_from_under_its_worker(settings: Settings, two_projects: Database) -> None:
    queue = JobTable(two_projects)
    (job,) = queue.jobs(KEY)
    claimed(queue, job.id)
    with pytest.raises(NotAvailable, match=rf"{job.short}.*running"):
        erase(settings, two_projects, KEY)
    assert rows(two_projects, KEY)


def test_rows_stay_with_a_file(settings: Settings, two_projects: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows(two_projects, KEY)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(VersionsUnavailable, match="Read-only"):
            erase(settings, two_projects, KEY)
    assert rows(two_projects, KEY) == before
    erase(settings, two_projects, KEY)
    assert rows(two_projects, KEY) == {}
