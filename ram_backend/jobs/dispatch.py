"""Telling workers that a job waits: RQ carries numbers of jobs and nothing else.

A job may be in the queue twice, or not at all: the worker that claims its row does it, and any other finds nothing to
do. So retries and their waiting are the rows' as well: they survive the queue.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ram_backend.errors import DatabaseUnavailable, ValkeyUnavailable
from ram_backend.jobs.job import Kind
from ram_backend.jobs.table import Due, JobTable

if TYPE_CHECKING:
    from redis import Redis

QUEUES: dict[Kind, str] = {"refresh": "ram-refresh", "train": "ram-train", "prelabel": "ram-prelabel"}
"""Names of the queues; a worker looks into the first one first."""

FUNCTION = "ram_backend.worker.orders.run"
TOO_LONG_S = 5.0
"""A job that isn't in the queue so long after it was put there has got lost, unless it was claimed."""

_ANSWER_S = 2.0
_KEPT_S = 3600


class Post:
    """Puts jobs into the queue.

    Args:
        url: of Redis or Valkey.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Redis | None = None

    def put(self, job_id: str, kind: Kind, number: str) -> None:
        """Puts a job into its queue.

        Args:
            job_id: which job.
            kind: of it.
            number: its number in the queue, another one each time.

        Raises:
            ValkeyUnavailable: it doesn't answer.
        """
        from redis.exceptions import RedisError
        from rq import Queue
        from rq.serializers import JSONSerializer

        try:
            Queue(QUEUES[kind], connection=self._connected(), serializer=JSONSerializer).enqueue_call(
                FUNCTION,
                args=(job_id,),
                timeout=-1,  # each worker has a limit of its own
                result_ttl=_KEPT_S,
                failure_ttl=_KEPT_S,
                job_id=number,
                description=f"{kind} {job_id}",
            )
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error

    def has(self, number: str, kind: Kind) -> bool:
        """Whether it waits in its queue under that number.

        Raises:
            ValkeyUnavailable: it doesn't answer.
        """
        from redis.exceptions import RedisError

        try:
            return self._connected().lpos(f"rq:queue:{QUEUES[kind]}", number) is not None
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error

    def put_due(self, table: JobTable, due: Iterable[Due], *, patience_s: float = TOO_LONG_S) -> int:
        """Puts those jobs into the queue that are not in it; says how many.

        Args:
            table: notes it.
            due: jobs that wait.
            patience_s: what was put there this long ago, or less, is taken to be on its way.

        Raises:
            ValkeyUnavailable: it doesn't answer.
            DatabaseUnavailable: see the message.
        """
        count = 0
        for each in due:
            if each.queued_as is not None and (each.waited_s < patience_s or self.has(each.queued_as, each.kind)):
                continue
            number = str(uuid.uuid4())
            if not table.note_queued(each, number):
                continue  # somebody else is putting it there
            try:
                self.put(each.job_id, each.kind, number)
            except ValkeyUnavailable:
                table.note_queued(replace(each, queued_as=number), None)
                raise
            count += 1
        return count

    def _connected(self) -> Redis:
        if self._connection is None:
            self._connection = connect(self._url, _ANSWER_S)
        return self._connection

    def _unavailable(self, error: Exception) -> ValkeyUnavailable:
        return ValkeyUnavailable(
            f"The queue of jobs doesn't answer ({type(error).__name__}): jobs wait in the database. See that the server"
            " of RAM_REDIS_URL runs, or unset that."
        )


def connect(url: str, answer_s: float | None) -> Redis:
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

    from ram_backend.errors import SettingsError

    try:
        once = Retry(NoBackoff(), 0)
        return Redis.from_url(url, socket_timeout=answer_s, socket_connect_timeout=_ANSWER_S, retry=once)
    except ValueError:
        raise SettingsError("RAM_REDIS_URL is no address: use redis://HOST:PORT/0, rediss:// or unix://FILE.") from None


def put_all_due(table: JobTable, post: Post) -> bool:
    """Puts what is due into the queue, if database and queue answer; False: it waits for a worker to look."""
    try:
        post.put_due(table, table.due())
    except (ValkeyUnavailable, DatabaseUnavailable):
        return False
    return True
