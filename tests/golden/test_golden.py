"""What release 0147a08 recorded is still true: predictions, logits, its database and versions; and the gate's verdicts.

The starter's thresholds and the gate changed once since, when both began to speak of edits: confidences of whole
predictions, digests of the bundle and verdicts were recorded anew then.

A value that is changed on purpose is named in `MAY_DIFFER`, with the reason.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import adapter, cases
from models import tiny
from models.test_ram import build
from safetensors.numpy import load_file
from support.starter import lend

from ram_backend.versions.directory import open_version

MAY_DIFFER = {
    "predictions": {
        "model_version": "the string may change once; that it names behaviour is tested in tests/server",
        "id": "results are numbered at random",
    },
    "history": {
        "tensors": "a delta has other tensors, with the same log-odds: tested below",
        "pinned": "a pin of before doesn't say who named the host, so the upgrade drops it",
    },
    "verdicts": {},
}
"""Fields that are not compared, with reasons."""

ROUNDING = 1e-4
"""Calibrated scores are rounded to six digits after tokens were rounded to float16."""

FEW_DRAWS = 2e-3
"""A p-value is a share of 5,000 draws: the last bits of scores decide ties among them."""


def assert_as_recorded(name: str, found: Any, tolerance: float = ROUNDING) -> None:
    after = json.loads(json.dumps(found))
    different = cases.differences(cases.recorded(name), after, tolerance, frozenset(MAY_DIFFER[name]))
    assert not different, "\n".join(different[:40])


@pytest.fixture
def data_dir(tmp_path: Path, starter_data: Path) -> Path:
    """A data folder as that release left it."""
    folder = lend(starter_data, tmp_path / "earlier")
    cases.restore(folder)
    return folder


def test_an_earlier_database_and_its_versions_are_read_with_nothing_lost(data_dir: Path) -> None:
    assert_as_recorded("history", adapter.read_history(data_dir), 1e-6)


@pytest.mark.parametrize("folder", sorted((cases.HERE / "versions").glob("*/v*")), ids=lambda folder: folder.name)
def test_an_earlier_version_gives_the_same_log_odds(folder: Path) -> None:
    before = load_file(folder / "delta.safetensors")
    random = np.random.default_rng(0)
    z = random.normal(0, 3, (20, len(before["trust"]))).astype(np.float32)
    features = random.normal(size=(20, before["weight"].shape[1])).astype(np.float32)
    logits = z * before["trust"] + features @ before["weight"].T + before["bias"]
    found = open_version(folder, None).delta
    np.testing.assert_allclose(found.log_odds(z, features), logits * before["slope"] + before["offset"], atol=2e-6)
    np.testing.assert_array_equal(found.thresholds, before["thresholds"])


def test_an_earlier_database_is_upgraded_once(data_dir: Path) -> None:
    first = adapter.read_history(data_dir)
    assert adapter.read_history(data_dir) == first


@pytest.mark.service
def test_recorded_requests_get_the_same_predictions(data_dir: Path) -> None:
    answers = cases.predictions(data_dir)
    for result in (each for answer in answers.values() for each in answer["results"]):
        del result["score"]  # the order of tasks, which is active learning since
    assert_as_recorded("predictions", answers)
    versions = {name: answer["model_version"] for name, answer in answers.items()}
    assert "v0002" in versions["predict-one-upload"], "the version that was rolled back to"
    assert "v0" not in versions["predict-one-http"], "a project without versions"


def test_the_starter_gives_the_same_logits(starter_data: Path) -> None:
    tags, logits = adapter.starter_logits(starter_data, [cases.PHOTOS / name for name in cases.SHOWN_PHOTOS])
    with np.load(cases.HERE / "logits.npz") as before:
        assert hashlib.sha256("\n".join(tags).encode()).hexdigest() == str(before["starter_tags"])
        np.testing.assert_allclose(logits, before["starter"], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ram", "ram_plus", "tag2text"])
def test_small_networks_give_the_same_logits(kind: str) -> None:
    network, labels = build(kind)
    with np.load(cases.HERE / "logits.npz") as before, torch.no_grad():
        logits = network(network.encoder(tiny.images(3)), labels).numpy()
        np.testing.assert_allclose(logits, before[kind], atol=1e-5, rtol=1e-5)


def test_the_gate_gives_the_same_verdicts() -> None:
    found = [adapter.gate_round(*each) for each in cases.ROUNDS]
    assert {each["outcome"] for each in found} == {"accept", "reject"}
    assert_as_recorded("verdicts", found, FEW_DRAWS)


def test_the_comparison_finds_what_differs() -> None:
    before = cases.recorded("predictions")
    after = json.loads(json.dumps(before))
    assert cases.differences(before, after, ROUNDING) == []
    after["predict-one-upload"]["results"][0]["result"][0]["score"] += 0.001
    assert len(cases.differences(before, after, ROUNDING)) == 1
    after["predict-one-upload"]["results"][0]["result"][0]["value"]["choices"].append("moose")
    assert len(cases.differences(before, after, ROUNDING)) == 2
