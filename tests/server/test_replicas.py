"""Two servers on one database and one data folder, asked in turns: nobody can tell which of them has answered."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from support import commands
from support.label_studio import LEGACY, FakeLabelStudio
from support.processes import served, url_in, wait_until
from support.server import CONFIG, PROJECT, House, predict_body, setup_body, tags_of
from support.tiny_model import GREEN, picture

from ram_backend.settings import Settings, load_settings

pytestmark = pytest.mark.service


@pytest.fixture
def shared_settings(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """One PostgreSQL database and one data folder, as the environment of all processes."""
    monkeypatch.setenv("RAM_DATABASE_URL", cluster.new_database())
    monkeypatch.setenv("RAM_LABEL_STUDIO_API_KEY", LEGACY)
    return load_settings()


@pytest.fixture
def replicas(shared_settings: Settings) -> Iterator[list[httpx.Client]]:
    with ExitStack() as stack:
        running = [stack.enter_context(served("--port", "0", seconds=0.0)) for _ in range(2)]
        opened = [httpx.Client(base_url=url_in(lines), timeout=60, trust_env=False) for _, lines in running]
        servers = [stack.enter_context(each) for each in opened]
        wait_until(lambda: all(each.get("/ready").status_code == 200 for each in servers))
        yield servers


@pytest.fixture
def house(replicas: list[httpx.Client], shared_settings: Settings, studio: FakeLabelStudio) -> House:
    """Versions of the project, which one of the servers has been told of and both know by now."""
    made = House(shared_settings, studio)
    replicas[0].post("/setup", json=setup_body(CONFIG, studio))
    wait_until(lambda: all(each["versions"] for each in of_all(replicas, "GET", f"/versions?project={PROJECT}")))
    return made


def of_all(replicas: list[httpx.Client], method: str, path: str, body: object = None) -> list[Any]:
    """What each of the servers answers."""
    answers = [each.request(method, path, json=body) for each in replicas]
    assert {answer.status_code for answer in answers} == {200}, answers
    return [answer.json() for answer in answers]


def in_all(replicas: list[httpx.Client], body: dict[str, Any], tags: list[list[str]]) -> bool:
    """Whether all servers tick these tags; of several that answer alike the answers are the same to the last digit."""
    answers = of_all(replicas, "POST", "/predict", body)
    found = [[tags_of(result) for result in each["results"]] for each in answers]
    assert found[0] != found[1] or answers[0] == answers[1]
    return found == [tags] * len(answers)


def test_answers_versions_and_settings_are_the_same(
    replicas: list[httpx.Client], house: House, studio: FakeLabelStudio
) -> None:
    green = studio.upload("green.png", picture(GREEN))
    body = predict_body(CONFIG, [house.red, green], PROJECT)
    assert in_all(replicas, body, [["red"], ["green"]])

    lowered = house.make(-5.0)
    house.publish(lowered)
    wait_until(lambda: in_all(replicas, body, [[], ["green"]]))
    names = {each["model_version"] for each in of_all(replicas, "POST", "/setup", setup_body(CONFIG, studio))}
    assert len(names) == 1
    assert f"-{lowered.name}-" in names.pop()

    house.table.roll_back(house.key, None)
    wait_until(lambda: in_all(replicas, body, [["red"], ["green"]]))

    commands.run("project", "set", house.key.id, "--per-tag", "green=0.99")
    wait_until(lambda: in_all(replicas, body, [["red"], []]))


def test_what_one_takes_in_both_know(replicas: list[httpx.Client], house: House) -> None:
    """Start Training pressed on each is one job, which both name, and it names the request that has asked."""
    pressed = {"action": "START_TRAINING", "project": {"id": 1, "created_at": "2026-11-23T16:42:28Z"}}
    first, second = (each.post("/webhook", json=pressed) for each in replicas)
    assert first.json()["job"] == second.json()["job"], (first.text, second.text)
    known = [each["jobs"] for each in of_all(replicas, "GET", "/jobs")]
    assert [[job["job"] for job in jobs] for jobs in known] == [[first.json()["job"]]] * 2
    assert {job["request"] for jobs in known for job in jobs} == {first.headers["x-request-id"]}
