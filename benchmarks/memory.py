"""Whether a server's memory grows with the images that it has predicted.

    python benchmarks/memory.py [--images 10000] [--warm-up 1000] [--clients 4] [--tasks 4]

Starts `ram-backend serve` with the starter on an empty data folder and asks `/predict` for images whose bytes are all
different: the bundled photos in several sizes, with a number after their end. After the warm-up `RssAnon` (memory that
no file stands behind) is read from /proc twice a second. Printed are the mean per 1,000 images, and the slope of a
straight line through all samples, in percent of the mean per 1,000 images. `RssAnon` after the warm-up is compared
only with itself: what loading and the first requests take is no growth.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from photo_studio import play_label_studio, start_label_studio
from PIL import Image
from serving import SERVE, TAGS, Caller, _port, _wait_ready, borrow, config, setup_body
from throughput import ask_all

from ram_backend.demo import photo_paths
from ram_backend.settings import load_settings

SIDES = (240, 400, 640, 1024)
"""Longest sides of the photos: decoders ask for memory in many sizes."""

WANTED = 1.0
PAUSE_S = 0.5


def play_small_photos(port: Any) -> None:
    """The bundled photos in several sizes, behind Label Studio's file routes."""
    contents: list[bytes] = []
    for path in photo_paths():
        with Image.open(path) as photo:
            whole = photo.convert("RGB")
        for side in SIDES:
            small, data = whole.copy(), io.BytesIO()
            small.thumbnail((side, side))
            small.save(data, "JPEG")
            contents.append(data.getvalue())
    play_label_studio(port, contents)


def anonymous_mb(process: int) -> float:
    """Resident memory that no file stands behind."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def slope_percent(images: Sequence[float], megabytes: Sequence[float]) -> float:
    """Growth per 1,000 images along the best straight line, in percent of the mean."""
    slope = np.polyfit(np.asarray(images) / 1000, np.asarray(megabytes), 1)[0]
    return float(100 * slope / np.mean(megabytes))


def report(images: Sequence[int], megabytes: Sequence[float], warm_up: int) -> float:
    """Prints the curve; returns the slope in percent per 1,000 images."""
    seen, memory = np.asarray(images) - warm_up, np.asarray(megabytes)
    print(f"{'images':>8} {'samples':>8} {'mean MB':>9} {'min MB':>9} {'max MB':>9}")
    for start in range(0, int(seen.max()) + 1, 1000):
        some = memory[(seen >= start) & (seen < start + 1000)]
        if len(some):
            print(f"{start + 1000:>8,} {len(some):>8} {some.mean():>9.1f} {some.min():>9.1f} {some.max():>9.1f}")
    slope = slope_percent(images, megabytes)
    half = len(images) // 2
    later = slope_percent(images[half:], megabytes[half:])
    print(
        f"slope {slope:+.3f} % per 1,000 images (second half alone {later:+.3f} %; wanted: below {WANTED:g} %)"
        f" over {int(seen.max()):,} images"
    )
    return slope


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--warm-up", type=int, default=1_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=4, help="tasks in one request")
    parser.add_argument("--seconds", type=float, default=3600, help="stops then at the latest, and reports")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    studio, hostname = start_label_studio(play_small_photos)
    images: list[int] = []
    megabytes: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        borrow(load_settings(), Path(folder))
        environment = {**os.environ, "RAM_DATA_DIR": folder, "RAM_LOG_LEVEL": "warning"}
        with subprocess.Popen(SERVE, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                port = _port(process)
                _wait_ready(port)
                Caller(port).ask("POST", "/setup", setup_body(hostname, config(TAGS)))
                done, stop, numbers = spawn.Value("i", 0), spawn.Event(), spawn.Value("q", 0)
                given = (port, options.clients, options.tasks, numbers, done, stop)
                clients = spawn.Process(target=ask_all, args=given)
                clients.start()
                began, all_of_them = time.monotonic(), options.warm_up + options.images
                while done.value < all_of_them and clients.is_alive() and time.monotonic() - began < options.seconds:
                    time.sleep(PAUSE_S)
                    if done.value >= options.warm_up:
                        images.append(done.value)
                        megabytes.append(anonymous_mb(process.pid))
                rate = done.value / (time.monotonic() - began)
                stop.set()
                clients.join()
            finally:
                process.terminate()
                process.wait(120)
    studio.terminate()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.clients} clients,"
        f" {options.tasks} tasks a request, {options.warm_up:,} images of warm-up, {rate:.1f} images/s"
    )
    slope = report(images, megabytes, options.warm_up)
    raise SystemExit(0 if slope < WANTED else 1)


if __name__ == "__main__":
    main()
