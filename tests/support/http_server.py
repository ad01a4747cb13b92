"""HTTP servers on loopback addresses, which record their requests."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: tuple[str, int]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    raw: Callable[[BaseHTTPRequestHandler], None] | None = None
    """Writes the whole response itself."""
    cut: int | None = None
    """Bytes of the body after which the connection breaks."""


Route = Reply | Callable[[Request], Reply]


class HttpServer:
    """One server; `routes` maps paths (without query) to replies."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Route] = {}
        self.requests: list[Request] = []
        own = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                request = Request(self.command, self.path, dict(self.headers), body, self.client_address[:2])
                own.requests.append(request)
                reply = own.reply(request)
                if reply.raw is not None:
                    self.close_connection = True
                    with contextlib.suppress(OSError):  # the client has gone
                        reply.raw(self)
                    return
                self.send_response(reply.status)
                for name, value in ({"Content-Length": str(len(reply.body))} | reply.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body[: reply.cut])
                self.close_connection |= reply.cut is not None

            do_HEAD = do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, *_: Any) -> None:
                pass

        self.server = Server((host, port), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.host, self.port = host, self.server.server_address[1]
        self.url = f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def reply(self, request: Request) -> Reply:
        route = self.routes.get(request.path, Reply(404, b"not here"))
        return route(request) if callable(route) else route

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.requests]


def redirect(to: str, status: int = 302) -> Reply:
    return Reply(status, headers={"Location": to})


ODD_URLS = [
    "file:///etc/passwd", "ftp://example.com/a.jpg", "gopher://example.com/_x", "javascript:alert(1)",
    "//example.com/a.jpg", "a.jpg", "", "http://", "http:///a.jpg", "http://user:secret@example.com/a.jpg",
    "http://user@example.com/a.jpg", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/",
    "http://0x7f.1/", "http://127.0.0.1.2.3/", "http://127.0.0.01/", "http://exa mple.com/",
    "http://example.com\r\nX-Evil: 1/", "http://example.com/a\r\nX-Evil: 1", "http://example.com:99999/", "http://[::1/",
]  # fmt: skip
"""No addresses of images: another scheme, none, a login, numbers for hosts, line breaks."""
