"""A web page, wherever it comes from, can neither read nor change anything: only Label Studio's own server asks."""

from typing import Any

import httpx
import pytest
from e2e.browser import chromium
from security.hosting import Line
from support.http_server import HttpServer, Reply
from support.label_studio import FakeLabelStudio
from support.server import Start, choices_config, predict_body, setup_body
from support.tiny_model import RED, picture

from ram_backend.server.middleware import Access
from ram_backend.settings import Settings

GETS = ("/health", "/ready", "/versions", "/jobs", "/metrics", "/docs", "/openapi.json")
POSTS = ("/setup", "/predict", "/webhook")
FOREIGN: list[dict[str, str]] = [
    *({"Origin": each} for each in ("http://evil.example", "null", "http://localhost.evil.example", "garbage")),
    {"Origin": "http://127.0.0.1:1"},  # another port of this machine
    *({"Sec-Fetch-Site": each} for each in ("cross-site", "same-site", "")),
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_pages_of_another_origin(client: httpx.Client, studio: FakeLabelStudio, headers: dict[str, str]) -> None:
    for path in GETS:
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (403, "ForeignOrigin"), path
    for path in POSTS:
        assert client.post(path, json={}, headers=headers).status_code == 403, path
        asked = client.options(path, headers=headers | {"Access-Control-Request-Method": "POST"})
        assert asked.status_code == 403
        assert not [name for name in asked.headers if name.startswith("access-control-")]
    setup = client.post("/setup", json=setup_body(choices_config("red"), studio), headers=headers)
    assert setup.status_code == 403
    assert client.get("/versions").json() == {"versions": []}, "no project was connected"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", None])
@pytest.mark.parametrize("path", POSTS)
def test_a_post_is_json(client: httpx.Client, path: str, kind: str | None) -> None:
    """What a page may send to any server without asking it first."""
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post(path, content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (415, "NotJson")


def test_label_studio_may_do_all(client: httpx.Client, studio: FakeLabelStudio) -> None:
    """It sends JSON, no Origin and no Sec-Fetch-Site; a person's browser opens an address of its own accord."""
    config = choices_config("red")
    assert client.post("/setup", json=setup_body(config, studio)).status_code == 200
    body = predict_body(config, [studio.upload("a.png", picture(RED))])
    kind = {"Content-Type": "application/json; charset=utf-8"}
    assert client.post("/predict", json=body, headers=kind).status_code == 200
    assert client.post("/webhook", json={"action": "PROJECT_UPDATED"}).status_code == 200
    own = str(client.base_url).rstrip("/")
    for headers in ({"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin", "Origin": own}):
        for path in GETS:
            assert client.get(path, headers=headers).status_code == 200, path


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", ""]
)
def test_hosts_on_loopback(start: Start, host: str) -> None:
    """A page that makes its own name lead here (DNS rebinding) is of the same origin as what it asks."""
    client = start(allowed_hosts="tagger.example")
    for path in ("/health", "/jobs"):
        with Line(client) as line:
            line.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            status, body = line.answer()
        assert (status, b"RAM_ALLOWED_HOSTS" in body) == (421, True)
    with Line(client) as line:
        line.send(f"GET /jobs HTTP/1.1\r\nHost: localhost\r\nHost: {host}\r\n\r\n".encode())
        assert line.answer()[0] in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9090", "127.0.0.1:1", "[::1]:9090", "tagger.example:80"])
def test_hosts_that_are_known(start: Start, host: str) -> None:
    client = start(allowed_hosts=" Tagger.example , other")
    assert client.get("/jobs", headers={"Host": host}).status_code == 200


def test_hosts_elsewhere(settings: Settings) -> None:
    """Where it listens for other machines any name will do, unless names are set."""

    def hosts(**changes: str) -> frozenset[str] | None:
        return Access(settings.model_copy(update=changes)).hosts

    assert hosts(host="0.0.0.0") is None
    assert hosts(host="backend") is None
    assert hosts(host="127.0.0.2") == hosts(host="::1") == hosts(host="localhost") != None  # noqa: E711
    assert hosts(host="0.0.0.0", allowed_hosts="backend:9090") == {"backend", "localhost", "127.0.0.1", "::1"}


ATTACK = """async ([server, body]) => {
    const found = {};
    const attempt = async (name, work) => {
        try { found[name] = await work(); } catch (error) { found[name] = String(error.name); }
    };
    for (const path of ["/health", "/jobs", "/versions", "/metrics", "/openapi.json", "/"]) {
        await attempt(`GET ${path}`, async () => (await fetch(server + path)).status);
        await attempt(`GET opaque ${path}`, async () => (await fetch(server + path, {mode: "no-cors"})).text());
    }
    for (const path of ["/setup", "/predict", "/webhook"])
        for (const type of ["text/plain", "application/json"])
            for (const mode of ["cors", "no-cors"])
                await attempt(`POST ${path} ${type} ${mode}`, async () => (await fetch(
                    server + path, {method: "POST", mode, body, headers: {"Content-Type": type}})).status);
    await attempt("beacon", async () => navigator.sendBeacon(server + "/setup", body) && "");
    await attempt("script", () => new Promise((done) => {
        const script = Object.assign(document.createElement("script"), {src: server + "/versions"});
        script.onload = () => done("loaded");
        script.onerror = () => done("");
        document.body.append(script);
    }));
    const frame = Object.assign(document.createElement("iframe"), {name: "frame"});
    const form = Object.assign(
        document.createElement("form"),
        {method: "POST", action: server + "/setup", enctype: "text/plain", target: "frame"});
    form.append(Object.assign(document.createElement("input"), {name: body.slice(0, -1) + ',"x":"', value: '"}'}));
    document.body.append(frame, form);
    await new Promise((done) => { frame.onload = done; form.submit(); });
    await attempt("frame", async () => frame.contentDocument.body.innerText);
    return found;
}"""


@pytest.mark.e2e
def test_a_page_of_another_port_reads_and_changes_nothing(client: httpx.Client, studio: FakeLabelStudio) -> None:
    """Every way in that a page has: fetch with and without CORS, a beacon, a script, a form into a frame."""
    body = httpx.Request("POST", "http://x", json=setup_body(choices_config("red"), studio)).content.decode()
    with HttpServer("127.0.0.1") as evil, chromium() as browser:
        evil.routes["/"] = Reply(body=b"<body>evil</body>", headers={"Content-Type": "text/html"})
        page = browser.new_page()
        page.goto(f"{evil.url}/")
        found: dict[str, Any] = page.evaluate(ATTACK, [str(client.base_url).rstrip("/"), body])
    read = {name: what for name, what in found.items() if what not in ("", 0, "TypeError", "SecurityError")}
    assert read == {}
    assert len(found) == 27
    assert client.get("/versions").json() == {"versions": []}, "no project was connected"
    metrics = client.get("/metrics").text
    assert "ram_projects 0.0" in metrics
    assert 'ram_requests_total{method="POST",route="/setup",status="200"}' not in metrics
    assert 'ram_requests_total{method="POST",route="/setup",status="403"}' in metrics, "it was asked"
