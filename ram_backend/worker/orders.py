"""What a worker tells the process that is to do a job, and what that process then does."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from ram_backend.jobs.job import Kind
from ram_backend.jobs.processes import Worker
from ram_backend.settings import Settings
from ram_backend.worker.run_job import Function, carry_out

FUNCTIONS: dict[Kind, str] = {
    "train": "ram_backend.worker.train:train",
    "refresh": "ram_backend.worker.refresh:refresh",
    "prelabel": "ram_backend.worker.prelabel:prelabel",
}
"""Per kind of job where the function is that does it: imported in the process that does one, by nobody else."""

_ORPHANED = 70


@dataclass(frozen=True)
class Orders:
    """What a worker tells the process.

    Attributes:
        settings: of the worker, the queue's address included.
        functions: see `FUNCTIONS`.
        worker: number of the worker's process.
        name, job, execution: what RQ calls the worker, its job and this attempt.
        queue: the queue that the job was in.
    """

    settings: Settings
    functions: Mapping[Kind, str]
    worker: int
    name: str
    job: str
    execution: str
    queue: str

    def to_json(self) -> str:
        """As text."""
        fields = {name: getattr(self, name) for name in ("worker", "name", "job", "execution", "queue")}
        told = {"settings": self.settings.model_dump(mode="json"), "functions": dict(self.functions), **fields}
        return json.dumps(told)

    @classmethod
    def from_json(cls, text: str) -> Orders:
        """Reads it again."""
        told: dict[str, Any] = json.loads(text)
        return cls(**{**told, "settings": Settings(**told["settings"])})


_orders: ContextVar[Orders] = ContextVar("orders")


def accept(orders: Orders) -> None:
    """Makes these the orders of this process."""
    _orders.set(orders)


def run(job_id: str) -> str:
    """What RQ calls: does the job with the orders of this process."""
    from ram_backend.database.engine import open_database
    from ram_backend.jobs.dispatch import Post, put_all_due
    from ram_backend.jobs.table import JobTable

    orders = _orders.get()
    settings, parent = orders.settings, orders.worker
    database = open_database(settings)  # the worker has seen to its migrations
    functions = {kind: cast(Function, _Late(path)) for kind, path in orders.functions.items()}
    try:
        said = carry_out(
            settings,
            database,
            job_id,
            functions,
            worker=Worker.of(parent, os.getpid()),
            is_orphan=lambda: os.getppid() != parent,
            on_lost=lambda reason: os._exit(_ORPHANED),
            limit_s=settings.job_timeout_seconds,
        )
        put_all_due(JobTable(database), Post(settings.redis_url or ""))
        return said
    finally:
        database.close()


class _Late:
    """A function that is imported when it is called."""

    def __init__(self, path: str) -> None:
        self._module, _, self._name = path.partition(":")

    def __call__(self, task: Any) -> Any:
        return getattr(import_module(self._module), self._name)(task)
