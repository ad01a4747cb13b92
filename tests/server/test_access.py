"""Logins, secrets, limits, and what is never told."""

import base64
import logging

import httpx
import pytest
from support.label_studio import LEGACY, FakeLabelStudio
from support.server import Start, choices_config, connect, predict_body, setup_body
from support.tiny_model import ColourNetwork, picture

from ram_backend.errors import SettingsError
from ram_backend.server.middleware import Access
from ram_backend.settings import load_settings

LOGIN = {"basic_auth_user": "studio", "basic_auth_pass": "pass:wörd"}
AUTH = httpx.BasicAuth(b"studio", "pass:wörd".encode())


def test_all_but_health_want_the_login(start: Start) -> None:
    client = start(**LOGIN)
    paths = ("/", "/ready", "/setup", "/predict", "/webhook", "/versions", "/metrics", "/docs", "/openapi.json", "/x")
    for path in paths:
        method = "POST" if path in ("/setup", "/predict", "/webhook") else "GET"
        refused = client.request(method, path, json={})
        assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic"), path
        assert client.request(method, path, json={}, auth=("studio", "wrong")).status_code == 401, path
        assert client.request(method, path, json={}, auth=AUTH).status_code != 401, path
    assert client.get("/health").status_code == 200
    for header in ("", "Basic", "Basic !!!", "Bearer c3R1ZGlvOnBhc3M=", "Basic c3R1ZGlv"):
        assert client.get("/ready", headers={"Authorization": header}).status_code == 401, header


@pytest.mark.parametrize("half", [{"basic_auth_user": "a"}, {"basic_auth_pass": "b"}])
def test_half_a_login(half: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="set both, or none"):
        Access(load_settings(**half))


def test_a_webhook_brings_the_secret_or_the_login(start: Start) -> None:
    client = start(**LOGIN, webhook_secret="s3cret")
    event = {"action": "ANNOTATION_CREATED"}
    assert client.post("/webhook", json=event).status_code == 401
    assert client.post("/webhook?secret=wrong", json=event).status_code == 401
    assert client.post("/webhook?secret=s3cret", json=event).status_code == 200
    assert client.post("/webhook", json=event, headers={"X-RAM-Webhook-Secret": "s3cret"}).status_code == 200
    assert client.post("/webhook", json=event, auth=AUTH).status_code == 200, "the connector's START_TRAINING"
    assert client.post("/setup?secret=s3cret", json={}).status_code == 401, "the secret opens /webhook only"
    without_login = start(webhook_secret="s3cret")
    assert without_login.post("/webhook", json=event).status_code == 401
    assert without_login.post("/webhook?secret=s3cret", json=event).status_code == 200
    assert without_login.get("/versions").status_code == 200


@pytest.mark.parametrize("path", ["/webhook/", "/predict/", "/health/"])
def test_a_slash_more_redirects_nowhere(start: Start, path: str) -> None:
    client = start(host="0.0.0.0")
    answer = client.request("GET" if path == "/health/" else "POST", path, headers={"Host": "evil"}, json={})
    assert (answer.status_code, answer.headers.get("location")) == (404, None)


@pytest.mark.parametrize("announced", [True, False])
def test_bodies_have_a_limit(start: Start, announced: bool) -> None:
    client = start(max_body_bytes=1000)
    content, json = b" " * 2000, {"Content-Type": "application/json"}
    parts = content if announced else iter([content[:900], content[900:]])
    answer = client.post("/webhook", content=parts, headers=json)
    assert (answer.status_code, "RAM_MAX_BODY_BYTES" in answer.json()["error"]) == (413, True)
    assert client.post("/webhook", content=b"{}" + b" " * 900, headers=json).status_code == 200


def test_an_unexpected_error_tells_no_details(
    start: Start, studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ColourNetwork):
        def logits(self, tokens: object, queries: object) -> None:  # type: ignore[override]
            raise RuntimeError("/secret/path")

    client, config = start(network=Broken()), choices_config("red")
    connect(client, studio, config)
    with caplog.at_level(logging.INFO, logger="ram_backend"):
        answer = client.post("/predict", json=predict_body(config, [studio.upload("a.png", picture((9, 9, 9)))]))
    assert answer.status_code == 500
    assert "/secret/path" not in answer.text
    assert answer.json()["request_id"] in answer.json()["error"]
    assert "/secret/path" in caplog.text
    assert client.get("/health").status_code == 200


def test_secrets_are_not_logged(start: Start, studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client = start(**LOGIN, webhook_secret="s3cret")
        config = choices_config("red")
        client.post("/setup", json=setup_body(config, studio), auth=AUTH)
        images = [
            "/data/upload/1/none.png?token=inUrl",
            "http://user:inAuthority@127.0.0.1:1/a.png?X-Signature=inQuery",
        ]
        client.post("/predict", json=predict_body(config, images), auth=AUTH)
        client.post("/webhook?secret=s3cret", json={})
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("ram_backend"))
    assert "/webhook" in logged
    encoded = base64.b64encode("studio:pass:wörd".encode()).decode()
    for secret in ("s3cret", "pass:wörd", encoded, LEGACY, "inUrl", "inAuthority", "inQuery"):
        assert secret not in logged
