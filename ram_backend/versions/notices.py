"""Notices that what is served has changed, over Redis or Valkey: they only hasten what polling finds out anyway."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

CHANNEL = "ram:versions"
CONNECT_S = 1.0
_PAUSES_S = (0.5, 30.0)
_log = logging.getLogger(__name__)


def announce(redis_url: str | None, text: str = "changed") -> bool:
    """Tells all servers to look at the database now. True: the notice was sent; False: they find out by polling.

    Args:
        redis_url: None: there is none.
        text: what the notice says; nobody reads it.
    """
    if not redis_url:
        return False
    try:
        import redis

        with redis.Redis.from_url(redis_url, socket_connect_timeout=CONNECT_S, socket_timeout=CONNECT_S) as client:
            client.publish(CHANNEL, text)
    except Exception as error:  # whatever is wrong with it: nothing depends on it
        _log.info("No notice could be sent (%s): servers find out by themselves.", type(error).__name__)
        return False
    return True


class Listener:
    """Calls a function whenever a notice comes, from a thread of its own; reconnects for as long as it takes.

    Args:
        redis_url: where notices are sent.
        heard: called for each, and after each new connection, as something may have been missed; must not wait.
    """

    def __init__(self, redis_url: str, heard: Callable[[], None]) -> None:
        self._url = redis_url
        self._heard = heard
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="version-notices", daemon=True)

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stops listening, within about a second."""
        self._stop.set()
        self._thread.join(timeout=3)

    def _run(self) -> None:
        pause = _PAUSES_S[0]
        while not self._stop.is_set():
            try:
                self._listen()
                pause = _PAUSES_S[0]
            except Exception as error:
                _log.debug("Notices can't be heard (%s): polling goes on.", type(error).__name__)
                self._stop.wait(pause)
                pause = min(2 * pause, _PAUSES_S[1])

    def _listen(self) -> None:
        import redis

        with redis.Redis.from_url(self._url, socket_connect_timeout=CONNECT_S, health_check_interval=10) as client:
            hearing = client.pubsub(ignore_subscribe_messages=True)
            hearing.subscribe(CHANNEL)
            self._heard()
            while not self._stop.is_set():
                if hearing.get_message(timeout=1.0) is not None:
                    self._heard()
