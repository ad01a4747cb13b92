"""All names of the package that the golden tests know."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from support.training_sets import simulated

from ram_backend.database.migrate import open_migrated
from ram_backend.feedback.corrections import corrections_of, merge_corrections
from ram_backend.feedback.ledger import Ledger
from ram_backend.gate.judge import judge_candidate, refuse_before_fitting
from ram_backend.jobs.table import JobTable
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.models.network import load_network
from ram_backend.models.registry import find_bundle
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import load_settings
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger
from ram_backend.training.selection import fit_candidate
from ram_backend.versions.directory import open_version, version_path
from ram_backend.versions.table import VersionTable


def starter_logits(data_dir: Path, photos: Sequence[Path]) -> tuple[list[str], NDArray[np.float32]]:
    """Tags of the starter bundle and the (N, L) logits of photos."""
    bundle = find_bundle("starter", data_dir / "bundles")
    names = list(bundle.vocabulary.names)
    tagger = Tagger(bundle, load_network(bundle, threads=1), resolve_subset(bundle, names))
    return names, tagger.tag([Image.open(path).convert("RGB") for path in photos]).logits


def gate_round(seed: int, images: int, shuffled: bool) -> dict[str, Any]:
    """Outcome and figures of a simulated project's round: refusal or fit, verdict."""
    photos = simulated(seed, images, shuffled=shuffled)
    verdict = refuse_before_fitting(photos, seed)
    if verdict is None:
        candidate = fit_candidate(photos, seed=seed)
        verdict = judge_candidate(photos, candidate.log_odds, seed=seed)
    by_tag = ("found.", "vanished.")  # said of tags since
    figures = {name: value for name, value in sorted(verdict.figures.items()) if not name.startswith(by_tag)}
    return {"outcome": verdict.outcome, "figures": figures}


def read_history(data_dir: Path) -> dict[str, Any]:
    """What the rooms read from a data folder's database and versions, as JSON; upgrades the database."""
    settings = load_settings(data_dir=data_dir)
    database = open_migrated(settings)
    ledger, table = Ledger(database), VersionTable(database)
    changes = ProjectTable(database).changes()
    found: dict[str, Any] = {"pinned": changes.trusted_host and changes.trusted_host.host, "projects": {}}
    for project in changes.projects:
        key = project.key
        print_ = ledger.fingerprint(key)
        truth = ledger.annotations(key)
        schema = parse_label_config(project.label_config)
        labels = merge_corrections(corrections_of(schema, truth, ledger.shown(key)))
        versions = {}
        for record in table.list(key):
            version = open_version(version_path(settings.versions_dir, key, record.name), None, key=key)
            versions[record.name] = {
                "state": record.state,
                "verdict": dict(record.verdict),
                "digest": record.digest,
                "lineage": record.lineage.to_json(),
                "tags": list(version.delta.tags),
            }
        served = table.served(key)
        jobs = [
            [each.kind, each.state, each.reason, each.message, each.attempt, each.result, each.last_event]
            for each in JobTable(database).jobs(key)
        ]
        found["projects"][str(key)] = {
            "revision": project.revision,
            "label_config": hashlib.sha256(project.label_config.encode()).hexdigest(),
            "token": project.access_token,
            "options": [project.extra_params.to_json(), project.admin_options.to_json()],
            "fingerprint": [print_.hash, print_.count, print_.first_event, print_.last_event],
            "annotations": {
                str(each.parsed.id): [each.parsed.task, [[list(v) for v in item.values] for item in each.parsed.items]]
                for each in truth
            },
            "labels": {
                str(each.task_id): {tag: [label.state, label.weight] for tag, label in sorted(each.states.items())}
                for each in labels
            },
            "shown": {str(task): len(rows) for task, rows in sorted(ledger.shown(key).items())},
            "versions": versions,
            "served": [served.name, served.digest, served.pinned],
            "jobs": sorted(jobs, key=str),
        }
    database.close()
    return found
