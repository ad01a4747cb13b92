"""Where images may be fetched from: internal addresses, redirects, DNS rebinding, TLS, proxies, cookies."""

import logging
import ssl
import subprocess
from pathlib import Path

import pytest
from images.fetching import QUERY, SECRET, fetcher, resolve
from support.http_server import HttpServer, Reply, redirect

from ram_backend.errors import ImageRefused, ImageUnreachable
from ram_backend.images.fetch import Fetcher, FetchLimits
from ram_backend.images.guard import AddressGuard


def test_internal_addresses_are_not_even_connected_to(web: HttpServer) -> None:
    with pytest.raises(ImageRefused, match=r"127\.0\.0\.1.*RAM_ALLOWED_IMAGE_HOSTS"):
        Fetcher().get(f"{web.url}/a")
    with pytest.raises(ImageRefused):
        fetcher(f"http://127.0.0.1:{web.port + 1}").get(f"{web.url}/a")
    assert web.requests == []


def test_an_ipv6_server_is_reached_where_allowed_and_only_there() -> None:
    with HttpServer("::1") as web:
        web.routes["/a"] = Reply(body=b"x")
        with pytest.raises(ImageRefused, match="::1"):
            Fetcher().get(f"{web.url}/a")
        assert web.requests == []
        assert fetcher(web.url).get(f"{web.url}/a") == b"x"
        assert web.requests[0].headers["Host"] == f"[::1]:{web.port}"


@pytest.mark.parametrize("host", ["[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost"])
def test_other_spellings_of_loopback(web: HttpServer, host: str) -> None:
    with pytest.raises(ImageRefused):
        fetcher(web.url).get(f"http://{host}:{web.port}/a")
    assert web.requests == []


def test_a_redirect_to_an_internal_address(web: HttpServer) -> None:
    with HttpServer("127.0.0.2") as internal:
        internal.routes["/admin"] = Reply(body=b"secret")
        for status in (301, 302, 303, 307, 308):
            web.routes["/a"] = redirect(f"{internal.url}/admin", status)
            with pytest.raises(ImageRefused, match=r"127\.0\.0\.2"):
                fetcher(web.url).get(f"{web.url}/a")
        assert internal.requests == []


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://x/", "http://u:p@127.0.0.1/", "data:,x", "http://[::1"]
)
def test_a_redirect_to_what_is_not_asked(web: HttpServer, to: str) -> None:
    web.routes["/a"] = redirect(to)
    with pytest.raises(ImageRefused):
        fetcher(web.url).get(f"{web.url}/a")


def test_a_name_with_one_internal_address_is_refused(web: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"mixed.example": ["8.8.8.8 127.0.0.1"]})
    with pytest.raises(ImageRefused, match=r"127\.0\.0\.1"):
        Fetcher().get(f"http://mixed.example:{web.port}/a")


def test_the_connection_goes_to_the_address_that_was_checked(web: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpServer("127.0.0.2", web.port) as internal:
        web.routes["/a"] = Reply(body=b"checked")
        internal.routes["/a"] = Reply(body=b"rebound")
        looked_up = resolve(monkeypatch, {"rebind.example": ["127.0.0.1", "127.0.0.2"]})
        one = Fetcher(FetchLimits(guard=AddressGuard.parse("127.0.0.1/32")))
        assert one.get(f"http://rebind.example:{web.port}/a") == b"checked"
        assert looked_up == ["rebind.example"]
        assert web.requests[0].headers["Host"] == f"rebind.example:{web.port}"
        one.close()
        with pytest.raises(ImageRefused, match=r"127\.0\.0\.2"):
            one.get(f"http://rebind.example:{web.port}/a")
        assert internal.requests == []


def test_the_second_address_of_a_name_is_tried(web: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    web.routes["/a"] = Reply(body=b"x")
    resolve(monkeypatch, {"two.example": ["127.0.0.3 127.0.0.1"]})  # nobody listens at the first
    assert Fetcher(FetchLimits(guard=AddressGuard.parse("two.example"))).get(f"http://two.example:{web.port}/a") == b"x"


def test_neither_cookies_proxies_nor_netrc(web: HttpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.9:9")
    web.routes["/a"] = Reply(302, headers={"Location": "/b", "Set-Cookie": f"session={SECRET}; Path=/"})
    web.routes["/b"] = Reply(body=b"x")
    one = fetcher(web.url)
    assert [one.get(f"{web.url}/a"), one.get(f"{web.url}/b")] == [b"x", b"x"]
    for asked in web.requests:
        assert not {"Cookie", "Authorization", "Referer"} & set(asked.headers)


def test_tls_is_checked_against_the_name_and_not_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=photos.example"
    names = ["-addext", "subjectAltName=DNS:photos.example", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *command.split(), *names], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked_for: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked_for.append(name)  # type: ignore[assignment]
    resolve(monkeypatch, {"photos.example": ["127.0.0.1"], "others.example": ["127.0.0.1"]})
    with HttpServer(tls=context) as web:
        web.routes["/a"] = Reply(body=b"x")
        one = Fetcher(FetchLimits(guard=AddressGuard.parse("127.0.0.1/32")))
        assert one.get(f"https://photos.example:{web.port}/a") == b"x"
        assert asked_for == ["photos.example"]
        with pytest.raises(ImageUnreachable, match=r"TLS.*SSL_CERT_FILE"):
            one.get(f"https://others.example:{web.port}/a")
        with pytest.raises(ImageRefused):
            Fetcher().get(f"https://photos.example:{web.port}/a")


def test_nothing_secret_is_logged(web: HttpServer, caplog: pytest.LogCaptureFixture) -> None:
    web.routes["/a"] = Reply(503)
    with caplog.at_level(logging.INFO), pytest.raises(ImageUnreachable):
        fetcher(web.url).get(f"{web.url}/a{QUERY}")
    assert SECRET not in caplog.text
