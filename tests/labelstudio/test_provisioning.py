"""A project is set up in one go, and what is right stays; each trap of protocol section 9 costs one clear error."""

from typing import Any

import pytest
from support.label_studio import LEGACY, FakeLabelStudio
from support.server import choices_config

from ram_backend.errors import InputError, LabelConfigError, LabelStudioRefused, NotAvailable
from ram_backend.labelstudio.api_models import ConnectedBackend, ProjectSettings, Webhook
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.provisioning import Check, ConnectOptions, Provisioner, diagnose

URL = "http://backend:9090"
CONFIG, OTHER = choices_config("red"), choices_config("blue")
SECRET = {"X-RAM-Webhook-Secret": "hush"}


@pytest.fixture
def studio(studio: FakeLabelStudio) -> FakeLabelStudio:
    studio.record |= {"label_config": CONFIG, "show_collab_predictions": True, "sampling": "Sequential sampling"}
    return studio


def connect(studio: FakeLabelStudio, **options: Any) -> list[tuple[str, str, bool]]:
    """The steps: what, how it is now, and whether that was changed."""
    steps: list[tuple[str, str, bool]] = []
    api = ProjectApi(LabelStudio(studio.url, LEGACY), studio.project)
    Provisioner(api, ConnectOptions(URL, **options), lambda *step: steps.append(step)).run()
    return steps


def test_all_of_it_at_once_and_nothing_twice(studio: FakeLabelStudio) -> None:
    steps = connect(studio, secret=SECRET, label_config=OTHER, by_uncertainty=True, extra_params={"threshold": 0.4})
    assert all(changed for _, _, changed in steps)
    assert [what for what, _, _ in steps] == ["label config", "backend", "webhook", "tab", "predictions", "order"]
    (backend,), (hook,) = studio.connected, studio.hooks
    assert (backend["title"], backend["extra_params"]) == ("starter-1", {"threshold": 0.4})
    assert (hook["url"], hook["headers"]) == (f"{URL}/webhook", SECRET)
    assert studio.record["model_version"] == "starter-1"
    assert (studio.record["label_config"], studio.record["sampling"]) == (OTHER, "Uncertainty sampling")
    assert [tab["data"]["title"] for tab in studio.tabs] == ["Default", "Most uncertain first"]
    assert studio.tabs[1]["data"]["ordering"] == ["tasks:predictions_score"]
    before = len(studio.changes)
    again = connect(studio, secret=SECRET, label_config=OTHER, by_uncertainty=True, extra_params={"threshold": 0.4})
    assert not any(changed for _, _, changed in again)
    assert len(studio.changes) == before


@pytest.mark.parametrize(("before", "after"), [(CONFIG, CONFIG), ("<View></View>", OTHER)])
def test_only_a_project_without_label_config_gets_one(studio: FakeLabelStudio, before: str, after: str) -> None:
    studio.record["label_config"] = before
    connect(studio, fallback=lambda: OTHER)
    assert studio.record["label_config"] == after


def test_a_label_config_for_something_else_is_not_replaced(studio: FakeLabelStudio) -> None:
    config = '<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i"/></View>'
    studio.record["label_config"] = config
    with pytest.raises(LabelConfigError, match="--label-config"):
        connect(studio, fallback=lambda: OTHER)
    assert studio.record["label_config"] == config
    assert studio.connected == []


def test_a_backend_with_basic_auth(studio: FakeLabelStudio) -> None:
    """Each change asks `/setup` with what it brings: login and extra params go along (protocol section 9)."""
    connect(studio, login=("me", "hidden"), secret={"Authorization": "Basic bWU6aGlkZGVu"}, extra_params={"top_k": 3})
    asked = [body for *_, body in studio.changes if "title" in body]
    assert len(asked) == 2
    assert all(body["basic_auth_pass"] == "hidden" and body["extra_params"] == {"top_k": 3} for body in asked)
    assert studio.hooks[0]["headers"] == {"Authorization": "Basic bWU6aGlkZGVu"}


