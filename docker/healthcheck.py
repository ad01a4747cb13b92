"""Health of this container: exit status 0, or 1 and the reason on one line.

server: /ready of the server in this container, with its login. Not ready: no model yet, or a bundle that is missing.
worker: whether a worker of this container is registered at the queue.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

TIMEOUT_S = 4


def server() -> str | None:
    """What is wrong with the server; None: nothing."""
    request = Request(f"http://127.0.0.1:{os.environ.get('RAM_PORT') or 9090}/ready")
    user, password = (os.environ.get(f"RAM_BASIC_AUTH_{name}") for name in ("USER", "PASS"))
    if user and password:
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=TIMEOUT_S) as answer:
            found = json.load(answer)
    except HTTPError as error:
        with error:
            found = json.load(error)
    return None if found.get("status") == "ready" else found.get("error") or f"the model is {found.get('status')}"


def worker() -> str | None:
    """What is wrong with the worker; None: nothing."""
    from redis import Redis
    from rq import Worker

    with Redis.from_url(
        os.environ["RAM_REDIS_URL"], socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
    ) as queue:
        hosts = {each.hostname for each in Worker.all(connection=queue)}
    here = socket.gethostname()
    return None if here in hosts else f"no worker of {here} is registered; its log tells why"


def main() -> None:
    """Runs the check that the first argument names."""
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
