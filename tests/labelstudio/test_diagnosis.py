"""What doctor says of a connection: each trap by its remedy."""

from __future__ import annotations

from typing import Any

import pytest

from ram_backend.images.guard import is_loopback
from ram_backend.labelstudio.api_models import ConnectedBackend, ProjectSettings, Webhook
from ram_backend.labelstudio.provisioning import Finding, diagnose

URL = "http://backend:9090"
RECONNECT = f"ram-backend connect 3 --url {URL}"
SECRET = {"X-RAM-Webhook-Secret": "hush"}
BACKEND = {"id": 4, "url": URL, "title": "starter-1", "model_version": "starter-1"}
EVENTS = {"is_active": True, "send_payload": True, "send_for_all_actions": True}
HOOK = {"id": 7, "url": f"{URL}/webhook", "headers": SECRET, **EVENTS}


def found(
    backends: list[dict[str, Any]] | None = None, hooks: list[dict[str, Any]] | None = None, **settings: Any
) -> dict[str, Finding]:
    findings = diagnose(
        3,
        ProjectSettings(**({"model_version": "starter-1"} | settings)),
        [ConnectedBackend(**each) for each in ([BACKEND] if backends is None else backends)],
        [Webhook(**each) for each in ([HOOK] if hooks is None else hooks)],
        SECRET,
    )
    return {each.what: each for each in findings}


def test_all_is_well() -> None:
    assert {(each.state, each.remedy) for each in found().values()} == {("ok", "")}


def backend(**changes: Any) -> dict[str, Any]:
    return {"backends": [BACKEND | changes]}


@pytest.mark.parametrize(
    ("given", "what", "state", "reason", "remedy"),
    [
        ({"backends": []}, "backend", "bad", "none on record", "ram-backend connect 3"),
        ({"backends": []}, "leftover webhooks", "note", URL, "--replace"),
        (backend(state="DI"), "backend", "bad", "can't reach", "see that it runs"),
        (backend(state="DI", url="http://localhost:9090"), "backend", "bad", "", "host.docker.internal"),
        (backend(state="ER", error_message="No bundle."), "backend", "bad", "No bundle.", "log"),
        ({"backends": [BACKEND, BACKEND | {"id": 5}]}, "other backends", "note", "predicts", "--replace"),
        ({"hooks": []}, "webhook", "bad", "SSRF_PROTECTION_ENABLED", RECONNECT),
        ({"hooks": [HOOK | {"is_active": False}]}, "webhook", "bad", "switched off", RECONNECT),
        ({"hooks": [HOOK | {"headers": {}}]}, "webhook", "bad", "X-RAM-Webhook-Secret", RECONNECT),
        ({"hooks": [HOOK | {"headers": dict.fromkeys(SECRET, "older")}]}, "webhook", "bad", "X-RAM", RECONNECT),
        ({"show_collab_predictions": False}, "predictions", "note", "annotators see none", "connect"),
        ({"model_version": "of-old"}, "predictions", "note", "only those of 'of-old'", "connect"),
        ({"model_version": ""}, "predictions", "note", "see none, and", "connect"),
        (backend(title="RAM") | {"model_version": "RAM"}, "predictions", "note", "random", "connect"),
    ],
)
def test_each_trap_has_its_remedy(given: dict[str, Any], what: str, state: str, reason: str, remedy: str) -> None:
    finding = found(**given)[what]
    assert (finding.state, reason in finding.found, remedy in finding.remedy) == (state, True, True), finding
    assert "hush" not in finding.found + finding.remedy


def test_leftover_webhooks() -> None:
    others = [HOOK | {"id": 8, "url": "http://old:9090/webhook"}, HOOK | {"id": 9, "url": "http://chat/7"}]
    finding = found(hooks=[HOOK, *others])["leftover webhooks"]
    assert "http://old:9090" in finding.found
    assert "chat" not in finding.found


def test_addresses_of_the_machine_itself() -> None:
    ours = ["http://localhost:9090", "http://127.0.0.1:1", "http://[::1]:9090", "::1", "http://a.localhost"]
    assert [
        url for url in [*ours, "http://backend:9090", "http://10.0.0.1:9090", "http://["] if is_loopback(url)
    ] == ours