@pytest.mark.parametrize("there_before", [False, True])
def test_no_half_of_it_stays_where_label_studio_refuses(studio: FakeLabelStudio, there_before: bool) -> None:
    """With ML_BLOCK_LOCAL_IP=false alone it keeps the backend, and registers no webhook."""
    studio.refuses = {"webhook"}
    if there_before:
        studio.backend(URL)
    with pytest.raises(LabelStudioRefused, match=r"ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false \(both\)"):
        connect(studio)
    assert studio.connected == []


def test_a_backend_that_label_studio_refuses_or_can_not_reach(studio: FakeLabelStudio) -> None:
    studio.refuses = {"backend"}
    with pytest.raises(LabelStudioRefused, match="SSRF_PROTECTION_ENABLED"):
        connect(studio)
    studio.refuses, studio.reaches = set(), False
    with pytest.raises(LabelStudioRefused, match=r"Can't connect to ML backend Learn more.*host\.docker\.internal"):
        connect(studio)
    studio.reaches = True
    studio.backend(URL, state="DI")
    with pytest.raises(NotAvailable, match=r"host\.docker\.internal"):
        connect(studio)


def test_another_backend_is_not_replaced_unasked(studio: FakeLabelStudio) -> None:
    studio.backend("http://old:9090")
    studio.hook("http://old:9090/webhook")
    studio.hook("http://chat.example.com/hooks/7")
    with pytest.raises(InputError, match="--replace"):
        connect(studio)
    connect(studio, replace_others=True)
    assert [each["url"] for each in studio.connected] == [URL]
    assert {each["url"] for each in studio.hooks} == {f"{URL}/webhook", "http://chat.example.com/hooks/7"}


def test_what_is_set_wrongly_is_put_right(studio: FakeLabelStudio) -> None:
    """A project that shows stored predictions of one version never asks for new ones (protocol section 2)."""
    studio.backend(URL)
    steps = connect(studio, secret=SECRET)
    assert [changed for _, _, changed in steps] == [False, False, True, True, True], "half a connection is completed"
    studio.hooks[:] = []
    studio.hook(f"{URL}/webhook", is_active=False, headers={"X-Own": "1"})
    studio.hook("http://old:9090/webhook?secret=hush")
    studio.record |= {"model_version": "of-old", "show_collab_predictions": False}
    said = " ".join(found for _, found, _ in connect(studio, secret=SECRET))
    assert ("http://old:9090/webhook" in said, "hush" in said) == (True, False), "leftovers are named"
    assert studio.hooks[0]["is_active"]
    assert studio.hooks[0]["headers"] == {"X-Own": "1", **SECRET}
    assert studio.record["model_version"] == "starter-1"
    assert studio.record["show_collab_predictions"] is True


def test_only_a_backend_that_wants_a_login_asks_for_one(studio: FakeLabelStudio) -> None:
    backend = studio.backend(URL, state="ER", error_message="500 Server Error for url: http://127.0.0.1:401/setup")
    with pytest.raises(NotAvailable, match=r"Look at the backend's log\.$"):
        connect(studio)
    backend["error_message"] = "401 Client Error: Basic auth is missing or wrong."
    with pytest.raises(NotAvailable, match="BASIC_AUTH_USER"):
        connect(studio)


# What doctor says of a connection

RECONNECT = f"ram-backend connect 3 --url {URL}"
BACKEND = {"id": 4, "url": URL, "title": "starter-1", "model_version": "starter-1"}
EVENTS = {"is_active": True, "send_payload": True, "send_for_all_actions": True}
HOOK = {"id": 7, "url": f"{URL}/webhook", "headers": SECRET, **EVENTS}


def found(
    backends: list[dict[str, Any]] | None = None, hooks: list[dict[str, Any]] | None = None, **settings: Any
) -> dict[str, Check]:
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
