"""The guard: which addresses are internal, how URLs are read, what an admin can allow, what is shown of a URL."""

from contextlib import nullcontext

import pytest
from support.http_server import ODD_URLS

from ram_backend.errors import ImageRefused, SettingsError
from ram_backend.images.guard import Address, AddressGuard, Origin, is_loopback, redacted

INTERNAL = """
127.0.0.1 127.8.8.8 0.0.0.0 10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 169.254.169.254 192.0.2.1 198.18.0.1 224.0.0.1
239.1.1.1 240.0.0.1 255.255.255.255 168.63.129.16 192.0.0.192 192.88.99.1
:: ::1 fe80::1 fe80::1%eth0 fc00::1 fd12::1 fec0::1 ff02::1 ff0e::1 2001:db8::1 3fff::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:a9fe:a9fe 64:ff9b::127.0.0.1 64:ff9b:1::1 2002:7f00:1:: 2002:a00:1:: ::127.0.0.1
"""
PUBLIC = "8.8.8.8 93.184.216.34 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::"


def check(allowed: str, url: str, address: str) -> None:
    AddressGuard.parse(allowed).check(Address.of(url).origin, address)


@pytest.mark.parametrize("address", INTERNAL.split())
def test_internal_addresses(address: str) -> None:
    with pytest.raises(ImageRefused, match="internal address"):
        check("", "http://example.com", address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses(address: str) -> None:
    check("", "http://example.com", address)


@pytest.mark.parametrize(
    ("allowed", "url", "address", "passes"),
    [
        ("minio", "http://minio:9000", "10.0.0.7", True),
        ("MinIO.", "https://minio", "10.0.0.7", True),
        ("minio:9000", "http://minio:9000", "10.0.0.7", True),
        ("10.0.0.0/8", "http://whatever.example", "10.0.0.7", True),
        (" a , 10.0.0.7 ", "http://10.0.0.7", "10.0.0.7", True),
        ("[fd00::7]:9000", "http://[fd00:0::7]:9000", "fd00::7", True),
        ("fd00::7", "http://[fd00::7]:1", "fd00::7", True),
        ("fd00::/8", "http://x.example", "fd00::7", True),
        ("minio:9000", "http://minio:9001", "10.0.0.7", False),
        ("minio", "http://minio.evil.example", "10.0.0.7", False),
        ("10.0.0.0/16", "http://x.example", "10.1.0.7", False),
        ("0.0.0.0/0", "http://x.example", "fd00::7", False),
        ("", "http://x.example", "127.0.0.1", False),
    ],
)
def test_no_more_than_an_admin_allows(allowed: str, url: str, address: str, passes: bool) -> None:
    with nullcontext() if passes else pytest.raises(ImageRefused):
        check(allowed, url, address)


@pytest.mark.parametrize("entry", ["http://minio", "*.example.com", "10.0.0.0/99", "u:p@minio", "a b", "2130706433"])
def test_what_can_t_be_allowed_is_said(entry: str) -> None:
    with pytest.raises(SettingsError, match="RAM_ALLOWED_IMAGE_HOSTS"):
        AddressGuard.parse(f"minio,{entry}")


def test_an_origin_is_allowed_with_its_port_and_scheme_only() -> None:
    guard = AddressGuard(frozenset([Origin("http", "studio", 8080)]))
    guard.check(Address.of("http://studio:8080/data/upload/x").origin, "127.0.0.1")
    for other in ("http://studio:8081", "https://studio:8080", "http://studio2:8080"):
        with pytest.raises(ImageRefused):
            guard.check(Address.of(other).origin, "127.0.0.1")


@pytest.mark.parametrize("url", [*ODD_URLS, "http://example.com/" + "a" * 20_000])
def test_urls_that_are_not_asked(url: str) -> None:
    with pytest.raises(ImageRefused) as caught:
        Address.of(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("HTTP://Example.COM./a?b=c#d", "http://example.com", "/a?b=c"),
        ("https://example.com:8443", "https://example.com:8443", "/"),
        ("http://example.com:80/ä b.jpg", "http://example.com", "/%C3%A4%20b.jpg"),
        ("http://example.com/a%20b%2Fc.jpg?X-Sig=a%2Bb", "http://example.com", "/a%20b%2Fc.jpg?X-Sig=a%2Bb"),
        ("http://[::FFFF:7F00:1]:81/", "http://[::ffff:7f00:1]:81", "/"),
        ("http://1.2.3.4/x", "http://1.2.3.4", "/x"),
        ("http://example.com/a/../../b", "http://example.com", "/b"),
    ],
)
def test_urls_are_read_once(url: str, origin: str, target: str) -> None:
    address = Address.of(url)
    assert (str(address.origin), address.target) == (origin, target)


@pytest.mark.parametrize("host", ["127.0.0.1:80@evil.example", "evil.example#@127.0.0.1", "evil.example\\@127.0.0.1"])
def test_a_url_that_parsers_read_differently_never_means_loopback(host: str) -> None:
    try:
        address = Address.of(f"http://{host}/")
    except ImageRefused:
        return
    assert address.origin.host == "evil.example"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:pw@h/a.jpg?X-Amz-Signature=abc#t", "https://h/a.jpg"),
        ("http://h/data/local-files/?d=photos/a.jpg&token=abc", "http://h/data/local-files/?d=photos/a.jpg"),
        ("/data/local-files/?d=photos/a.jpg", "/data/local-files/?d=photos/a.jpg"),
        ("s3://bucket/key.jpg?versionId=x", "s3://bucket/key.jpg"),
        ("data:image/png;base64,AAAA", "a data URI (26 characters)"),
        ("http://h/a\nb", "http://h/a_b"),
        ("u:pw@h/a.jpg", "h/a.jpg"),
        ("http://h/" + "a" * 5000, "http://h/" + "a" * 188 + "..."),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_addresses_of_the_machine_itself() -> None:
    ours = ["http://localhost:9090", "http://127.0.0.1:1", "http://[::1]:9090", "::1", "http://a.localhost"]
    assert [
        url for url in [*ours, "http://backend:9090", "http://10.0.0.1:9090", "http://["] if is_loopback(url)
    ] == ours
