"""Jobs in either kind of database, as for the rows alone, and the real training job with a tiny network."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jobs.conftest import database, queue
from support.jobs import KEY, make_due
from support.processes import processes, wait_until
from support.tiny_model import ROLLED, ColourNetwork, RolledNetwork, tiny_bundle

from ram_backend.database.engine import Database
from ram_backend.jobs.job import Job, JobOptions
from ram_backend.jobs.table import JobTable
from ram_backend.jobs.valkey import running_urls
from ram_backend.settings import Settings
from ram_backend.worker import train as training
from ram_backend.worker import training_set
from ram_backend.worker.run_job import claim_and_run

__all__ = ["database", "queue"]


@pytest.fixture
def nothing_left(settings: Settings) -> Iterator[None]:
    """In the end, neither a queue nor any process of a job runs."""
    yield
    wait_until(lambda: not processes("worker.working import do_job"))
    wait_until(lambda: running_urls(settings) == [])


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> ColourNetwork:
    """Its feature is the mean colour; its tags have no texts."""
    network = ColourNetwork()
    rolled = RolledNetwork()
    monkeypatch.setattr(training, "find_bundle", lambda name, *_: tiny_bundle(*[name] * (name == ROLLED)))
    monkeypatch.setattr(training, "load_network", lambda bundle, **_: rolled if bundle.name == ROLLED else network)
    monkeypatch.setattr(training_set, "tag_embeddings", lambda *_: None)
    return network


@pytest.fixture
def train(settings: Settings, database: Database, queue: JobTable, network: ColourNetwork) -> Callable[..., Job]:
    """Requests a training and does it, with changed settings."""

    def trained(bundle: str | None = None, **changes: Any) -> Job:
        job = queue.request(KEY, "train", "asked", JobOptions(bundle=bundle)).job
        make_due(database, job.id)
        claim_and_run(settings.model_copy(update={"tuning": "off", **changes}), database, job.id)
        return queue.get(job.id) or job

    return trained
