"""Fetching from real servers on loopback addresses; what is not allowed by name stands for an internal service."""

import base64
import gzip
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from images.fetching import QUERY, SECRET, fetcher, resolve
from support.http_server import HttpServer, Reply, Request, redirect
from support.processes import wait_until

from ram_backend.errors import ImageTooLarge, ImageUnreachable, ImageUnreadable
from ram_backend.images.fetch import Fetcher


def test_bytes_arrive_as_they_are(web: HttpServer) -> None:
    content = bytes(range(256)) * 1000
    web.routes["/%C3%A4%20b.jpg"] = Reply(body=content)
    assert fetcher(web.url).get(f"{web.url}/ä b.jpg{QUERY}") == content
    assert web.targets == [f"/%C3%A4%20b.jpg{QUERY}"]


def test_a_connection_that_the_server_closed_meanwhile_costs_nothing(web: HttpServer) -> None:
    def then_close(handler: BaseHTTPRequestHandler) -> None:  # without saying so
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

    web.routes["/a"] = Reply(raw=then_close)
    one = fetcher(web.url)
    assert [one.get(f"{web.url}/a") for _ in range(5)] == [b"x"] * 5


def test_gzip_that_nobody_asked_for_is_undone_within_the_limit(web: HttpServer) -> None:
    web.routes["/small"] = Reply(body=gzip.compress(b"x" * 1000), headers={"Content-Encoding": "gzip"})
    web.routes["/bomb"] = Reply(body=gzip.compress(b"\0" * 50_000_000), headers={"Content-Encoding": "gzip"})
    web.routes["/bad"] = Reply(body=b"no gzip", headers={"Content-Encoding": "gzip"})
    one = fetcher(web.url, max_bytes=100_000)
    assert one.get(f"{web.url}/small") == b"x" * 1000
    with pytest.raises(ImageTooLarge):
        one.get(f"{web.url}/bomb")
    with pytest.raises(ImageUnreadable, match="encoding"):
        one.get(f"{web.url}/bad")


def test_more_bytes_than_allowed(web: HttpServer) -> None:
    web.routes["/exact"] = Reply(body=b"x" * 1000)
    web.routes["/announced"] = Reply(body=b"x" * 1001)
    sent = threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        finally:
            sent.set()

    def only_announced(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")
        sent.wait(5)

    web.routes["/endless"] = Reply(raw=endless)
    web.routes["/only-announced"] = Reply(raw=only_announced)
    one = fetcher(web.url, max_bytes=1000, seconds=2)
    assert len(one.get(f"{web.url}/exact")) == 1000
    for path in ("/announced", "/only-announced", "/endless"):
        with pytest.raises(ImageTooLarge, match=r"1,000 bytes allowed.*RAM_MAX_IMAGE_BYTES"):
            one.get(web.url + path + QUERY)
    assert sent.wait(5)  # the connection was closed


@pytest.mark.parametrize(
    ("before", "each"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b""),
    ],
    ids=["length", "close", "chunked", "header", "silence"],
)
def test_a_server_that_drips_does_not_hold_a_thread(web: HttpServer, before: bytes, each: bytes) -> None:
    finished = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(before)
        for _ in range(200):
            handler.wfile.write(each)
            time.sleep(0.05)
        finished.set()

    web.routes["/slow"], web.routes["/fast"] = Reply(raw=drip), Reply(body=b"x")
    one = fetcher(web.url, seconds=0.3)
    with pytest.raises(ImageUnreachable, match="in time") as caught:
        one.get(f"{web.url}/slow{QUERY}")
    assert not finished.is_set()
    assert SECRET not in str(caught.value)
    assert one.get(f"{web.url}/fast") == b"x"


def test_the_time_is_for_all_redirects_together(web: HttpServer) -> None:
    def slow(_: Request) -> Reply:
        time.sleep(0.25)
        return redirect("/a")

    web.routes["/a"] = slow
    with pytest.raises(ImageUnreachable, match="in time"):
        fetcher(web.url, seconds=0.4).get(f"{web.url}/a")
    assert len(web.requests) <= 2


