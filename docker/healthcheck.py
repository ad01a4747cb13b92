"""Says whether this container is well: exit status 0, or 1 and why.

server: asks the server in this container for /health.
worker: asks the queue whether a worker of this container is signed on there.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from urllib.request import ProxyHandler, build_opener

TIMEOUT_S = 4


def server() -> str | None:
    """What is wrong with the server; None: nothing."""
    url = f"http://127.0.0.1:{os.environ.get('RAM_PORT') or 9090}/health"
    with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT_S) as answer:
        status = json.load(answer).get("status")
    return None if status == "UP" else f"{url} says {status!r}"


def worker() -> str | None:
    """What is wrong with the worker; None: nothing."""
    from redis import Redis
    from rq import Worker

    with Redis.from_url(
        os.environ["RAM_REDIS_URL"], socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
    ) as queue:
        hosts = {each.hostname for each in Worker.all(connection=queue)}
    here = socket.gethostname()
    return None if here in hosts else f"no worker of {here} is signed on"


def main() -> None:
    """Does what the first argument says."""
    checks = {"server": server, "worker": worker}
    name = sys.argv[1] if len(sys.argv) > 1 else "server"
    try:
        problem = checks[name]() if name in checks else f"{name!r} is none of {', '.join(checks)}"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        sys.exit(f"{name}: {problem}")


if __name__ == "__main__":
    main()
