"""Training job: from a project's corrections to a version, or a reason for none.

    reconcile -> gather -> images -> scores -> fit -> gate -> write -> publish
    -> request a refresh

Publishing, recording the version and ending the job are one transaction, valid
only while the fencing number is current and the served version is the one that
the gate compared with.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from contextlib import suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from sqlalchemy.orm import Session

from ram_backend import __version__
from ram_backend.errors import NotAvailable, ProjectPinned, RamError, VersionConflict
from ram_backend.gate.judge import Verdict, judge_candidate, refuse_before_fitting
from ram_backend.gate.training_set import TrainingSet
from ram_backend.jobs.job import JobOptions, JobResult
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.predictions import RANDOM_UNTIL, is_always_random
from ram_backend.models.bundle import Bundle
from ram_backend.models.network import load_network
from ram_backend.models.registry import find_bundle
from ram_backend.training.drift import write_fit_features
from ram_backend.training.selection import fit_candidate
from ram_backend.versions.directory import Version, write_version
from ram_backend.versions.records import ACCEPTED, CorrectionsUsed, Lineage
from ram_backend.versions.table import incumbent_of, prune
from ram_backend.worker.run_job import JobContext
from ram_backend.worker.training_data import EncodedImages, ProjectCorrections, encode_images, gather_corrections
from ram_backend.worker.training_set import Scorer, build_training_set, is_tuning_wanted, trainers_for, write_folds

DEVICE_S = 5.0
"""Pause before a training asks again for a device that another one has."""

IMAGE_BYTES, PAIR_BYTES = 50_000, 160
"""Memory per corrected image, and per image and tag, as measured."""

SAME = "Nothing has changed since the last attempt. "
_log = logging.getLogger(__name__)


def train(context: JobContext) -> JobResult | None:
    """Does a training job.

    Raises:
        JobLost: it is another worker's by now.
        InputError, SettingsError: it can't succeed with these settings.
        NotAvailable: another attempt may succeed; also where another version
            was published meanwhile.
    """
    device = f"{socket.gethostname()}-{context.settings.device}-{os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}"
    lock = FileLock(context.settings.cache_dir / f"training-{device}.lock")
    try:
        with lock.acquire(timeout=0):
            return _train(context)
    except Timeout:
        if context.job.attempt > 1:  # an earlier one may hang with the lock
            return _train(context)
        context.service.table.release(context.job, "Another training has the device.", delay_s=DEVICE_S)
        return None


def _train(context: JobContext) -> JobResult | None:
    settings, service = context.settings, context.service
    key, heartbeat = context.key, context.heartbeat
    _prune(context)  # attempts that were killed before they published, too
    project, label_studio = context.open_project()
    served = service.versions.served(key)
    corrections = gather_corrections(project, label_studio, service.ledger, heartbeat, served.learned)
    if not corrections.labels:
        return _result(
            corrections, Verdict("needs_data", "There are no corrections yet: label some tasks, then train.")
        )

    wanted = JobOptions.of(context.job.options).bundle
    serving = served.bundle or settings.bundle
    images, scorer, parent, training_set = _scored(context, corrections, wanted or serving, label_studio)
    bundle, network = scorer.bundle, scorer.network
    if wanted not in (None, serving):
        *_, parent, compared = _scored(context, corrections, serving, label_studio)
        if compared.content != training_set.content:
            raise NotAvailable(f"Not all images are readable for {bundle.name} and {serving}: try again.")
        thresholds = compared.incumbent_thresholds
        training_set = replace(training_set, incumbent=compared.incumbent, incumbent_thresholds=thresholds)
    corrections = replace(corrections, notes=corrections.notes + images.notes + training_set.notes)
    inputs_digest = _inputs_digest(corrections, training_set, scorer, parent)
    if (earlier := _same_before(context, inputs_digest)) is not None:
        return _result(corrections, earlier, inputs_digest)

    seed = int(corrections.fingerprint.hash[:8], 16)  # reproducible
    if (refusal := refuse_before_fitting(training_set, seed)) is not None:
        return _result(corrections, refusal, inputs_digest)

    heartbeat("fit")
    fitted = fit_candidate(training_set, trainers_for(scorer, training_set, seed), seed, heartbeat)

    heartbeat("gate")
    shift = scorer.off_target(fitted.files, images.tokens, seed) if fitted.files else None
    at_random = np.array([is_always_random(each.task_id) for each in images.labels])
    verdict = judge_candidate(
        training_set, fitted.log_odds, at_random=at_random if len(at_random) > RANDOM_UNTIL else None,
        evaluated=fitted.evaluated, shift=shift, cross_validated=fitted.cross_validated, seed=seed,
    )  # fmt: skip

    heartbeat("write")
    figures = verdict.figures
    since = parent.lineage.corrections.seen if parent else 0
    changes = service.ledger.changes_since(key, since, up_to=corrections.last_event)
    lineage = Lineage(
        parent=parent.name if parent else None,
        bundle=bundle.name,
        bundle_digest=bundle.digest,
        own_bundle=wanted is not None or served.bundle is not None,
        encoder_id=network.encoder_id,
        corrections=CorrectionsUsed(
            count=len(training_set),
            first_event=corrections.fingerprint.first_event,
            last_event=corrections.fingerprint.last_event,
            seen=corrections.last_event,
            hash=corrections.fingerprint.hash,
            withdrawn=(changes.edited + changes.withdrawn) if parent else 0,
            added=changes.added,
        ),
        trainer=fitted.trainer,
        params=fitted.params,
        seed=seed,
        metrics_before={"edits": figures["edits_incumbent"]} if "edits_incumbent" in figures else {},
        metrics_after={"edits": figures["edits_candidate"]} if "edits_candidate" in figures else {},
        gate_share=1.0,
        code_version=__version__,
        created_at=datetime.now(UTC),
    )
    stored = write_version(
        settings.versions_dir,
        key,
        fitted.delta,
        fitted.files
        | write_folds(fitted.folds, training_set.content)
        | write_fit_features(training_set.features, training_set.content),
        lineage,
        asdict(verdict),
        first_number=service.versions.next_number(key),
    )
    heartbeat("publish")
    _publish(context, stored, served.version, _result(corrections, verdict, inputs_digest, stored.name))
    _prune(context)
    return None


def _scored(
    context: JobContext, corrections: ProjectCorrections, name: str, label_studio: LabelStudio | None
) -> tuple[EncodedImages, Scorer, Version | None, TrainingSet]:
    """The corrected images, by a bundle and its served version (None: none is)."""
    settings, heartbeat = context.settings, context.heartbeat
    heartbeat("load the model")
    bundle = find_bundle(name, settings.bundles_dir)
    _check_memory(bundle, len(corrections.labels), len(corrections.tags))
    network = load_network(bundle, device=settings.device, precision=settings.precision, threads=settings.cpu_threads())
    images = encode_images(context, corrections.labels, bundle, network, label_studio)
    scorer = Scorer(bundle, network, corrections.tags, settings, heartbeat)
    _, version = incumbent_of(context.service.versions, settings.versions_dir, context.key, bundle)
    return images, scorer, version, build_training_set(images, scorer, version, corrections)


def _check_memory(bundle: Bundle, images: int, tags: int) -> None:
    """Raises NotAvailable where a training takes more memory than is free."""
    needed = sum(entry["bytes"] for entry in bundle.manifest["files"].values())
    needed += images * (IMAGE_BYTES + PAIR_BYTES * tags)
    with suppress(OSError):  # no Linux
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
        if free < needed:
            raise NotAvailable(
                f"A training takes about {needed / 1e6:,.0f} MB of memory, and {free / 1e6:,.0f} MB are free: end other"
                " programs, or run the worker on another machine."
            )


def _publish(context: JobContext, stored: Version, expected: str | None, result: JobResult) -> None:
    """Records a version, ends the job, publishes what is accepted: all or nothing.

    Raises:
        NotAvailable: the gate compared with another version than is served by
            now; the next attempt compares again.
    """
    versions = context.service.versions

    def end(session: Session, message: str, refresh: str | None = None) -> None:
        versions.record(stored, session=session)
        ended = replace(result, message=f"{message} {result.message}", refresh=refresh)
        context.service.table.finish(context.job, ended, session)

    message = f"{stored.name} is kept and not served."
    if stored.outcome == ACCEPTED:
        served = f"{stored.name} is served"
        try:
            versions.publish(
                context.key,
                stored.name,
                expected=expected,
                in_transaction=lambda session: end(session, f"{served}.", served),
            )
            return
        except ProjectPinned as error:
            message = str(error)
        except VersionConflict as error:
            raise NotAvailable(str(error)) from error
    with context.database.writing() as session:
        end(session, message)


def _prune(context: JobContext) -> None:
    try:
        service, settings = context.service, context.settings
        prune(service.versions, settings.versions_dir, context.key, settings.keep_versions)
    except RamError as error:  # the next training removes what is left over
        _log.warning("Old versions were not removed: %s", error)


def _result(
    corrections: ProjectCorrections, verdict: Verdict, inputs_digest: str = "", version: str | None = None
) -> JobResult:
    result = {
        "verdict": asdict(verdict),
        "version": version,
        "corrections": len(corrections.labels),
        "basis": inputs_digest,
        "notes": list(corrections.notes),
    }
    return JobResult(" ".join([verdict.reason, *corrections.notes]), result, corrections.last_event)


def _inputs_digest(
    corrections: ProjectCorrections, training_set: TrainingSet, scorer: Scorer, incumbent: Version | None
) -> str:
    """Digest of all that determines the verdict."""
    tuning = (scorer.settings.tuning, is_tuning_wanted(scorer.settings, len(training_set)))
    served = None if incumbent is None else incumbent.digest
    identity = (__version__, corrections.fingerprint.hash, tuning, scorer.bundle.digest, served)
    inputs_digest = hashlib.sha256(repr(identity).encode())
    for field in fields(training_set):
        value = getattr(training_set, field.name)
        if field.name not in ("tokens", "features", "embeddings"):
            inputs_digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return inputs_digest.hexdigest()


def _same_before(context: JobContext, inputs_digest: str) -> Verdict | None:
    """The verdict of an earlier job on the same inputs.

    An accepted one is not reused: its version is no longer served (damaged,
    rolled back), or never was (pinned).
    """
    for job in context.service.table.jobs(context.key, kind="train", limit=10):
        result = job.result or {}
        if job.state == "done" and result.get("basis") == inputs_digest:
            verdict = Verdict(**result["verdict"])
            reason = f"{SAME}{verdict.reason.removeprefix(SAME)}"
            return None if verdict.accepted else replace(verdict, reason=reason)
    return None