def test_the_time_is_for_all_addresses_of_a_name_together(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts = []

    def silent(_address: object, timeout: float, **_options: object) -> socket.socket:
        timeouts.append(timeout)
        time.sleep(timeout)
        raise TimeoutError

    monkeypatch.setattr("ram_backend.images.connections.create_connection", silent)
    resolve(monkeypatch, {"silent.test": ["127.0.0.2 127.0.0.3 127.0.0.4 127.0.0.5"]})
    with pytest.raises(ImageUnreachable, match="RAM_FETCH_SECONDS"):
        fetcher("http://silent.test", seconds=0.4).get("http://silent.test/a.jpg")
    assert sum(timeouts) <= 0.41


def test_the_time_is_for_the_resolver_too(monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: free.wait(60) and [])
    with pytest.raises(ImageUnreachable, match="RAM_FETCH_SECONDS"):
        fetcher("http://slow.test", seconds=0.3).get("http://slow.test/a.jpg")
    free.set()


def test_five_redirects_are_followed_and_no_more(web: HttpServer) -> None:
    for number in range(6):
        web.routes[f"/{number}"] = redirect(f"/{number + 1}", status=(301, 302, 303, 307, 308)[number % 5])
    web.routes["/6"] = Reply(body=b"x")
    assert fetcher(web.url).get(f"{web.url}/1") == b"x"
    with pytest.raises(ImageUnreadable, match="more than 5 redirects"):
        fetcher(web.url).get(f"{web.url}/0")


def failure(web: HttpServer) -> str:
    with pytest.raises((ImageUnreadable, ImageUnreachable)) as caught:
        fetcher(web.url).get(f"{web.url}/a{QUERY}")
    assert SECRET not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, "ImageUnreadable") for status in (400, 401, 403, 404, 410, 304)),
        *((status, "ImageUnreachable") for status in (500, 502, 503, 504, 429, 408)),
    ],
)
def test_no_image_for_good_or_for_now(web: HttpServer, status: int, error: str) -> None:
    web.routes["/a"] = Reply(status, headers={"Content-Length": "0"})
    assert failure(web).startswith(f"{error}: {web.url}/a: answered HTTP {status}")


def test_no_connection_or_half_an_answer() -> None:
    with HttpServer() as web:
        half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxy"
        web.routes["/a"] = Reply(raw=lambda handler: handler.wfile.write(half))
        assert failure(web).startswith(f"ImageUnreachable: {web.url}/a: broke")
    assert failure(web).startswith(f"ImageUnreachable: {web.url}/a: takes no connection")


@pytest.mark.parametrize(
    ("errno", "expected"), [(socket.EAI_NONAME, ImageUnreadable), (socket.EAI_AGAIN, ImageUnreachable)]
)
def test_names_that_do_not_resolve(errno: int, expected: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(errno, "said the resolver")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(expected, match=r"https://photos\.example/a: .*name"):
        Fetcher().get(f"https://photos.example/a{QUERY}")


def test_a_name_that_is_too_long_for_dns() -> None:
    with pytest.raises(ImageUnreadable, match="name"):
        Fetcher().get(f"https://{'a' * 64}.example/a{QUERY}")


# Data URIs

PIXELS = bytes(range(256))


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64," + base64.b64encode(PIXELS).decode(),
        "DATA:image/png;charset=utf-8;BASE64," + base64.b64encode(PIXELS).decode().rstrip("="),
        "data:;base64," + base64.urlsafe_b64encode(PIXELS).decode(),
        "data:;base64," + base64.b64encode(PIXELS).decode().replace("+", "%2B"),
        "data:;base64," + "\n".join(base64.encodebytes(PIXELS).decode().splitlines()),
        "data:application/octet-stream," + "".join(f"%{byte:02x}" for byte in PIXELS),
    ],
)
def test_data_uris(uri: str) -> None:
    assert Fetcher().get(uri) == PIXELS


@pytest.mark.parametrize("uri", ["data:image/png;base64", "data:;base64,A", "data:;base64,AA$A", "data:;base64,äöü="])
def test_damaged_or_large_data_uris(uri: str) -> None:
    with pytest.raises(ImageUnreadable, match="a data URI"):
        Fetcher().get(uri)
    whole = "data:;base64," + base64.b64encode(PIXELS).decode()
    assert len(fetcher(max_bytes=256).get(whole)) == 256
    with pytest.raises(ImageTooLarge):
        fetcher(max_bytes=255).get(whole)


def test_no_timer_stays_behind(web: HttpServer) -> None:
    web.routes["/a"] = Reply(body=b"x")
    one = fetcher(web.url, seconds=60)
    before = threading.active_count()
    for _ in range(5):
        one.get(f"{web.url}/a")
    wait_until(lambda: threading.active_count() <= before + 1)  # the server has one for our connection
