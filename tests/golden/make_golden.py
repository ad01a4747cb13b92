# ruff: noqa: I001 (the package it names is another one)
"""Records an earlier release: `PYTHONPATH=OLD_TREE:tests python tests/golden/make_golden.py`, with OLD_TREE at 0147a08.

All names of that release's modules are here; those of the current one are in `adapter.py`. The tiny networks are those
of that release's `tests/models`, so its `tests` come first on the path where they still have other names.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from golden import adapter_0147a08 as old
from golden import cases

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TAGS = ("cat", "dog", "person")


def make_history(data_dir: Path) -> None:
    """A project with corrections, versions, and jobs in all states; and a second project, known by `/setup` alone."""
    from ram_backend.database import open_database
    from ram_backend.feedback import Ledger, Shown, ShownChoice, ShownImage, TaskImage, events_of
    from ram_backend.jobs.job import Outcome, Progress
    from ram_backend.jobs.processes import Worker
    from ram_backend.jobs.table import JobTable
    from ram_backend.labelstudio import WebhookRequest
    from ram_backend.models import Calibration, Delta, find_bundle, load_network
    from ram_backend.projects import ProjectKey, ProjectOptions, open_table
    from ram_backend.projects.project import Setup
    from ram_backend.settings import load_settings
    from ram_backend.versions import open_version_table, write_version
    from ram_backend.versions.lineage import CorrectionsUsed, Lineage

    settings = load_settings(data_dir=data_dir)
    key = ProjectKey(cases.HOST, cases.CREATED["id"], cases.CREATED["created"])
    projects = open_table(settings)
    config = cases.payload("predict-one-upload")["label_config"]
    projects.apply(Setup.read(key, label_config=config, access_token="t" * 40, extra_params='{"threshold": 0.6}'))
    other = ProjectKey(cases.HOST, 27, 1_795_452_999)
    projects.apply(Setup.read(other, label_config=config, access_token=None, extra_params=None))
    projects.set_options(other, lambda _: ProjectOptions(tags=("cat", "dog")))
    projects.pin_host(cases.HOST)

    database = open_database(settings)
    ledger = Ledger(database)
    for path in sorted(cases.PAYLOADS.glob("webhook-*.json")):
        request = WebhookRequest.model_validate(cases.payload(path.stem))
        ledger.record(key, events_of(request, NOW))
    choices = [ShownChoice("tags", ("cat",), 0.9, True), ShownChoice("tags", ("dog",), 0.2, False)]
    for annotation in ledger.annotations(key):
        image = ShownImage("image", "/data/upload/1.jpg", "ab" * 32, 12345)
        shown = Shown(annotation.stated.task, "starter-1", NOW - timedelta(days=9), tuple(choices), (image,), "v0001")
        ledger.record_shown(key, [shown])
        ledger.record_images(key, [TaskImage(annotation.stated.task, "/data/upload/1.jpg", "ab" * 32, 12345)])

    bundle = find_bundle("starter", data_dir / "bundles")
    network = load_network(bundle, threads=1)
    width = network.token_shape[1]
    table = open_version_table(settings)
    outcomes = ("accept", "accept", "reject", "accept")
    for number, outcome in enumerate(outcomes, 1):
        random = np.random.default_rng(number)
        count = len(TAGS)
        delta = Delta(
            tags=TAGS,
            trust=random.uniform(0.5, 1.5, count).astype(np.float32),
            weight=random.normal(0, 0.02, (count, width)).astype(np.float32),
            bias=random.normal(0, 0.5, count).astype(np.float32),
            calibration=Calibration(
                random.uniform(0.8, 1.2, count).astype(np.float32), random.normal(0, 0.2, count).astype(np.float32)
            ),
            thresholds=random.uniform(0.2, 0.7, count).astype(np.float32),
        )
        lineage = Lineage(
            parent=f"v{number - 1:04d}" if number > 1 else None,
            bundle=bundle.name,
            bundle_digest=bundle.digest,
            encoder_id=network.encoder_id,
            corrections=CorrectionsUsed(10 * number, 1, 3, 4, "c" * 64, withdrawn=2, added=7),
            recipe="residual",
            params={"ridge": 1.5},
            seed=number,
            metrics_before={"map": 0.5},
            metrics_after={"map": 0.5 + number / 100},
            gate_share=0.3,
            code_version="0.1.0",
            created_at=NOW + timedelta(minutes=number),
        )
        verdict = {"outcome": outcome, "reason": f"round {number}", "figures": {"map_before": 0.5}}
        stored = write_version(settings.versions_dir, key, delta, {}, lineage, verdict, first_number=number)
        table.record(stored)
    table.publish(key, "v0001", expected=None)
    table.publish(key, "v0002", expected="v0001")
    table.publish(key, "v0004", expected="v0002")
    table.roll_back(key, "v0002")
    table.quarantine(key, "v0004", "its canary failed")

    jobs = JobTable(database, attempts=1)
    worker = Worker("a-machine", ((1, "1"),))

    def claimed(kind: str, reason: str, options: dict[str, Any] | None = None) -> Any:
        claim = jobs.claim(jobs.request(key, kind, reason, options).job.id, worker)  # type: ignore[arg-type]
        assert claim is not None
        return claim

    jobs.finish(claimed("train", "7 corrections"), Outcome("v0002 is served", {"verdict": {"outcome": "accept"}}, 5))
    jobs.fail(claimed("train", "the button"), "Label Studio was away", retry=False)
    jobs.request(key, "train", "the button again", delay_s=86400)
    claim = claimed("prelabel", "a command", {"model_version": None, "tasks": [1, 2, 3]})
    jobs.beat(claim, Progress("predict", 1, 3, 9.0))
    jobs.request(other, "refresh", "v0001 is served")
    database.close()
    ledger.close()


def main() -> None:
    """Writes the files beside this script."""
    here = cases.HERE
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        make_history(data_dir)
        (here / "history.sql").write_text(cases.dump(data_dir / "ram_backend.sqlite3"), encoding="utf-8")
        shutil.rmtree(here / "versions", ignore_errors=True)
        shutil.copytree(data_dir / "versions", here / "versions", ignore=shutil.ignore_patterns(".*", "*.lock"))
        write("history", old.read_history(data_dir))
        write("predictions", cases.predictions(data_dir))
        tags, logits = old.starter_logits(data_dir, [cases.PHOTOS / name for name in cases.SHOWN_PHOTOS])
        arrays = {"starter": logits, "starter_tags": np.array(hashlib.sha256("\n".join(tags).encode()).hexdigest())}
        arrays |= {kind: old.tiny_logits(kind) for kind in cases.KINDS}
        np.savez_compressed(here / "logits.npz", **arrays)
    write("verdicts", [old.gate_round(*each) for each in cases.ROUNDS])


def write(name: str, value: Any) -> None:
    """One JSON file."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    (cases.HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
