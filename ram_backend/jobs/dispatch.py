"""RQ queues: workers are sent the ids of jobs that are due, and nothing else.

An id may be in a queue twice, or be lost with it: the worker that claims the row does the job, any other finds nothing
to do, and what was sent and isn't claimed is sent again. So retries and debounce live in the rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import TYPE_CHECKING

from ram_backend.errors import SettingsError, ValkeyUnavailable
from ram_backend.jobs.job import Job, Kind

if TYPE_CHECKING:
    from redis import Redis

QUEUES: dict[Kind, str] = {"refresh": "ram-refresh", "train": "ram-train", "prelabel": "ram-prelabel"}
"""Names of the queues; a worker looks into the first one first."""

FUNCTION = "ram_backend.worker.run_job.run_job"
ANSWER_S = 2.0
"""A server that doesn't answer within that time counts as away."""

_KEPT_S = 3600


def dispatch(connection: Redis, jobs: Iterable[Job], again_s: float) -> int:
    """Puts jobs into their queues; says how many.

    That a job was sent is noted beside the queues, so that a server that loses its memory forgets both.

    Args:
        connection: to Redis or Valkey.
        jobs: that are due.
        again_s: what was sent so long ago and isn't in its queue any more is sent again.

    Raises:
        ValkeyUnavailable: it doesn't answer.
    """
    from redis.exceptions import RedisError
    from rq import Queue
    from rq.serializers import JSONSerializer

    count = 0
    try:
        for job in jobs:
            number = f"{job.id}-{job.fence}"
            if not connection.set(f"ram:sent:{number}", 1, nx=True, ex=ceil(again_s)):
                continue
            queue = Queue(QUEUES[job.kind], connection=connection, serializer=JSONSerializer)
            if queue.get_job_position(number) is not None:
                continue
            queue.enqueue_call(
                FUNCTION,
                args=(job.id,),
                timeout=-1,  # each worker has a limit of its own
                result_ttl=_KEPT_S,
                failure_ttl=_KEPT_S,
                job_id=number,
                description=f"{job.kind} {job.id}",
            )
            count += 1
    except (RedisError, OSError) as error:
        raise ValkeyUnavailable(
            f"The queue of jobs doesn't answer ({type(error).__name__}): jobs wait in the database. See that the server"
            " of RAM_REDIS_URL runs, or unset that."
        ) from error
    return count


def connect(url: str, answer_s: float | None = ANSWER_S) -> Redis:
    """A connection that fails at once where nobody answers.

    Args:
        url: of Redis or Valkey.
        answer_s: how long an answer may take; None: for ever, as a worker needs it that waits for jobs.

    Raises:
        SettingsError: the URL can't be used.
    """
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        once = Retry(NoBackoff(), 0)
        return Redis.from_url(url, socket_timeout=answer_s, socket_connect_timeout=ANSWER_S, retry=once)
    except ValueError:
        raise SettingsError("RAM_REDIS_URL is no address: use redis://HOST:PORT/0, rediss:// or unix://FILE.") from None
