"""What doctor says of a connection: each trap by its remedy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ram_backend.images.guard import is_loopback
from ram_backend.labelstudio.connection_api import ProjectSwitches, Webhook
from ram_backend.labelstudio.connection_findings import Found, look_at
from ram_backend.labelstudio.project_api import ConnectedBackend

SECRET = {"X-RAM-Webhook-Secret": "hush"}
BACKEND = ConnectedBackend(4, "http://backend:9090", "starter-1", "starter-1")
HOOK = Webhook(7, "http://backend:9090/webhook", SECRET, True)
SWITCHES = ProjectSwitches("<View/>", "starter-1", True, True, 3)


def found(
    backends: tuple[ConnectedBackend, ...] = (BACKEND,),
    hooks: tuple[Webhook, ...] = (HOOK,),
    switches: ProjectSwitches = SWITCHES,
) -> dict[str, Found]:
    return {each.what: each for each in look_at(3, switches, backends, hooks, SECRET)}


def test_all_is_well() -> None:
    report = found()
    assert {each.how for each in report.values()} == {"ok"}
    assert not any(each.remedy for each in report.values())


def test_no_backend() -> None:
    report = found(backends=())
    assert report["backend"].how == "bad"
    assert "ram-backend connect --project 3" in report["backend"].remedy
    assert "http://backend:9090" in report["leftover webhooks"].said


def test_a_backend_that_is_away() -> None:
    assert "see that it runs" in found(backends=(replace(BACKEND, state="DI"),))["backend"].remedy
    local = replace(BACKEND, state="DI", url="http://localhost:9090")
    assert "host.docker.internal" in found(backends=(local,))["backend"].remedy
    broken = found(backends=(replace(BACKEND, state="ER", error="No bundle."),))["backend"]
    assert (broken.how, "No bundle." in broken.said) == ("bad", True)


def test_a_backend_that_never_predicts() -> None:
    report = found(backends=(BACKEND, replace(BACKEND, id=5, url="http://second:9090")))
    assert report["other backends"].how == "note"
    assert "--replace" in report["other backends"].remedy


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ((), "SSRF_PROTECTION_ENABLED"),
        ((replace(HOOK, complete=False),), "switched off"),
        ((replace(HOOK, headers={}),), "X-RAM-Webhook-Secret"),
        ((replace(HOOK, headers={"X-RAM-Webhook-Secret": "older"}),), "X-RAM-Webhook-Secret"),
    ],
)
def test_webhooks_that_do_not_work(hooks: tuple[Webhook, ...], said: str) -> None:
    webhook = found(hooks=hooks)["webhook"]
    assert webhook.how == "bad"
    assert said in webhook.said
    assert "ram-backend connect --project 3 --url http://backend:9090" in webhook.remedy
    assert "hush" not in webhook.said + webhook.remedy


def test_leftover_webhooks() -> None:
    report = found(hooks=(HOOK, Webhook(8, "http://old:9090/webhook", {}, True), Webhook(9, "http://chat/7", {}, True)))
    assert "http://old:9090" in report["leftover webhooks"].said
    assert "chat" not in report["leftover webhooks"].said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shows_predictions": False}, "annotators see none"),
        ({"model_version": "of-old"}, "only those of 'of-old'"),
        ({"model_version": ""}, "see none, and"),
    ],
)
def test_predictions_that_are_not_shown(changes: dict[str, object], said: str) -> None:
    predictions = found(switches=replace(SWITCHES, **changes))["predictions"]  # type: ignore[arg-type]
    assert (predictions.how, said in predictions.said) == ("note", True)
    assert "connect" in predictions.remedy


def test_live_but_in_random_order() -> None:
    report = found(backends=(replace(BACKEND, title="RAM"),), switches=replace(SWITCHES, model_version="RAM"))
    assert report["predictions"].how == "note"
    assert "random" in report["predictions"].said


@pytest.mark.parametrize(
    "url", ["http://localhost:9090", "http://127.0.0.1:1", "http://[::1]:9090", "http://a.localhost"]
)
def test_addresses_of_the_machine_itself(url: str) -> None:
    assert is_loopback(url)
    assert not is_loopback("http://backend:9090")
    assert not is_loopback("http://10.0.0.1:9090")
