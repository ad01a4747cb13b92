"""What would hold Python's lock or much memory is done in other processes, or in small portions."""

import multiprocessing
import os
import signal

import httpx
import pytest
from images.pictures import encoded
from PIL import Image, features
from security.hosting import MemoryWatch
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import choices_config, predict_body, setup_body, ticked
from support.tiny_model import RED, picture

from ram_backend.images.decode import decode
from ram_backend.server import processes as worker_processes
from ram_backend.tagging import image_loader

CONFIG = choices_config("red", "green")
JSON = {"Content-Type": "application/json"}
LARGE_BODY = b'{"action": "' + b"x" * 1_100_000 + b'"}'


def processes() -> set[int | None]:
    return {each.pid for each in multiprocessing.active_children()}


def red(kind: str, side: int) -> bytes:
    return picture(RED, (side, side), kind)


def test_large_bodies_are_parsed_elsewhere(client: httpx.Client) -> None:
    before = processes()
    assert client.post("/webhook", json={"action": "x" * 900_000}).status_code == 200
    assert not processes() - before
    for _ in range(2):
        assert client.post("/webhook", content=LARGE_BODY, headers=JSON).status_code == 200
    assert processes() - before
    refused = client.post("/predict", content=LARGE_BODY, headers=JSON)
    assert (refused.status_code, "tasks" in refused.json()["error"]) == (400, True), "and what is wrong is said"
    for pid in processes() - before:
        os.kill(pid or 0, signal.SIGKILL)
    wait_until(lambda: client.post("/webhook", content=LARGE_BODY, headers=JSON).status_code == 200)  # by another one


@pytest.mark.parametrize("kind", ["JPEG2000", "WEBP", "AVIF", "large"])
def test_images_that_hold_the_lock_are_decoded_elsewhere(
    client: httpx.Client, studio: FakeLabelStudio, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    if kind == "large":
        monkeypatch.setattr(image_loader, "LARGE_PIXELS", 600_000)
    client.post("/setup", json=setup_body(CONFIG, studio))
    before = processes()
    images = [studio.upload(f"{side}.x", red("PNG" if kind == "large" else kind, side)) for side in (60, 800)]
    assert ticked(client, predict_body(CONFIG, images[:1])) == [["red"]]
    assert not processes() - before
    assert ticked(client, predict_body(CONFIG, images[1:])) == [["red"]]
    assert processes() - before


def test_processes_without_work_end(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ram_backend.server.processes.IDLE_S", 0.05)
    before = processes()
    assert client.post("/webhook", content=LARGE_BODY, headers=JSON).status_code == 200
    wait_until(lambda: not processes() - before)
    assert client.post("/webhook", content=LARGE_BODY, headers=JSON).status_code == 200, "others are started"


def test_the_memory_of_an_image(client: httpx.Client, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_processes, "BYTES_PER_PIXEL", 0)
    monkeypatch.setattr(worker_processes, "OTHER_BYTES", 45_000_000)
    client.post("/setup", json=setup_body(CONFIG, studio))
    images = [studio.upload(f"{side}.webp", red("WEBP", side)) for side in (800, 3000)]
    assert ticked(client, predict_body(CONFIG, images)) == [["red"], []]
    assert ticked(client, predict_body(CONFIG, [studio.upload("801.webp", red("WEBP", 801))])) == [["red"]]


@pytest.mark.parametrize("mode", ["F", "I", "RGBA"])
def test_no_step_takes_memory_for_all_pixels(mode: str) -> None:
    """Floats of 100 megapixels took 3 GB: eight copies, half of them of eight bytes a pixel."""
    pixels = 16_000_000
    data = encoded(Image.new(mode, (4000, 4000), 3), "PNG" if mode == "RGBA" else "TIFF")
    for _ in range(2):
        with MemoryWatch() as memory:
            image, _ = decode(data, exif_orientation=True, alpha="white", max_pixels=pixels, max_bytes=10**9)
    assert memory.grown < 4 * 4 * pixels
    assert image.mode == "RGB"
