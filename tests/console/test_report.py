"""The report: the page's own numbers, by version; when to stop; drift; a file without anything from outside."""

import hashlib
import itertools
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feedback.saying import CONFIG, KEY, NOW, event, shown
from support import commands
from support.tiny_model import ColourNetwork, picture, tiny_bundle
from support.versions import ACCEPT, REJECT, delta, lineage

from ram_backend.console import report as reports
from ram_backend.console.report import expected_saving, project_report
from ram_backend.console.statistics import statistics_of
from ram_backend.database.migrate import open_migrated
from ram_backend.disk_cache import DiskCache
from ram_backend.errors import InputError
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ShownImage, ShownPrediction
from ram_backend.jobs.service import JobService
from ram_backend.projects.project import Project
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging.image_loader import ImageLoader
from ram_backend.training.drift import write_fit_features
from ram_backend.versions.directory import write_version
from ram_backend.versions.records import CorrectionsUsed
from ram_backend.versions.table import VersionTable


@pytest.fixture
def settings() -> Settings:
    return load_settings()


def of(settings: Settings) -> tuple[JobService, Settings, Project]:
    database = open_migrated(settings)
    (project,) = ProjectTable(database).changes().projects
    return JobService(settings, database), settings, project


def tried(settings: Settings, count: int, edits: tuple[float, float], verdict: dict[str, Any], **files: bytes) -> None:
    used, table = CorrectionsUsed(count, 1, count, count, "c" * 64), VersionTable(open_migrated(settings))
    before, after = ({"edits": each} for each in edits)
    parent = next((each.name for each in table.list(KEY)), None)
    made = lineage(parent, corrections=used, metrics_before=before, metrics_after=after)
    changes = delta(tags=("cat", "dog"))
    table.record(write_version(settings.versions_dir, KEY, changes, files, made, verdict))


@pytest.fixture
def learned(settings: Settings) -> Ledger:
    """The base ticked cat twice, rightly once; v0001, which is served, ticks dog; three versions were tried."""
    ledger = Ledger(commands.connect(KEY, CONFIG, extra_params={"per_tag": {"cat": 0.25}, "add_cost": 4}))
    for count, edits, verdict in ((30, 2.0, ACCEPT), (60, 1.8, REJECT), (120, 1.7, REJECT)):
        tried(settings, count, (2.5, edits), verdict)
    VersionTable(open_migrated(settings)).publish(KEY, "v0001", expected=None)
    ledger.record_shown(KEY, [shown(1, ["cat"], prediction_id=1), shown(2, ["cat"], prediction_id=2)])
    later = shown(3, ["dog"], prediction_id=3)
    ledger.record_shown(KEY, [ShownPrediction(**vars(later) | {"version": "v0001"})])
    events = [event(1, "cat", parent_prediction=1), event(2, "tree", parent_prediction=2)]
    again = [event(3, "dog", "tree", parent_prediction=3), event(4, "dog", task=3, parent_prediction=3)]
    ledger.record(KEY, events + again)
    return ledger


def test_quality_by_version_day_and_tag_and_when_to_stop(settings: Settings, learned: Ledger) -> None:
    found = project_report(*of(settings))
    base, first, second, third = found["versions"]
    assert (base["version"], base["photos"], base["edits"]) == ("base", 2, 2)
    tags = {each["tag"]: each for each in base["tags"]}
    assert (tags["cat"]["confirmed"], tags["cat"]["removed"], tags["cat"]["precision"]) == (1, 1, 0.5)
    assert (tags["tree"]["added"], tags["tree"]["shown"], tags["tree"]["threshold"]) == (1, 0, None)
    assert (first["photos"], first["edits"], first["edits_after"]) == (2, 1, 2.0)
    assert first["tags"][0] | {"recall": None} == {
        **{"tag": "dog", "confirmed": 2, "added": 0, "removed": 0, "shown": 2, "precision": 1.0},
        **{"recall": None, "threshold": pytest.approx(0.2)},
    }
    assert tags["cat"]["threshold"] == 0.25, "an admin's is stronger than the version's"
    assert (second["state"], third["verdict"], third["photos"]) == ("rejected", REJECT["reason"], 0)
    assert found["days"] == {"2026-11-24": {"photos": 4, "edits": 3, "tags": 5, "saved": 1 - 3 / 5}}
    assert found["agreement"] == 0.5
    assert (found["served"], found["stop"]) == ("v0001", False)
    tried(settings, 5000, (2.5, 1.7), REJECT)
    tried(settings, 9000, (2.5, 1.7), REJECT)
    found = project_report(*of(settings))
    assert (found["saving_per_100_photos"] < 0.01, found["stop"]) == (True, True)


