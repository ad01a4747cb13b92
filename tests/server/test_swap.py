"""Versions in the server: swapped in one piece, each answer by one of them, gone from memory afterwards."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
from sqlalchemy import text
from support.processes import wait_until
from support.server import CONFIG, ON_BOTH_DATABASES, House, Houses, choices_config, predict_body, setup_body, tags_of
from support.tiny_model import GREEN, RED, ROLLED, ColourNetwork, RolledNetwork, picture, tiny_bundle

from ram_backend.database.engine import open_database
from ram_backend.errors import DatabaseUnavailable
from ram_backend.jobs.erasure import erase
from ram_backend.labelstudio.predictions import RANDOM_UNTIL
from ram_backend.models import registry
from ram_backend.server import model, swap
from ram_backend.training.drift import write_fit_features
from ram_backend.versions.records import CorrectionsUsed
from ram_backend.versions.table import VersionTable

pytestmark = ON_BOTH_DATABASES


def test_a_published_version_is_served_and_rolled_back(there: House) -> None:
    base = there.scores()
    assert (base[0], base[1]) == (there.setup(), ["red"])
    there.serve(there.make(-5.0))
    lowered = there.scores()
    assert lowered[0] == there.setup()
    assert there.client.get("/versions").json()["versions"] == [lowered[0]]
    assert lowered[0].startswith("colours-v0001-")
    assert lowered[1] == []
    there.serve(there.make(3.0))
    assert there.scores()[1] == ["red"]
    there.roll_back("v0001")
    assert there.scores() == lowered, "the same version and the same scores as before"
    there.roll_back(None)
    assert there.scores() == base, "the very string that the base had before there were versions"
    text = there.client.get("/metrics").text
    swaps = ('ram_version_swaps_total{outcome="swapped"} 4.0', "ram_version_swap_seconds_count 4.0")
    assert all(line in text for line in (*swaps, "ram_versions_served 0.0"))


def test_a_version_on_a_bundle_of_its_own(house: Houses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the server's own bundle, until nobody is served it; where it is gone, that is said."""
    monkeypatch.setattr(model, "find_bundle", lambda name, *_: tiny_bundle(name))
    monkeypatch.setattr(model, "encoder_id_of", lambda *_, **__: RolledNetwork.encoder_id)
    monkeypatch.setattr(model, "load_network", lambda *_, **__: RolledNetwork())
    there, own = house(), {"bundle": ROLLED, "own_bundle": True}
    base = there.scores()
    other = there.client.post("/setup", json=setup_body(CONFIG, there.studio, project="2.5")).json()
    there.serve(there.make(0.0, bundle="e" * 64, lineage=own))
    name, tags, _ = there.scores()
    assert (name.startswith("rolled-v0001-"), tags, there.setup()) == (True, ["green"], name)
    assert there.client.post("/setup", json=setup_body(CONFIG, there.studio, project="2.5")).json() == other
    loaded = weakref.ref(there.services.swap.actual(there.key).model)
    there.roll_back(None)
    assert there.scores() == base
    wait_until(lambda: gc.collect() >= 0 and loaded() is None, seconds=20)
    monkeypatch.setattr(model, "find_bundle", registry.find_bundle)
    there.table.pin(there.key, pinned=False)
    there.publish(there.make(0.0, bundle="e" * 64, lineage=own))
    wait_until(lambda: there.quarantined)
    assert "There is no bundle 'rolled'" in there.quarantined[0]["reason"]
    assert there.scores() == base


def test_a_photo_like_those_learned_from_is_served_later(there: House) -> None:
    red, green, blue = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=np.float32)
    learned = CorrectionsUsed(RANDOM_UNTIL, 3, 250, 260, "c" * 64, withdrawn=0, added=RANDOM_UNTIL)
    scores = []
    for photos in ([red, green], [blue, green]):
        files = write_fit_features(np.array(photos), ["0" * 64, "1" * 64])
        there.serve(there.make(1.0, files=files, lineage={"corrections": learned}))
        scores.append(there.scores()[2])
    assert scores[0] > 0.9 > scores[1], "the lowest first"


