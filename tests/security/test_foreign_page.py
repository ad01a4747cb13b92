"""In a real Chromium, a page from another port of this machine can neither read nor change anything."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from e2e.browser import chromium
from support.http_server import HttpServer, Reply
from support.label_studio import FakeLabelStudio
from support.server import choices_config, setup_body

pytestmark = pytest.mark.e2e

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