def test_its_numbers_are_the_page_s(settings: Settings, learned: Ledger) -> None:
    given = of(settings)
    statistics = statistics_of(given[0].ledger, given[2])
    found = project_report(*given)
    assert [(each["tag"], each["shown"], each["precision"]) for each in found["tags"]] == [
        (each.tag, each.shown, each.precision) for each in statistics.tags
    ]
    assert sum(each["edits"] for each in found["versions"]) == statistics.edits


def test_the_learning_curve_says_when_to_stop() -> None:
    def saving(slope: float, *counts: int) -> float | None:
        steps = itertools.pairwise(counts)
        return expected_saving([(a, b, slope * (a**-0.5 - b**-0.5)) for a, b in steps])

    assert saving(5, 50, 100) is None
    assert saving(5, 100, 100, 100) is None
    some, more, none = (saving(slope, 50, 100, 200) or 0.0 for slope in (5, 7, -5))
    assert more - some == pytest.approx(2 * (200**-0.5 - 300**-0.5))
    assert 0.01 < none < some, "what two versions say is uncertain"
    assert (saving(5, 200, 400, 800, 1600) or 1) < 0.01


@pytest.mark.parametrize(("colour", "alarm"), [((200, 30, 30), False), ((30, 200, 30), True)])
def test_drift_of_what_the_version_has_tagged_since(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, colour: tuple[int, int, int], alarm: bool
) -> None:
    ledger, network, bundle = Ledger(commands.connect(KEY, CONFIG)), ColourNetwork(), tiny_bundle()
    cache = DiskCache(settings.cache_dir / "tokens", settings.token_cache_bytes)
    limits = {"max_pixels": settings.max_image_pixels, "max_bytes": settings.max_image_bytes}
    loader = ImageLoader(bundle.preprocessing, network.encoder_id, cache, **limits)
    drawn = np.random.default_rng(0)

    def photo(rgb: tuple[int, int, int]) -> tuple[str, Any]:
        data = picture(tuple((np.array(rgb) + drawn.integers(-30, 30, 3)).tolist()), (8, 8))
        return hashlib.sha256(data).hexdigest(), loader.encode(network, [loader.load(data, name="photo")])[0]

    fit = [photo((200, 30, 30)) for _ in range(100)]
    files = write_fit_features(np.stack([tokens[0] for _, tokens in fit]), [sha256 for sha256, _ in fit])
    tried(settings, 100, (2.0, 1.0), ACCEPT, **files)
    VersionTable(open_migrated(settings)).publish(KEY, "v0001", expected=None)
    monkeypatch.setattr(reports, "find_bundle", lambda *_: bundle)
    images = [(ShownImage("image", f"{task}", photo(colour)[0], 0),) for task in range(120)]
    at = [NOW + timedelta(seconds=task) for task in range(120)]
    assert project_report(*of(settings))["drift"] is None, "nothing was looked at"
    ledger.record_shown(
        KEY, [ShownPrediction(task, "m", at[task], images=images[task], version="v0001") for task in range(120)]
    )
    found = project_report(*of(settings))["drift"]
    assert (found["photos"], found["alarm_rate"], found["alarm_at"] is not None) == (120, 0.01, alarm)
    if alarm:
        assert found["alarm_at"] <= 100


def test_its_file(learned: Ledger, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "report.html" in commands.run("report", KEY.id)
    html = Path("report.html").read_text(encoding="utf-8")
    assert "<svg" in html
    assert "color-scheme" in html, "its style is in it"
    assert [part for part in ('src="', 'href="/', "http://www", "<script") if part in html] == []
    commands.run("report", KEY.id, "--out", "report.json")
    found = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert found.keys() == project_report(*of(settings)).keys()
    for wrong in ("report.pdf", "nowhere/report.html"):
        with pytest.raises(InputError):
            commands.run("report", KEY.id, "--out", wrong)
