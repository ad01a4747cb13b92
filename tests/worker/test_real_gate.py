"""The gate within a real training job: corrections with a pattern are served, the same ones shuffled are not."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.jobs import KEY, statement
from support.tiny_model import ROLLED

from ram_backend.database.engine import Database
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import Job
from ram_backend.versions.table import VersionTable

IMAGES = 160
TAGS = ("red", "green", "blue")
TICKED_FROM = (0.601, 0.5, 0.712)
"""Levels at which the bundle's scores reach its thresholds of .6, .5 and .7."""
COLOURS = np.random.default_rng(5).uniform(0.15, 0.85, (300, 3))
"""Mean colour of each image, in [0, 1]."""


def noisy_picture(number: int) -> str:
    """A coarse pattern around a colour, so that no two images are near-duplicates."""
    noise = np.random.default_rng(number).uniform(-0.15, 0.15, (8, 8, 1))
    pixels = (255 * np.clip(COLOURS[number] + noise, 0, 1)).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def correct_by_two_colours(
    database: Database, order: np.ndarray | range, own: float = 0.4, levels: tuple[float, ...] = (0.5, 0.5, 0.5)
) -> None:
    """Annotators tick "red" where red and blue together are strong, and so on; the bundle looks at red alone.

    Image `n` gets the tags of image `order[n]`; `own` is the share of the tag's own colour, `levels` what is strong.
    """
    ticked = [
        [TAGS[place] for place in np.flatnonzero(own * colour + (1 - own) * np.roll(colour, 1) > levels)]
        for colour in COLOURS
    ]
    said = [statement(n + 1, ticked[other], image=noisy_picture(n)) for n, other in enumerate(order)]
    Ledger(database).record(KEY, said)


Train = Callable[..., Job]


def test_what_can_be_learned_is_served(database: Database, train: Train) -> None:
    correct_by_two_colours(database, np.arange(IMAGES))
    job = train()
    assert (job.state, job.verdict) == ("done", "accept"), job.message
    figures = (job.result or {})["verdict"]["figures"]
    assert figures["edits_candidate"] < 0.9 * figures["edits_incumbent"]
    assert VersionTable(database).served(KEY).version == "v0001"


SHUFFLED = [{"order": np.random.default_rng(seed).permutation(IMAGES)} for seed in range(3)]
RIGHT_ALREADY = {"order": np.arange(IMAGES), "own": 1.0, "levels": TICKED_FROM}


@pytest.mark.parametrize("said", [*SHUFFLED, RIGHT_ALREADY], ids=["shuffled"] * 3 + ["the bundle is right already"])
def test_what_teaches_nothing_is_never_served(database: Database, train: Train, said: dict[str, Any]) -> None:
    correct_by_two_colours(database, **said)
    job = train()
    assert (job.state, job.verdict) == ("done", "reject"), job.message
    versions = VersionTable(database)
    assert versions.served(KEY).version is None
    if said is RIGHT_ALREADY:
        assert [record.outcome for record in versions.list(KEY)] == ["reject"], "it was fitted, judged and kept"


def test_a_project_changes_its_bundle_and_goes_back(database: Database, train: Train) -> None:
    """With 300 corrections: only where that saves edits, and compared with what the other bundle serves."""
    correct_by_two_colours(database, range(300))
    versions = VersionTable(database)
    first = train(ROLLED)
    assert first.verdict == "accept", first.message
    served = versions.served(KEY)
    assert (served.name, served.bundle, served.bundle_digest) == ("v0001", ROLLED, "e" * 64)
    back = train("starter")
    assert (back.verdict, versions.served(KEY).bundle) == ("accept", "colours"), back.message
    then, now = (versions.get(KEY, name) for name in ("v0001", "v0002"))
    assert now.verdict["figures"]["edits_incumbent"] == then.verdict["figures"]["edits_candidate"]
    refused = train(ROLLED)
    assert (refused.verdict, versions.served(KEY).name) == ("reject", "v0002")
    assert "edits per photo" in refused.message
    assert versions.roll_back(KEY, "v0001") == replace(served, pinned=True)
    assert versions.roll_back(KEY, None).bundle is None
