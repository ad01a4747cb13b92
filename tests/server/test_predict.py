"""`/predict` over a real connection: one prediction per task, in order, whatever the tasks are."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import CONFIG, Start, choices_config, connect, predict_body, results, tags_of, ticked
from support.tiny_model import BLUE, GREEN, RED, ColourNetwork, inline, picture


def many(studio: FakeLabelStudio, count: int) -> list[str]:
    """Images of different content."""
    return [studio.upload(f"{place}.png", picture((place, 0, 0))) for place in range(count)]


@pytest.fixture
def red(studio: FakeLabelStudio) -> str:
    return studio.upload("red.png", picture(RED))


def test_one_broken_image_costs_one_empty_prediction(start: Start, studio: FakeLabelStudio) -> None:
    """Of 200 tasks; the order is kept."""
    client = start(max_image_bytes=300_000, network=(network := ColourNetwork()))
    version = connect(client, studio)
    chance, colours = random.Random(7), {"red": RED, "green": GREEN, "blue": BLUE}
    names = [chance.choice(list(colours)) for _ in range(200)]
    images: list[object] = [studio.upload(f"{place}.png", picture(colours[name])) for place, name in enumerate(names)]
    whole = picture(RED, (900, 700), "JPEG")
    files = {"cut.jpg": whole[: len(whole) // 2], "over.png": picture(RED) + bytes(400_000), "text.jpg": b"text" * 99}
    broken = [studio.upload(name, data) for name, data in files.items()]
    broken += [None, "", 7, "ftp://example.com/a.jpg", "http://127.0.0.1:1/a.jpg", "data:,nothing", "/data/none.jpg"]
    images[10:20] = broken
    names[10:20] = [""] * 10
    found = results(client, predict_body(CONFIG, images))
    assert found[10:20] == [{"model_version": version, "score": 1.0, "result": []}] * 10
    assert [tags_of(result) for result in found] == [[name] if name else [] for name in names]
    assert max(network.batches) <= 4, "never more at once than the size that was set"
    metrics = client.get("/metrics").text
    assert 'ram_tasks_total{outcome="broken"} 10.0' in metrics
    assert 'ram_tasks_total{outcome="tagged"} 190.0' in metrics
    assert 'ram_images_total{outcome="ImageTooLarge"} 1.0' in metrics


def test_label_studio_out_of_order_fails_all_of_it(client: httpx.Client, studio: FakeLabelStudio, red: str) -> None:
    connect(client, studio)
    for status in (500, 503, 401):
        studio.status = status
        answer = client.post("/predict", json=predict_body(CONFIG, [red] * 3))
        assert (answer.status_code, "Label Studio" in answer.json()["error"]) == (503, True), status
        assert "legacy-token" not in answer.text
    studio.status = None
    assert ticked(client, predict_body(CONFIG, [red])) == [["red"]]


def test_asking_twice_gives_the_same_and_encodes_once(start: Start, studio: FakeLabelStudio) -> None:
    client = start(network=(network := ColourNetwork()))
    connect(client, studio)
    images, others = many(studio, 12), choices_config("blue", "red")
    first = results(client, predict_body(CONFIG, images))
    assert sum(network.batches) == 12
    assert results(client, predict_body(CONFIG, images)) == first
    assert sum(network.batches) == 12
    connect(client, studio, others, project="2.5")
    results(client, predict_body(others, images, "2.5"))
    assert sum(network.batches) == 12, "another project pays for the head alone"


def test_projects_never_see_each_others_tags(client: httpx.Client, studio: FakeLabelStudio, red: str) -> None:
    first, second = choices_config("red", "green"), choices_config("crimson", "blue")
    versions = {connect(client, studio, first), connect(client, studio, second, project="1.99")}
    assert len(versions) == 2
    pairs = [(first, "1.1795452148"), (second, "1.99")]
    found = [results(client, predict_body(config, [red], project))[0] for config, project in pairs]
    assert [tags_of(result) for result in found] == [["red"], ["crimson"]]
    assert {result["model_version"] for result in found} == versions


def test_a_changed_label_config_and_one_without_setup_hold_at_once(
    client: httpx.Client, studio: FakeLabelStudio
) -> None:
    before = connect(client, studio)
    changed = choices_config("green", "blue")
    (result,) = results(client, predict_body(changed, [studio.upload("a.png", picture(BLUE))]))
    assert tags_of(result) == ["blue"]
    assert result["model_version"] != before
    assert connect(client, studio, changed) == result["model_version"]
    body = predict_body(CONFIG, [inline(RED)], "77.1")
    assert ticked(client, body)[0] == ["red"], "of a project that never said /setup"
    del body["project"]
    assert ticked(client, body)[0] == ["red"]


def test_dynamic_choices_come_with_the_task(client: httpx.Client, studio: FakeLabelStudio, red: str) -> None:
    config = choices_config(attributes='value="$options"')
    connect(client, studio, config)
    body = predict_body(config, [red] * 3)
    options = ([{"value": "red"}, {"value": "blue"}], [{"value": "crimson"}], [])
    for task, own in zip(body["tasks"], options, strict=True):
        task["data"]["options"] = own
    assert ticked(client, body) == [["red"], ["crimson"], []]


def test_several_controls_and_images(client: httpx.Client, studio: FakeLabelStudio, red: str) -> None:
    config = (
        '<View><Image name="one" value="$one"/><Image name="two" value="$two"/>'
        '<Choices name="left" toName="one"><Choice value="red"/><Choice value="blue"/></Choices>'
        '<Taxonomy name="right" toName="two"><Choice value="colour"><Choice value="green"/></Choice></Taxonomy></View>'
    )
    connect(client, studio, config)
    green = studio.upload("b.png", picture(GREEN))
    body = predict_body(config, [])
    body["tasks"] = [
        {"id": 1, "data": {"one": red, "two": green}},
        {"id": 2, "data": {"one": red, "two": "/data/upload/1/none.png"}},
        {"id": 3, "data": {"three": red}},
    ]
    found = results(client, body)
    assert [tags_of(result, "left") for result in found] == [["red"], ["red"], []]
    assert [tags_of(result, "right") for result in found] == [[["colour", "green"]], [], []]
    assert found[2]["score"] == 1.0


def test_work_for_a_caller_that_is_gone_ends(start: Start, studio: FakeLabelStudio) -> None:
    network = ColourNetwork(seconds=0.05)
    client = start(network=network, batch_size=1)
    connect(client, studio)
    images = many(studio, 100)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/predict", json=predict_body(CONFIG, images), timeout=0.4)
    wait_until(lambda: "ram_predictions_in_progress 0.0" in client.get("/metrics").text)
    assert sum(network.batches) < 60
    text = client.get("/metrics").text
    assert 'route="/predict",status="gone"' in text or 'status="499"' in text


def test_images_that_do_not_come_hold_up_no_other_request(start: Start, studio: FakeLabelStudio) -> None:
    client = start(fetch_threads=8)
    connect(client, studio)
    slow, quick = many(studio, 12), studio.upload("quick.png", picture(GREEN))
    studio.held = dict.fromkeys(slow, threading.Event())
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.post, "/predict", json=predict_body(CONFIG, slow))
        wait_until(lambda: len(set(studio.targets) & set(slow)) == 6)
        answer = client.post("/predict", json=predict_body(CONFIG, [quick]), timeout=25)
        assert tags_of(answer.json()["results"][0]) == ["green"]
        next(iter(studio.held.values())).set()
        assert len(held.result(30).json()["results"]) == 12


def test_images_that_do_not_come_hold_up_no_other_project(start: Start, studio: FakeLabelStudio) -> None:
    """However many requests wait for them, and also when their callers have gone: the threads are still there."""
    client = start(fetch_threads=8)
    connect(client, studio)
    connect(client, studio, project="2.2")
    slow, quick = many(studio, 24), studio.upload("quick.png", picture(GREEN))
    studio.held = dict.fromkeys(slow, threading.Event())
    try:
        for start_of in (0, 8, 16):
            with pytest.raises(httpx.ReadTimeout):
                client.post("/predict", json=predict_body(CONFIG, slow[start_of : start_of + 8]), timeout=0.5)
        answer = client.post("/predict", json=predict_body(CONFIG, [quick], "2.2"), timeout=25)
        assert tags_of(answer.json()["results"][0]) == ["green"]
    finally:
        next(iter(studio.held.values())).set()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "body"),
        (b'{"project": "1.1"}', "tasks"),
        (json.dumps(predict_body("<View/>", ["/a.png"])).encode(), "nothing to tag"),
        (json.dumps(predict_body("<View", ["/a.png"])).encode(), "label config"),
    ],
)
def test_requests_that_cannot_be_answered(client: httpx.Client, body: bytes, said: str) -> None:
    answer = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, said in answer.json()["error"]) == (400, True)
    assert set(answer.json()) == {"error", "type", "request_id"}
