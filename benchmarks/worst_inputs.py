"""How others fare while one project sends the worst inputs there are, and what ordinary images cost.

    python benchmarks/worst_inputs.py [--ordinary 10000] [--before FOLDER] [--rest 60]

Starts `ram-backend serve` with the settings of the environment (RAM_THREADS, for instance). Without `--ordinary`: one
project sends all of `worst_inputs` at the same time, three times over, while another one asks `/predict` for a small
image that is new each time, and `/health` is asked; prints the times, and the memory of the server with its processes
before (its text encoder is loaded by a first new tag), at most, and after `--rest` seconds. With it: the CPU time of
that many photos, and of as many with the package in another folder, in turns.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from photo_studio import start_label_studio
from PIL import Image
from serving import SERVE, TAGS, Caller, _port, _wait_ready, borrow, config, predict_body, setup_body

from ram_backend.labelstudio.request_models import MAX_CONTAINERS, MAX_VALUES
from ram_backend.settings import load_settings

SIDE = 9_990
ROUNDS = 3
PORTION = 500


def encoded(array: Any, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return f"data:;base64,{base64.b64encode(file.getvalue()).decode()}"


def image_body(project: str, image: object, options: object = ()) -> bytes:
    task = {"id": 1, "data": {"image": image, "options": options}}
    return json.dumps({"tasks": [task], "project": project, "label_config": config(TAGS)}).encode()


def worst_inputs() -> Iterator[tuple[str, str, bytes]]:
    """(name, route, body) of each."""
    rgb = np.full((SIDE, SIDE, 3), 90, np.uint8)
    for kind, options in (("JPEG2000", {}), ("AVIF", {"speed": 10}), ("WEBP", {"lossless": True, "method": 0})):
        yield kind, "/predict", image_body("1.1", encoded(rgb, kind, **options))
    yield "progressive JPEG", "/predict", image_body("1.1", encoded(rgb, "JPEG", progressive=True))
    floats, grey = np.full((SIDE, SIDE), 3.5, np.float32), np.full((SIDE, SIDE), 3_000, np.uint16)
    yield "float TIFF", "/predict", image_body("1.1", encoded(floats, "TIFF", compression="tiff_lzw"))
    yield "16-bit PNG", "/predict", image_body("1.1", encoded(grey, "PNG"))
    rgba = np.full((SIDE, SIDE, 4), 90, np.uint8)
    yield "RGBA PNG", "/predict", image_body("1.1", encoded(rgba, "PNG"))
    yield "string of 30 MB", "/predict", image_body("1.1", "data:," + "a" * 30_000_000)
    yield "most values", "/predict", image_body("1.1", "x", [1] * (MAX_VALUES - 100))
    yield "most objects", "/predict", image_body("1.1", "x", [{}] * (MAX_CONTAINERS - 100))
    yield "percent signs", "/predict", image_body("1.1", "/data/" + "%" * 20_000_000)
    words = config([f"invented {number}" for number in range(10_000)])
    yield "10,000 new tags", "/setup", setup_body("http://127.0.0.1:1", words, "1.1")


def memory(process: psutil.Process) -> int:
    """Resident bytes of a process and those that it started."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def cpu_seconds(process: psutil.Process) -> float:
    times = [each.cpu_times() for each in [process, *process.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


@contextmanager
def server(source: Path | None = None) -> Iterator[tuple[int, psutil.Process]]:
    """A server on an empty data folder: its port and its process; `source`: where the package is."""
    with tempfile.TemporaryDirectory() as folder:
        borrow(load_settings(), Path(folder))
        more = {"RAM_DATA_DIR": folder, "RAM_LOG_LEVEL": "error", "RAM_PORT": "0"}
        path = {} if source is None else {"PYTHONPATH": str(source)}
        with subprocess.Popen(SERVE, stdout=subprocess.PIPE, text=True, env={**os.environ, **more, **path}) as process:
            try:
                port = _port(process)
                _wait_ready(port)
                yield port, psutil.Process(process.pid)
            finally:
                process.terminate()


def repeated(stop: Event, times: Queue[list[float]], pause_s: float, ask: Callable[[int], int]) -> None:
    """Asks again and again until it is stopped; then puts the seconds of each answer."""
    found: list[float] = []
    while not stop.is_set():
        started = time.perf_counter()
        status = ask(len(found) + 1)
        found.append(time.perf_counter() - started)
        if status != 200:
            print(f"another project was answered {status}")
        time.sleep(pause_s)
    times.put(found)


def report(name: str, seconds: list[float]) -> None:
    shares = {"p50": 50, "p99": 99, "p99.9": 99.9, "max": 100}
    figures = "   ".join(f"{share} {np.percentile(seconds, at):.3f}" for share, at in shares.items())
    print(f"{name:<24} n {len(seconds):>5}   {figures} s", flush=True)


def attack(rest_s: float) -> None:
    """Sends the worst inputs, and times the others."""
    bodies = list(worst_inputs())
    with server() as (port, process):
        caller, healthy = Caller(port), Caller(port)
        caller.ask("POST", "/setup", setup_body("http://127.0.0.1:1", config([*TAGS, "a first new tag"]), "2.1"))

        def predict(number: int) -> int:
            small = np.full((40, 40, 3), (number % 256, number // 256 % 256, 7), np.uint8)
            return caller.ask("POST", "/predict", image_body("2.1", encoded(small, "PNG")))[0]

        def health(_: int) -> int:
            return healthy.ask("GET", "/health")[0]

        predict(0)
        time.sleep(10)
        before, peak, stop = memory(process), [0], multiprocessing.Event()

        def watch() -> None:
            while not stop.wait(0.05):
                peak[0] = max(peak[0], memory(process))

        watching = threading.Thread(target=watch)
        watching.start()
        asked = {"/predict, small image": (0.2, predict), "/health": (0.02, health)}
        times: dict[str, Queue[list[float]]] = {name: multiprocessing.Queue() for name in asked}
        # in processes of their own: they measure the server, not what the senders' threads wait for each other
        askers = [multiprocessing.Process(target=repeated, args=(stop, times[name], *asked[name])) for name in asked]
        for asker in askers:
            asker.start()
        os.nice(10)  # senders are other machines: what they compute isn't the server's load

        def send(name: str, path: str, body: bytes) -> None:
            for number in range(ROUNDS):
                started = time.perf_counter()
                status, answer = Caller(port).ask("POST", path, body)
                seconds = time.perf_counter() - started
                if number == 0:
                    print(f"{name:<24} {status} after {seconds:>6.1f} s   {answer[:60]!r}", flush=True)

        senders = [threading.Thread(target=send, args=each) for each in bodies]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        stop.set()
        watching.join()
        for name in asked:
            report(name, times[name].get())
        time.sleep(rest_s)
        after = memory(process)
        print(f"memory: {before / 1e6:.0f} MB, at most {peak[0] / 1e6:.0f} MB, {rest_s:g} s later {after / 1e6:.0f} MB")


def ordinary(count: int, earlier: Path) -> None:
    """CPU time of photos with this package and with an earlier one, in turns."""
    studio, hostname = start_label_studio()
    here = Path(__file__).resolve().parent.parent
    with server(earlier) as first, server(here) as second:
        spent = {"before": 0.0, "now": 0.0}
        for port, _ in (first, second):
            Caller(port).ask("POST", "/setup", setup_body(hostname, config(TAGS)))
            Caller(port).ask("POST", "/predict", predict_body(count))
        for start in range(0, count, PORTION):
            for name, (port, process) in zip(spent, (first, second), strict=True):
                caller, began = Caller(port), cpu_seconds(process)
                for number in range(start, min(start + PORTION, count)):
                    status, answer = caller.ask("POST", "/predict", predict_body(number))
                    if status != 200:
                        sys.exit(f"{name}: {status} {answer[:200]!r}")
                spent[name] += cpu_seconds(process) - began
    studio.terminate()
    print(f"{count} photos: {spent['before']:.1f} s of CPU before, {spent['now']:.1f} s now")


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--ordinary", type=int)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rest", type=float, default=60)
    options = parser.parse_args()
    if options.ordinary is None:
        attack(options.rest)
    else:
        ordinary(options.ordinary, options.before)


if __name__ == "__main__":
    main()
