"""Learning from a project's corrections: from what people said to a version that is served, or a reason why none is.

    reconcile -> gather -> images -> scores -> split -> fit -> gate -> write -> publish -> ask for a refresh

Publishing, noting the version and ending the job are one transaction, which goes through only while the job is this
process's and what is served is what the gate compared with.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import numpy as np
from sqlalchemy.orm import Session

from ram_backend import __version__
from ram_backend.errors import ProjectPinned, RamError, VersionConflict
from ram_backend.feedback.labels import to_matrix
from ram_backend.gate.folds import Split, split
from ram_backend.gate.judge import Verdict, judge_candidate, refuse_before_fitting
from ram_backend.gate.training_set import TrainingSet
from ram_backend.jobs.job import JobResult
from ram_backend.jobs.queue import finish_in
from ram_backend.models.network import load_network
from ram_backend.models.store import find_bundle
from ram_backend.settings import Settings
from ram_backend.training.selection import Candidate, fit_candidate
from ram_backend.versions.directory import StoredVersion, folder_of, remove_version, write_version
from ram_backend.versions.lineage import CorrectionsUsed, Lineage
from ram_backend.versions.table import Incumbent, incumbent_of, prune
from ram_backend.worker.project_context import Gathered, gather_corrections, open_place
from ram_backend.worker.run_job import JobContext
from ram_backend.worker.token_loader import CorrectedImages, EncodedImages
from ram_backend.worker.trainers import is_tuning_wanted, log_odds_of, off_target_scores_of, trainers_for
from ram_backend.worker.training_data import Scorer, material_of

CONFLICTS = 3
"""So often the gate compares again where something else was published meanwhile."""

NOTHING = "There are no corrections yet: label some tasks, then train."
SAME = "Nothing has changed since the last attempt. "
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """What one comparison is made with.

    Attributes:
        incumbent: what is served.
        material: scores of the incumbent included.
        parts: fit and gate.
        seed: of random numbers: the same corrections give the same candidate.
    """

    incumbent: Incumbent
    material: TrainingSet
    parts: Split
    seed: int


def train(context: JobContext) -> JobResult | None:
    """Does a training job.

    Raises:
        JobLost: it is another worker's by now.
        InputError, SettingsError: it can't succeed as things are set.
        NotAvailable: something is missing that may be there later.
    """
    settings, ledger, heartbeat = context.settings, context.service.ledger, context.heartbeat
    _sweep(context)
    place = open_place(settings, context.database, context.key)
    gathered = gather_corrections(settings, ledger, place, heartbeat)
    context.service.queue.note_seen(context.job, gathered.last_event)
    if not gathered.labels:
        return _without_version(gathered, Verdict("needs_data", NOTHING), "")
    heartbeat("load the model")
    bundle = find_bundle(settings.bundle, settings.bundles_dir)
    network = load_network(bundle, device=settings.device, precision=settings.precision, threads=settings.cpu_threads())
    corrected = CorrectedImages(settings, ledger, bundle=bundle, network=network, label_studio=place.label_studio)
    images = corrected.of(context.key, gathered.labels, heartbeat)
    if corrected.missing.note:
        gathered = replace(gathered, notes=(*gathered.notes, corrected.missing.note))
    scorer = Scorer(bundle, network, gathered.tags, settings)
    for _ in range(CONFLICTS):
        try:
            return _round(context, gathered, images, scorer)
        except VersionConflict as error:
            _log.info("%s", error)
    raise VersionConflict(
        f"Project {context.key} was served something else each of {CONFLICTS} times that the gate compared: train"
        " again."
    )


def _round(context: JobContext, gathered: Gathered, images: EncodedImages, scorer: Scorer) -> JobResult | None:
    """One comparison with what is served now.

    Raises:
        VersionConflict: something else was published meanwhile.
    """
    heartbeat, seed = context.heartbeat, int(gathered.fingerprint.hash[:8], 16)
    incumbent = incumbent_of(context.service.versions, context.settings.versions_dir, context.key, scorer.bundle)
    basis = _basis(context.settings, gathered, images, scorer, incumbent)
    earlier = _same_before(context, basis)
    if earlier is not None:
        return _without_version(gathered, earlier, basis)
    material = material_of(images, scorer, incumbent.version, heartbeat)
    heartbeat("split")
    parts = split(material, at_most=incumbent.version.lineage.gate_share if incumbent.version else None)
    refusal = refuse_before_fitting(material, parts, seed)
    if refusal is not None:
        return _without_version(gathered, refusal, basis)
    heartbeat("fit")
    fit = material.take(parts.fit)
    trainers = trainers_for(context.settings, scorer, fit, seed)
    fitted = fit_candidate(fit, parts.groups[parts.fit], trainers, seed=seed, progress=heartbeat)
    heartbeat("gate")
    verdict = judge_candidate(
        material,
        parts,
        log_odds_of(fitted, scorer, material, parts, lambda step, steps: heartbeat("gate", step, steps)),
        guard=off_target_scores_of(fitted, scorer, material, seed),
        cross_validated=fitted.cross_validated,
        seed=seed,
    )
    heartbeat("write")
    this = Round(incumbent, material, parts, seed)
    stored = _write(context, gathered, scorer, this, fitted, verdict)
    heartbeat("publish")
    return _settle(context, gathered, this, stored, verdict, basis)


def _write(
    context: JobContext, gathered: Gathered, scorer: Scorer, this: Round, fitted: Candidate, verdict: Verdict
) -> StoredVersion:
    key, versions = context.key, context.service.versions
    used = gathered.fingerprint
    parent = this.incumbent.version
    since = parent.lineage.corrections.seen if parent else 0
    changes = context.service.ledger.changes_since(key, since, up_to=gathered.last_event)
    figures = verdict.figures
    lineage = Lineage(
        parent=parent.name if parent else None,
        bundle=scorer.bundle.name,
        bundle_digest=scorer.bundle.digest,
        encoder_id=scorer.network.encoder_id,
        corrections=CorrectionsUsed(
            count=len(this.material),
            first_event=used.first_event,
            last_event=used.last_event,
            seen=gathered.last_event,
            hash=used.hash,
            withdrawn=(changes.edited + changes.withdrawn) if parent else 0,
            added=changes.added,
        ),
        recipe=fitted.recipe,
        params=fitted.params,
        seed=this.seed,
        metrics_before={"mAP": figures["map_incumbent"]} if "map_incumbent" in figures else {},
        metrics_after={"mAP": figures["map_candidate"]} if "map_candidate" in figures else {},
        gate_share=this.parts.share,
        code_version=__version__,
        created_at=datetime.now(UTC),
    )
    return write_version(
        context.settings.versions_dir,
        key,
        fitted.delta,
        fitted.files,
        lineage,
        asdict(verdict),
        first_number=versions.next_number(key),
    )


def _settle(
    context: JobContext, gathered: Gathered, this: Round, stored: StoredVersion, verdict: Verdict, basis: str
) -> JobResult | None:
    """Records the version and ends the job, and has the version served where the gate accepted it: all or nothing."""
    versions, job = context.service.versions, context.job
    served = replace(
        _outcome(gathered, f"{stored.name} is served. {verdict.reason}", verdict, basis, stored.name),
        refresh=f"{stored.name} is served",
    )
    kept = _outcome(gathered, f"{stored.name} is kept and not served. {verdict.reason}", verdict, basis, stored.name)

    def record_and_end(outcome: JobResult, session: Session) -> None:
        versions.record(stored, session=session)
        seconds = {**outcome.result, "seconds": context.heartbeat.seconds}
        finish_in(session, job, replace(outcome, result=seconds))

    if verdict.accepted:
        try:
            versions.publish(
                job.key,
                stored.name,
                expected=this.incumbent.served.version,
                in_transaction=lambda session: record_and_end(served, session),
            )
        except ProjectPinned as error:
            kept = replace(kept, message=f"{error} {verdict.reason}")
        else:
            _prune(context)
            return None
    with context.database.writing() as session:
        record_and_end(kept, session)
    _prune(context)
    return None


def _prune(context: JobContext) -> None:
    try:
        prune(context.service.versions, context.settings.versions_dir, context.key, context.settings.keep_versions)
    except RamError as error:  # the job is done: what is left over goes with the next one
        _log.warning("Old versions were not removed: %s", error)


def _sweep(context: JobContext) -> None:
    """Removes directories of versions that nobody knows: attempts that were killed between writing and publishing.

    Only who holds the claim writes versions of a project, and directories that an orphan still writes are no loss.
    """
    key, folder = context.key, context.settings.versions_dir
    known = {record.name for record in context.service.versions.list(key)}
    for path in (folder / folder_of(key)).glob("v*"):
        if path.name not in known:
            try:
                remove_version(folder, key, path.name)
            except RamError as error:
                _log.warning("%s", error)


def _without_version(gathered: Gathered, verdict: Verdict, basis: str) -> JobResult:
    return _outcome(gathered, verdict.reason, verdict, basis, None)


def _outcome(gathered: Gathered, message: str, verdict: Verdict, basis: str, version: str | None) -> JobResult:
    result = {
        "verdict": asdict(verdict),
        "version": version,
        "corrections": len(gathered.labels),
        "basis": basis,
        "notes": list(gathered.notes),
    }
    return JobResult(" ".join([message, *gathered.notes]), result, gathered.last_event)


def _basis(settings: Settings, gathered: Gathered, images: EncodedImages, scorer: Scorer, incumbent: Incumbent) -> str:
    """Digest of everything that the outcome follows from: the same basis, the same verdict."""
    version, subset = incumbent.version, scorer.subset
    labels, weights = to_matrix(images.labels, subset.names)
    ground_truth = np.array([each.ground_truth for each in images.labels], dtype=np.bool_)
    embeddings = [entry for entry in subset.entries if not isinstance(entry, int)]
    arrays = [labels, weights, ground_truth, images.phash, subset.thresholds, *embeddings]
    identity = [
        gathered.fingerprint.hash,
        settings.tuning,
        is_tuning_wanted(settings, len(images)),
        [*images.content],
        list(gathered.tags),
        [hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for array in arrays],
        subset.text_identity,
        scorer.bundle.digest,
        scorer.network.encoder_id,
        None if version is None else [version.digest, version.lineage.gate_share],
        __version__,
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _same_before(context: JobContext, basis: str) -> Verdict | None:
    """The verdict of an earlier job that had the very same to go by, and served nothing; None: there was none.

    What was accepted is made again: it isn't served any more (damaged, rolled back), or never was (pinned meanwhile).
    """
    for job in context.service.queue.jobs(context.key, kind="train", limit=10):
        result = job.result or {}
        if job.state == "done" and result.get("basis") == basis and isinstance(result.get("verdict"), Mapping):
            verdict = Verdict(**result["verdict"])
            if verdict.accepted:
                return None
            return replace(verdict, reason=f"{SAME}{verdict.reason.removeprefix(SAME)}")
    return None
