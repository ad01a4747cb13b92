"""The row of a job, its states, options and result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import JSON, BigInteger, CheckConstraint, Index, Integer, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from ram_backend.database.base import Base, UtcDateTime
from ram_backend.projects.rows import OfProject

Kind = Literal["train", "refresh", "prelabel"]
State = Literal["requested", "running", "done", "failed"]
"""A claim takes a job from "requested" to "running"; from there it ends, or waits for another claim."""
Which = Literal["all", "unlabelled", "retry-failed"]

QUEUES: dict[Kind, str] = {"refresh": "ram-refresh", "train": "ram-train", "prelabel": "ram-prelabel"}
"""Names of the RQ queues; a worker looks into the first one first."""

OPEN: tuple[State, ...] = ("requested", "running")
WHICH: tuple[Which, ...] = get_args(Which)

_IS_OPEN = text("state IN ('requested', 'running')")


class Job(OfProject, Base):
    """One thing that is to be done for a project, is being done, or was done. Detached: it doesn't change any more.

    Attributes:
        id: 32 hex digits, at random.
        kind: "train": learn from the corrections; "refresh": push fresh predictions after a swap; "prelabel": push
            predictions of what is served for many tasks.
        state: "requested" (waits for a worker), "running", "done" (whatever the verdict) or "failed".
        reason: why it was asked for, in a few words.
        again: why it was asked for once more while it was running: its end asks for another one. None: it was not.
        requested_at, started_at, heartbeat_at, finished_at: in the database's time, UTC.
        not_before: earliest start: debounce, or backoff after a failed attempt. While it runs: the earliest start of
            the job that `again` asks for.
        fence: fencing number: grows with each claim; what is written under an earlier number is refused.
        attempt: how often it was begun.
        worker: host and process number of who runs or ran it; for people.
        stage, step, steps: what is being done, and how far it is; `steps` is 0 where nobody can say.
        message: one line for people: what came of it, or why it waits.
        result: what came of it, as the kind says; None: nothing yet.
        last_event: number of the last event in the ledger that it has seen; None: it has seen none.
        options: `PrelabelOptions` as JSON; None: there is only one thing to want.
        kept: what an attempt left for the next one, as the kind says; None: nothing.
        request: id of the HTTP request that asked for it first, as the server's log has it; None: none did.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('requested', 'running', 'done', 'failed')", name="known_state"),
        Index(
            *("uq_jobs_open", "kind", "instance", "project_id", "created"),
            unique=True,
            sqlite_where=_IS_OPEN,
            postgresql_where=_IS_OPEN,
        ),
        Index("ix_jobs_project", "project_id", "created", "kind", "requested_at"),
        Index("ix_jobs_state", "state"),
    )

    id: Mapped[str] = mapped_column("job_id", Text, primary_key=True)
    kind: Mapped[Kind] = mapped_column(Text)
    state: Mapped[State] = mapped_column(Text, default="requested")
    reason: Mapped[str] = mapped_column(Text)
    again: Mapped[str | None] = mapped_column(Text)
    requested_at: Mapped[datetime] = mapped_column(UtcDateTime)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    worker: Mapped[str | None] = mapped_column(Text)
    stage: Mapped[str | None] = mapped_column(Text)
    step: Mapped[int] = mapped_column(Integer, default=0)
    steps: Mapped[int] = mapped_column(Integer, default=0)
    message: Mapped[str] = mapped_column(Text, default="")
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    last_event: Mapped[int | None] = mapped_column(BigInteger)
    options: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    kept: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    request: Mapped[str | None] = mapped_column(Text)

    @property
    def is_open(self) -> bool:
        """Whether it is still to be done."""
        return self.state in OPEN

    @property
    def verdict(self) -> str | None:
        """What the gate said of a training's candidate: "accept", "reject", "needs_data"; None: nothing yet."""
        outcome: str | None = (self.result or {}).get("verdict", {}).get("outcome")
        return outcome

    def to_json(self) -> dict[str, Any]:
        """As `GET /jobs` and `ram-backend jobs --json` show it."""
        moments = {name: getattr(self, name) for name in ("requested_at", "started_at", "finished_at")}
        plain = ("kind", "state", "reason", "request", "attempt", "stage", "step", "steps", "message", "result")
        return {
            "job": self.id,
            "project": str(self.key),
            **{name: getattr(self, name) for name in plain},
            **{name: at and at.isoformat(timespec="milliseconds") for name, at in moments.items()},
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class JobResult:
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


@dataclass(frozen=True)
class PrelabelOptions:
    """Tasks that are to have a prediction of what is served.

    Attributes:
        which: kinds of tasks: "all", "unlabelled" (without annotation), "retry-failed" (whose prediction is empty
            because their image could not be had, and unlabelled ones without any).
        tasks: numbers of further tasks; made distinct, and sorted.
        per_second: highest rate of tasks; None: as fast as it goes.
    """

    which: tuple[Which, ...] = ()
    tasks: tuple[int, ...] = ()
    per_second: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "which", tuple(each for each in WHICH if each in self.which))
        object.__setattr__(self, "tasks", tuple(sorted(set(self.tasks))))

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> PrelabelOptions:
        """Those of a job's row."""
        return cls(**(options or {}))

    def also(self, other: PrelabelOptions) -> PrelabelOptions:
        """Both; the other one's speed, where it names one."""
        return PrelabelOptions(self.which + other.which, self.tasks + other.tasks, other.per_second or self.per_second)

    def to_json(self) -> dict[str, Any]:
        """For the job's row."""
        return asdict(self)
