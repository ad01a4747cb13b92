"""ORM model of jobs: states, fencing token, options, result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import CheckConstraint, Index, Integer, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from ram_backend.database.engine import Base
from ram_backend.projects.table import OfProject

JobKind = Literal["refresh", "reconcile", "train", "prelabel", "engine", "finetune"]
JobState = Literal["requested", "running", "done", "failed"]
"""A claimed job is "running"; from there it ends, or waits for another claim."""
Which = Literal["all", "unlabelled", "retry-failed"]

QUEUES: dict[JobKind, str] = {kind: f"ram-{kind}" for kind in get_args(JobKind)}
"""Names of the RQ queues; a worker looks into the first one first."""

OPEN: tuple[JobState, ...] = ("requested", "running")

_IS_OPEN = text("state IN ('requested', 'running')")


class Job(OfProject, Base):
    """Work for a project, by the database's clock.

    Attributes:
        kind: "train": learn from the corrections; "refresh": have Label Studio
            retrieve fresh predictions after a swap; "reconcile": compare the
            ledger with it; "prelabel": have it retrieve predictions of what is
            served for many tasks; "engine": look for wrong and missing labels;
            "finetune": make a bundle of the corrections.
        share: number of this job among those that share the work of a kind.
        state: "done" whatever the verdict.
        rerun_reason: of a request that came while it ran: its end makes a job.
        not_before: earliest start: debounce, or backoff after a failed attempt;
            while it runs, that of the rerun.
        fence: fencing number: grows with each claim; what is written under an
            earlier number is refused.
        attempt: number of claims so far.
        worker: host and process number, for people.
        steps: 0 where nobody can say.
        message: one line for people: the result, or why it waits.
        last_event: number of the ledger's last event that it has seen.
        options: `JobOptions` as JSON; None: the kind has none.
        checkpoint: of an attempt, for the next one.
        request_id: of the first HTTP request for it, as in the server's log.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('requested', 'running', 'done', 'failed')", name="known_state"),
        Index(
            *("uq_jobs_open", "kind", "instance", "project_id", "created", "share"),
            unique=True,
            sqlite_where=_IS_OPEN,
            postgresql_where=_IS_OPEN,
        ),
        Index("ix_jobs_project", "project_id", "created", "kind", "requested_at"),
        Index("ix_jobs_state", "state"),
    )

    id: Mapped[str] = mapped_column("job_id", primary_key=True)
    kind: Mapped[JobKind] = mapped_column(Text)
    state: Mapped[JobState] = mapped_column(Text, default="requested")
    share: Mapped[int] = mapped_column(Integer, default=0)
    reason: Mapped[str]
    rerun_reason: Mapped[str | None] = mapped_column("again")
    requested_at: Mapped[datetime]
    not_before: Mapped[datetime]
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    fence: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    worker: Mapped[str | None]
    stage: Mapped[str | None]
    step: Mapped[int] = mapped_column(Integer, default=0)
    steps: Mapped[int] = mapped_column(Integer, default=0)
    message: Mapped[str] = mapped_column(default="")
    result: Mapped[dict[str, Any] | None]
    last_event: Mapped[int | None]
    options: Mapped[dict[str, Any] | None]
    checkpoint: Mapped[dict[str, Any] | None] = mapped_column("kept")
    request_id: Mapped[str | None] = mapped_column("request")

    @property
    def short(self) -> str:
        """The beginning of its id, which people read."""
        return self.id[:8]

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in OPEN

    @property
    def verdict(self) -> str | None:
        """Of the gate: "accept", "reject", "needs_data"; None: none yet."""
        outcome: str | None = (self.result or {}).get("verdict", {}).get("outcome")
        return outcome

    def to_json(self) -> dict[str, Any]:
        """As `GET /jobs` and `ram-backend jobs --json` show it."""
        moments = {name: getattr(self, name) for name in ("requested_at", "started_at", "finished_at")}
        plain = ("kind", "state", "reason", "attempt", "stage", "step", "steps", "message", "result")
        return {
            "job": self.id,
            "project": str(self.key),
            "request": self.request_id,
            **{name: getattr(self, name) for name in plain},
            **{name: at and at.isoformat(timespec="milliseconds") for name, at in moments.items()},
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class JobResult:
    """Result of a job, for its row; `refresh`: why to renew the predictions now."""

    message: str
    result: Mapping[str, Any] = field(default_factory=dict)
    last_event: int | None = None
    refresh: str | None = None


@dataclass(frozen=True)
class JobOptions:
    """What is asked for: tasks to pre-label, or a bundle to train.

    Attributes:
        which: "all", "unlabelled" (without annotation), "retry-failed" (whose
            prediction is empty because their image was unavailable, and
            unlabelled ones without any).
        tasks: numbers of further tasks; made distinct, and sorted.
        per_second: highest rate of tasks; None: no limit.
        bundle: name of the bundle to change to, if the gate finds it better;
            None: the one that is served. Of a fine-tuning: its base.
        finetuning: of a fine-tuning, what `finetuning.run.make_bundle` wants.
    """

    which: tuple[Which, ...] = ()
    tasks: tuple[int, ...] = ()
    per_second: float | None = None
    bundle: str | None = None
    finetuning: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "which", tuple(each for each in get_args(Which) if each in self.which))
        object.__setattr__(self, "tasks", tuple(sorted(set(self.tasks))))

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> JobOptions:
        """Those of a job's row."""
        return cls(**(options or {}))

    def __or__(self, other: JobOptions) -> JobOptions:
        """Both; the other one's rate, bundle and fine-tuning, where it has one."""
        which, tasks = self.which + other.which, self.tasks + other.tasks
        rate, bundle = other.per_second or self.per_second, other.bundle or self.bundle
        return JobOptions(which, tasks, rate, bundle, other.finetuning or self.finetuning)
