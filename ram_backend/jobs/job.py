"""A job as everybody reads it, a claim on one, and how far it is: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ram_backend.projects.keys import ProjectKey

Kind = Literal["train", "refresh", "prelabel"]
State = Literal["requested", "running", "done", "failed"]


@dataclass(frozen=True)
class Job:
    """One thing that is to be done for a project, is being done, or was done.

    Attributes:
        id: 32 hex digits, at random.
        kind: "train": learn from the corrections; "refresh": push fresh predictions after a swap; "prelabel": push
            predictions of what is served for many tasks.
        key: of which project.
        state: "requested" (waits for a worker), "running", "done" (whatever the verdict) or "failed".
        reason: why it was asked for, in a few words.
        again: why it was asked for once more while it was running; None: it was not.
        requested_at, not_before, started_at, heartbeat_at, finished_at: in the database's time, UTC.
        fence: grows with each claim; what is written for an earlier claim is refused.
        attempt: how often it was begun.
        worker: who holds or held it (see `processes.Worker`).
        stage, step, steps: what is being done, and how far it is; `steps` is 0 where nobody can say.
        eta_s: seconds that it will probably still take; None: nobody can say.
        message: one line for people: what came of it, or why it waits.
        result: what came of it, as the kind says; None: nothing yet.
        last_event: number of the last event in the ledger that it has seen; None: it has seen none.
        options: what exactly is wanted, as the kind says; None: there is only one thing to want.
        kept: what an attempt left for the next one, as the kind says; None: nothing.
        request: id of the HTTP request that asked for it first, as the server's log has it; None: none did.
    """

    id: str
    kind: Kind
    key: ProjectKey
    state: State
    reason: str
    again: str | None
    requested_at: datetime
    not_before: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    finished_at: datetime | None
    fence: int
    attempt: int
    worker: str | None
    stage: str | None
    step: int
    steps: int
    eta_s: float | None
    message: str
    result: Mapping[str, Any] | None = field(repr=False)
    last_event: int | None
    options: Mapping[str, Any] | None = field(default=None, repr=False)
    kept: Mapping[str, Any] | None = field(default=None, repr=False)
    request: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is still to be done."""
        return self.state in ("requested", "running")

    @property
    def verdict(self) -> str | None:
        """What the gate said of a training job's candidate: "accept", "reject", "needs_data"; None: nothing yet."""
        verdict = (self.result or {}).get("verdict")
        return str(verdict["outcome"]) if isinstance(verdict, Mapping) and "outcome" in verdict else None

    def to_json(self) -> dict[str, Any]:
        """As `GET /jobs` and `ram-backend jobs --json` show it."""

        def moment(value: datetime | None) -> str | None:
            return None if value is None else value.isoformat(timespec="milliseconds")

        return {
            "job": self.id,
            "kind": self.kind,
            "project": str(self.key),
            "state": self.state,
            "reason": self.reason,
            "request": self.request,
            "requested_at": moment(self.requested_at),
            "started_at": moment(self.started_at),
            "finished_at": moment(self.finished_at),
            "attempt": self.attempt,
            "stage": self.stage,
            "step": self.step,
            "steps": self.steps,
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
            "message": self.message,
            "verdict": self.verdict,
            "result": None if self.result is None else dict(self.result),
        }


@dataclass(frozen=True)
class Claim:
    """The right to do a job: good while no later claim on it exists and the job is running."""

    job: Job
    fence: int

    @property
    def key(self) -> ProjectKey:
        """Of which project the job is."""
        return self.job.key


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        stage: what is being done, in a word or two.
        step, steps: of the stage; `steps` is 0 where nobody can say.
        eta_s: seconds that the whole job will probably still take; None: nobody can say.
    """

    stage: str
    step: int = 0
    steps: int = 0
    eta_s: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a job that was carried out.

    Attributes:
        message: one line for people.
        result: JSON.
        last_event: of the ledger, that the job has seen; None where the ledger doesn't matter.
        refresh: why fresh predictions are to be pushed now; None: there is no reason.
    """

    message: str
    result: Mapping[str, Any] = field(default_factory=dict)
    last_event: int | None = None
    refresh: str | None = None