def test_a_rollback_brings_the_thresholds_back(there: House) -> None:
    """The versions give the same scores; only where they tick differs."""
    base = there.scores()
    there.serve(there.make(0.0, threshold=0.99))
    before = there.predict()
    assert tags_of(before["results"][0]) == []
    there.serve(there.make(0.0, threshold=0.01))
    assert tags_of(there.predict()["results"][0]) == ["red"]
    there.roll_back("v0001")
    assert there.predict() == before
    there.roll_back(None)
    assert there.scores() == base


def test_new_and_dynamic_tags_have_their_version_too(there: House) -> None:
    config = choices_config("turquoise", "blue")
    dynamic = choices_config(attributes='value="$options"')
    body = predict_body(dynamic, [there.red])
    body["tasks"][0]["data"]["options"] = [{"value": "red"}, {"value": "green"}]
    there.setup(config)
    assert there.scores(config)[1] == []
    assert tags_of(there.client.post("/predict", json=body).json()["results"][0]) == ["red"]
    there.serve(there.make(-5.0))
    assert tags_of(there.client.post("/predict", json=body).json()["results"][0]) == []
    there.serve(there.make(5.0))
    assert there.scores(config)[1] == ["turquoise"]
    assert tags_of(there.client.post("/predict", json=body).json()["results"][0]) == ["red"]


