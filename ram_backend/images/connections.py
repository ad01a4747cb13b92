"""Connections where the guard allows (against DNS rebinding), that end on time.

The host is resolved once, each of its addresses is checked, and the connection
goes to one of those very addresses. Host header, SNI and certificate check keep
the name. Proxies, netrc and cookies play no part here.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from ram_backend.images.guard import AddressGuard, Origin

_MOST_HOSTS = 64
_MOST_ADDRESSES = 4

_running = threading.local()


class Deadline:
    """Time limit for all that this thread does on a connection, byte by byte or not.

    A timeout of a socket begins anew with every byte, so the socket itself is
    shut down.
    """

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(max(seconds, 0.001), self._shut_down)
        self._timer.daemon = True

    @staticmethod
    def current() -> Deadline:
        """The one that this thread is within."""
        return _running.deadline

    @property
    def remaining(self) -> float:
        """Seconds left, at least a millisecond: 0 would mean "no timeout"."""
        return max(self._ends - time.monotonic(), 0.001)

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._ends

    def __enter__(self) -> Deadline:
        _running.deadline = self
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.watch(None)
        del _running.deadline

    def watch(self, used: socket.socket | None) -> None:
        """Names the socket to shut down when the time is up."""
        with self._lock:
            self._socket = used
        if self.expired:
            self._shut_down()

    def _shut_down(self) -> None:
        with self._lock:
            if self._socket is not None:
                with contextlib.suppress(OSError):  # closed meanwhile
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def guarded_pools(guard: AddressGuard, *, connections: int) -> PoolManager:
    """Pools of guarded connections, of which `connections` stay open per host."""
    pools = PoolManager(num_pools=_MOST_HOSTS, maxsize=connections, block=False)
    pools.pool_classes_by_scheme = {
        "http": partial(_HTTPPool, guard=guard),  # type: ignore[dict-item]
        "https": partial(_HTTPSPool, guard=guard),  # type: ignore[dict-item]
    }
    return pools


def _connect(connection: HTTPConnection, scheme: str, guard: AddressGuard) -> socket.socket:
    """A socket to the first address of the host that answers; all must be allowed.

    The connection's timeout is for the DNS look-up and all attempts together,
    in equal shares.

    Raises:
        ImageRefused: the host resolves to an address that is not allowed.
    """
    host, port = connection.host, connection.port
    assert isinstance(connection.timeout, int | float)  # every request sets one
    ends = time.monotonic() + connection.timeout
    try:
        found = _looked_up(host, port, connection.timeout)
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, "the name was not resolved in time") from error
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    addresses = list(dict.fromkeys(str(where[0]) for *_, where in found))
    for address in addresses:
        guard.check(Origin(scheme, host, port), address)
    failure: OSError = OSError("no addresses")
    attempts = addresses[:_MOST_ADDRESSES]
    for tried, address in enumerate(attempts):
        share = max(ends - time.monotonic(), 0.001) / (len(attempts) - tried)
        try:
            return create_connection((address, port), share, socket_options=connection.socket_options)
        except OSError as error:
            failure = error
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, "timed out") from failure
    raise NewConnectionError(connection, str(failure)) from failure


def _looked_up(host: str, port: int, seconds: float) -> list[Any]:
    """`getaddrinfo` with a timeout, in a thread that may be left behind.

    Raises:
        TimeoutError: no answer in time.
        OSError: of `getaddrinfo`; also for a name that no resolver can be asked
            for.
    """
    answer: Future[list[Any]] = Future()

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except UnicodeError as error:
            answer.set_exception(socket.gaierror(socket.EAI_NONAME, str(error)))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    return answer.result(timeout=seconds)


class _Guarded(HTTPConnection):
    scheme = "http"

    def __init__(self, *args: Any, guard: AddressGuard, **options: Any) -> None:
        super().__init__(*args, **options)
        self._guard = guard

    def _new_conn(self) -> socket.socket:
        return _connect(self, self.scheme, self._guard)

    def request(self, *args: Any, **options: Any) -> None:
        super().request(*args, **options)
        Deadline.current().watch(self.sock)


class _GuardedTLS(_Guarded, HTTPSConnection):
    scheme = "https"


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _Guarded


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTLS
