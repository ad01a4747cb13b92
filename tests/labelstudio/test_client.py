"""Logins, and that they go to Label Studio alone."""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.http_server import HttpServer, Reply, redirect
from support.label_studio import LEGACY, PERSONAL, FakeLabelStudio

from ram_backend.errors import (
    ImageError,
    ImageUnreachable,
    ImageUnreadable,
    LabelStudioUnauthorized,
    LabelStudioUnreachable,
    SettingsError,
)
from ram_backend.images.fetch import FetchLimits
from ram_backend.images.guard import AddressGuard
from ram_backend.labelstudio.client import LabelStudio

FILE = "/data/upload/1/a.jpg"


@pytest.fixture
def studio(studio: FakeLabelStudio) -> FakeLabelStudio:
    studio.file(FILE, b"photo")
    return studio


def test_a_legacy_token(studio: FakeLabelStudio) -> None:
    client = LabelStudio(studio.url, f" {LEGACY}\n")
    studio.file("/data/upload/1/moved.jpg", redirect(FILE))
    assert client.get(FILE) == client.get("/data/upload/1/moved.jpg") == b"photo"
    assert client.whoami()["email"] == "admin@example.com"
    assert client.version() == "1.23.2"
    assert {asked.headers["Authorization"] for asked in studio.requests} == {f"Token {LEGACY}"}


def test_a_personal_access_token_is_exchanged_once_and_again_after_a_refusal(studio: FakeLabelStudio) -> None:
    client = LabelStudio(studio.url, PERSONAL)
    assert [client.get(FILE) for _ in range(3)] == [b"photo"] * 3
    assert studio.refreshed == 1
    assert not any(PERSONAL in asked.headers.get("Authorization", "") for asked in studio.requests)
    studio.revoke_access()
    assert client.get(FILE) == b"photo"
    assert studio.refreshed == 2
    studio.personal = None
    studio.revoke_access()
    with pytest.raises(LabelStudioUnauthorized, match="no longer accepts our personal access token") as caught:
        client.get(FILE)
    assert PERSONAL not in str(caught.value)


@pytest.mark.parametrize("known", [False, True])
def test_many_threads_renew_once(studio: FakeLabelStudio, known: bool) -> None:
    client = LabelStudio(studio.url, PERSONAL)
    if known:
        client.get(FILE)
        studio.revoke_access()
    refreshed, studio.refresh_seconds = studio.refreshed, 0.2
    start = threading.Barrier(12)

    def ask(_: int) -> bytes:
        start.wait()
        return client.get(FILE)

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == [b"photo"] * 12
    assert studio.refreshed == refreshed + 1


@pytest.mark.parametrize(
    ("token", "remedy"),
    [
        (None, "LABEL_STUDIO_API_KEY"),
        ("", "LABEL_STUDIO_API_KEY"),
        ("b2" * 20, "legacy.*off by default"),
        (f"a.{'W1tb' * 20_000}.c", "no longer accepts our personal access token"),  # a JWT with 60,000 opening brackets
    ],
    ids=["none", "empty", "legacy", "nested JWT"],
)
def test_a_login_that_is_missing_or_refused(studio: FakeLabelStudio, token: str | None, remedy: str) -> None:
    with pytest.raises(LabelStudioUnauthorized, match=remedy) as caught:
        LabelStudio(studio.url, token).get(FILE)
    assert not token or token not in str(caught.value)


def test_no_file_but_the_login_or_redirects_without_end(studio: FakeLabelStudio) -> None:
    studio.routes[FILE] = redirect(f"/user/login/?next={FILE}")
    studio.routes["/api/token/refresh/"] = Reply(status=400, body=b'{"detail": "Token is invalid"}')
    for token, said in ((LEGACY, "legacy token"), (PERSONAL, "personal access token")):
        with pytest.raises(LabelStudioUnauthorized, match=said):
            LabelStudio(studio.url, token).get(FILE)
    studio.file(FILE, redirect(FILE))
    with pytest.raises(ImageUnreadable, match="too many redirects"):
        LabelStudio(studio.url, LEGACY).get(FILE)


def test_nothing_shows_a_token(studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="ram_backend"):
        client = LabelStudio(studio.url, PERSONAL)
        client.get(FILE)
    assert PERSONAL not in caplog.text + repr(client) + str(client) + repr(client._login)
    for token in ("two words", "line\nbreak", "ümläut"):
        with pytest.raises(SettingsError) as caught:
            LabelStudio("http://studio", token)
        assert token not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("token", [LEGACY, PERSONAL])
def test_a_redirect_elsewhere_goes_without_the_token(studio: FakeLabelStudio, status: int, token: str) -> None:
    client = LabelStudio(studio.url, token, limits=FetchLimits(guard=AddressGuard.parse("127.0.0.2")))
    with HttpServer("127.0.0.2") as other:
        studio.file(FILE, Reply(status, headers={"Location": f"{other.url}/data/signed?X=1", "Set-Cookie": "a=b"}))
        other.routes["/data/signed"] = Reply(body=b"photo")
        assert client.get(FILE) == b"photo"
    assert other.targets == ["/data/signed?X=1"]
    assert not {"Authorization", "Cookie", "Referer"} & set(other.requests[0].headers)