def test_a_version_that_cannot_be_read_for_now_is_asked_for_again(
    house: Houses, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = house()
    first.serve(first.make(-5.0))
    there = first.scores()
    with monkeypatch.context() as patched:
        patched.setattr(swap, "open_version", Mock(side_effect=OSError("Stale file handle")))
        second = house()
        body = predict_body(CONFIG, [second.red])
        answer = second.client.post("/predict", json=body)
    assert (answer.status_code, "can't be loaded now: try again" in answer.json()["error"]) == (503, True)
    wait_until(lambda: second.client.post("/predict", json=body).status_code == 200)
    assert second.scores() == there
    go_on, real = threading.Event(), swap.open_version
    monkeypatch.setattr(swap, "open_version", lambda *args, **options: go_on.wait(30) and real(*args, **options))
    third = house()
    assert third.setup() == there[0], "its name is known before its files are read"
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(third.scores)
        go_on.set()
        assert asking.result(30) == there, "the first prediction waits for it"


def test_a_server_names_versions_that_nobody_asked_it_about(house: Houses) -> None:
    """Behind a round-robin it may be another one that Label Studio has connected."""
    first, second = house(), house()
    assert second.client.get("/versions").json()["versions"] == [first.setup()]
    third = house()
    assert third.client.get("/versions", params={"project": "1"}).json()["versions"] == [first.setup()]
    assert third.client.get("/versions", params={"project": "7"}).json()["versions"] == []


def test_the_database_may_be_away(there: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is served stays, and what happened meanwhile is found out afterwards."""
    there.serve(there.make(-5.0))
    before = there.scores()
    away = Mock(side_effect=DatabaseUnavailable("The database is away."))
    with monkeypatch.context() as patched:
        patched.setattr(VersionTable, "changes", away)
        wait_until(lambda: away.call_count > 1)
        there.publish(there.make(5.0))
        assert there.scores() == before
    for bias in range(6):  # overtaken while they are prepared
        there.publish(there.make(float(bias)))
    wait_until(lambda: there.is_served("v0008"))
    assert there.scores()[0].startswith("colours-v0008-")


def test_a_restored_database_is_believed(there: House) -> None:
    base = there.scores()
    there.serve(there.make(-5.0))
    database = open_database(there.settings)
    with database.writing() as session:
        session.execute(text("DELETE FROM served"))
        session.execute(text("UPDATE backend SET change = 0"))
    database.close()
    wait_until(lambda: there.is_served("base"))
    assert there.scores() == base


def test_a_forgotten_project_is_served_the_base(there: House) -> None:
    base = there.scores()
    there.serve(there.make(-5.0))
    database = open_database(there.settings)
    erase(there.settings, database, there.key)
    database.close()
    wait_until(lambda: there.is_served("base"))
    there.setup()
    assert there.scores() == base


def test_memory_of_the_old_returns(there: House) -> None:
    there.serve(there.make(-5.0))
    there.scores()
    old = there.services.swap.actual(there.key)
    held = [weakref.ref(old), weakref.ref(old.delta)]
    del old
    there.serve(there.make(5.0))
    there.scores()

    wait_until(lambda: gc.collect() >= 0 and all(each() is None for each in held))
    assert "ram_snapshots 2.0" in there.client.get("/metrics").text


def test_what_is_in_work_ends_on_the_old_version(house: Houses) -> None:
    """A request that has begun is answered by the version that it began with, all of it."""
    go_on = threading.Event()

    class Slow(ColourNetwork):
        def encode(self, pixels: np.ndarray) -> np.ndarray:
            if len(pixels) == 3:
                assert go_on.wait(30)
            return super().encode(pixels)

    there = house(network=Slow(), batch_size=3)
    there.serve(there.make(-5.0))
    lowered = there.scores()
    images = [there.studio.upload(f"{number}.png", picture(RED, size=(number + 5, 9))) for number in range(3)]
    body = predict_body(CONFIG, images)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(there.client.post, "/predict", json=body)
        wait_until(lambda: not there.services.batcher._items and "in_progress 1.0" in there.client.get("/metrics").text)
        there.publish(there.make(5.0))
        go_on.set()
        wait_until(lambda: there.is_served("v0002"))
        answer = asking.result(30).json()
    assert answer["model_version"] == lowered[0]
    assert [(each["model_version"], tags_of(each)) for each in answer["results"]] == [(lowered[0], [])] * 3
    assert there.scores()[1] == ["red"]


def test_no_request_fails_or_mixes_while_versions_change(there: House) -> None:
    """16 clients, 60 swaps: each answer's scores are those of the version that it names."""
    there.setup()
    green = there.studio.upload("green.png", picture(GREEN))
    stored = [there.make(bias) for bias in (-5.0, -0.5, 0.4, 5.0, -1.0, 2.0)]
    body = predict_body(CONFIG, [there.red, green, there.red])
    expected: dict[str, Any] = {}
    for each in stored:  # what each of them answers when nothing else happens
        there.roll_back(each.name)
        answer = there.client.post("/predict", json=body).json()
        expected[answer["model_version"]] = answer["results"]
    assert len(expected) == len(stored)
    assert len({str(each) for each in expected.values()}) == len(stored), "they can be told apart by their scores"
    there.table.pin(there.key, pinned=False)
    wrong: list[str] = []
    seen: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=there.client.base_url, timeout=60, trust_env=False) as own:
            while not stop.is_set():
                answer = own.post("/predict", json=body)
                if answer.status_code != 200:
                    wrong.append(answer.text)
                elif answer.json()["results"] != expected.get(answer.json()["model_version"]):
                    wrong.append(f"mixed: {answer.text}")
                else:
                    seen.add(answer.json()["model_version"])

    with ThreadPoolExecutor(16) as pool:
        asking = [pool.submit(ask) for _ in range(16)]
        try:
            for version in 10 * stored:
                there.publish(version)
                wait_until(lambda name=version.name: there.is_served(name) or wrong)
        finally:
            stop.set()
        for each in asking:
            each.result(30)
    assert wrong == []
    assert len(seen) >= 3


def test_a_version_with_a_head_of_its_own(house: Houses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens are the bundle's, its logits those of its own network."""

    class Tuned(ColourNetwork):
        def logits(self, tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
            return -super().logits(tokens, queries)

    asked: list[object] = []
    monkeypatch.setattr(swap, "tuned_network", lambda base, files: asked.append(files) or Tuned())  # type: ignore[func-returns-value]
    there = house()
    before = there.scores()
    there.serve(there.make(0.0, files={"head.safetensors": b"a head"}))
    assert asked == [{"head.safetensors": b"a head"}]
    assert there.scores()[1] == [], "red's logit has changed its sign"
    there.roll_back(None)
    assert there.scores() == before
