# ruff: noqa: I001 (the package it names is another one)
"""Adapter to the package at 0147a08, for `make_golden.py` alone; `adapter.py` is its twin for the current package."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from golden import cases
from numpy.typing import NDArray


def starter_logits(data_dir: Path, photos: Sequence[Path]) -> tuple[list[str], NDArray[np.float32]]:
    """Tags of the starter bundle and the (N, L) logits of photos."""
    from PIL import Image

    from ram_backend.models import find_bundle, load_network
    from ram_backend.tagging import Tagger, resolve_subset

    bundle = find_bundle("starter", data_dir / "bundles")
    names = [tag.name for tag in bundle.vocabulary.tags]
    tagger = Tagger(bundle, load_network(bundle, threads=1), resolve_subset(bundle, names))
    return names, tagger.tag([Image.open(path).convert("RGB") for path in photos]).logits


def tiny_logits(kind: str) -> NDArray[np.float32]:
    """Logits of a small network of one of RAM's kinds with drawn weights, for drawn images."""
    import torch
    from models import tiny
    from models.test_ram import build

    network, _, labels = build(kind)
    network.attach_labels(labels)
    with torch.no_grad():
        return np.asarray(network(tiny.images(3)).numpy())


def gate_round(seed: int, images: int, shuffled: bool) -> dict[str, Any]:
    """Outcome and figures of a simulated project's round: split, refusal or fit, verdict."""
    from ram_backend.training.candidates import fit_candidate
    from ram_backend.training.gate import judge_candidate, refuse_early
    from ram_backend.training.material import Material
    from ram_backend.training.split import split

    material = Material(**cases.simulated(seed, images, shuffled))
    parts = split(material)
    verdict = refuse_early(material, parts, seed)
    if verdict is None:
        candidate = fit_candidate(material.take(parts.fit), parts.groups[parts.fit], seed=seed)
        side = material.take(parts.gate)
        verdict = judge_candidate(material, parts, candidate.logits(side.base, side.features), seed=seed)
    return {"outcome": verdict.outcome, "figures": dict(sorted(verdict.figures.items()))}


def read_history(data_dir: Path) -> dict[str, Any]:
    """What the rooms read from a data folder's database and versions, as JSON; upgrades the database."""
    from ram_backend.feedback import Weights, gather, open_ledger
    from ram_backend.labelstudio.label_config import parse_label_config
    from ram_backend.projects import open_table
    from ram_backend.settings import load_settings
    from ram_backend.versions import open_version, open_version_table
    from ram_backend.versions.directory import version_path

    settings = load_settings(data_dir=data_dir)
    projects = open_table(settings)
    changes = projects.changes()
    ledger = open_ledger(settings)
    table = open_version_table(settings)
    found: dict[str, Any] = {"pinned": changes.pinned_host, "projects": {}}
    for project in sorted(changes.projects, key=lambda each: each.key.id):
        key = project.key
        print_ = ledger.fingerprint(key)
        truth = ledger.annotations(key)
        labels = gather(parse_label_config(project.label_config), truth, ledger.shown(key), Weights())
        versions = {}
        for record in table.list(key):
            version = open_version(version_path(settings.versions_dir, key, record.name), None, key=key)
            tensors = {name: float(np.abs(array).sum()) for name, array in version.delta.to_tensors().items()}
            versions[record.name] = {
                "state": record.state,
                "verdict": dict(record.verdict),
                "digest": record.digest,
                "lineage": record.lineage.to_json(),
                "tags": list(version.delta.tags),
                "tensors": tensors,
            }
        served = table.served(key)
        found["projects"][str(key)] = {
            "revision": project.revision,
            "label_config": hashlib.sha256(project.label_config.encode()).hexdigest(),
            "token": project.access_token,
            "options": [project.extra_params.to_json(), project.set_options.to_json()],
            "fingerprint": [print_.hash, print_.count, print_.first_event, print_.last_event],
            "annotations": {
                str(each.stated.id): [each.stated.task, [[list(v) for v in item.values] for item in each.stated.items]]
                for each in truth
            },
            "labels": {
                str(each.task_id): {tag: [label.state, label.weight] for tag, label in sorted(each.said.items())}
                for each in labels
            },
            "shown": {str(task): len(rows) for task, rows in sorted(ledger.shown(key).items())},
            "versions": versions,
            "served": [served.name, served.digest, served.pinned],
            "jobs": jobs_of(settings, key),
        }
    ledger.close()
    return found


def jobs_of(settings: Any, key: Any) -> list[list[Any]]:
    """A project's jobs: kind, state, reason, message, attempts, result, event; in no order."""
    from ram_backend.database import open_database
    from ram_backend.jobs.table import JobTable

    database = open_database(settings)
    try:
        jobs = JobTable(database).jobs(key)
    finally:
        database.close()
    return sorted(
        (
            [each.kind, each.state, each.reason, each.message, each.attempt, each.result, each.last_event]
            for each in jobs
        ),
        key=str,
    )