def test_another_port_or_the_way_back_goes_without_the_token(studio: FakeLabelStudio) -> None:
    with HttpServer() as neighbour:
        studio.file(FILE, redirect(f"{neighbour.url}/data/there"))
        neighbour.routes["/data/there"] = redirect(f"{studio.url}/data/upload/1/private.jpg")
        studio.file("/data/upload/1/private.jpg", b"private")
        client = LabelStudio(studio.url, LEGACY, limits=FetchLimits(guard=AddressGuard.parse("127.0.0.1")))
        with pytest.raises(ImageUnreadable, match="401"):
            client.get(FILE)
        assert not any("Authorization" in asked.headers for asked in neighbour.requests + studio.requests[1:])
        assert len(neighbour.requests + studio.requests) == 3


@pytest.mark.parametrize("path", ["/logout", "/static/a.jpg", "/user/account", "/data/../logout"])
def test_paths_that_hold_no_files_go_without_the_token(studio: FakeLabelStudio, path: str) -> None:
    with pytest.raises(ImageUnreadable):
        LabelStudio(studio.url, LEGACY).get(path)
    assert "Authorization" not in studio.requests[0].headers


def test_below_a_path_neighbours_on_the_host_get_no_token() -> None:
    with FakeLabelStudio(prefix="/studio") as studio:
        studio.file(FILE, b"photo")
        studio.routes["/data/x.jpg"] = Reply(body=b"neighbour")
        client = LabelStudio(f"{studio.url}/", LEGACY)
        for reference in (FILE, f"/studio{FILE}", studio.url + FILE):
            own = client.own_url(reference)
            assert own is not None
            assert client.get(own) == b"photo"
        assert client.get(f"{client.origin}/data/x.jpg") == b"neighbour"
        assert "Authorization" not in studio.requests[-1].headers


def test_one_that_is_not_trusted_is_not_asked_inside(studio: FakeLabelStudio) -> None:
    client = LabelStudio(studio.url, LEGACY, trusted=False)
    with pytest.raises(LabelStudioUnreachable, match=r"internal address.*ram-backend connect"):
        client.get(FILE)
    assert studio.requests == []
    allowed = FetchLimits(guard=AddressGuard.parse("127.0.0.1"))
    for token, said in ((None, "wants a login"), ("b" * 40, "refuses our legacy token")):
        with pytest.raises(LabelStudioUnauthorized, match=f"{said}.*ram-backend connect"):
            LabelStudio(studio.url, token, trusted=False, limits=allowed).get(FILE)


@pytest.mark.parametrize("address", ["", "studio:8080", "ftp://studio", "http://me:secret@studio", "http://"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(SettingsError, match="LABEL_STUDIO_URL") as caught:
        LabelStudio(address, None)
    assert "secret" not in str(caught.value)


def test_files_under_other_names_of_label_studio() -> None:
    client = LabelStudio("http://studio:8080", LEGACY, hostname="http://localhost:8080/")
    expected = "http://studio:8080/data/local-files/?d=a%20b.jpg"
    assert client.own_url("/data/local-files/?d=a b.jpg") in (expected, expected.replace("%20", " "))
    assert client.own_url("http://localhost:8080/data/local-files/?d=a%20b.jpg") == expected
    assert client.own_url("http://studio:8080/data/local-files/?d=a%20b.jpg") == expected
    others = ("http://localhost:8081/data/a.jpg", "http://localhost:8080/metrics", "https://studio:8080/data/a.jpg")
    for elsewhere in (*others, "//studio:8080/data/a.jpg", "s3://bucket/a.jpg", "a.jpg"):
        assert client.own_url(elsewhere) is None


def test_label_studio_away_is_no_fault_of_the_image(studio: FakeLabelStudio) -> None:
    client = LabelStudio(studio.url, LEGACY, limits=FetchLimits(seconds=0.3))
    for status in (500, 502, 503, 429):
        studio.file(FILE, Reply(status))
        with pytest.raises(LabelStudioUnreachable, match=f"Label Studio: .*{status}"):
            client.get(FILE)
    with FakeLabelStudio() as gone:
        pass
    for url, token, reason in (
        (gone.url, LEGACY, "takes no connection"),
        (gone.url, PERSONAL, "takes no connection"),
        ("http://no-such-host.invalid", LEGACY, "no-such-host"),
    ):
        with pytest.raises(LabelStudioUnreachable, match=reason):
            LabelStudio(url, token).get(FILE)
    assert not issubclass(LabelStudioUnreachable, ImageError)
    studio.file(FILE, redirect(f"{gone.url}/x?sig=secret"))  # a storage behind Label Studio
    with pytest.raises(ImageUnreachable) as caught:
        LabelStudio(studio.url, LEGACY, limits=FetchLimits(guard=AddressGuard.parse("127.0.0.1"))).get(FILE)
    assert not isinstance(caught.value, LabelStudioUnreachable)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("body", [b"OK", b'{"token": 1}', b'{"access": 5}', b"[]", b'{"access": "a\\nb"}'])
def test_a_server_that_is_no_label_studio(studio: FakeLabelStudio, body: bytes) -> None:
    studio.routes["/api/token/refresh/"] = Reply(body=body)
    with pytest.raises(LabelStudioUnreachable, match="no access token"):
        LabelStudio(studio.url, PERSONAL).get(FILE)
    studio.routes["/api/version/"] = Reply(body=b"<html>")
    with pytest.raises(LabelStudioUnreachable, match="no JSON"):
        LabelStudio(studio.url, None).version()
    studio.routes["/api/version/"] = Reply(body=json.dumps([1]).encode())
    assert LabelStudio(studio.url, None).version() == "unknown"
