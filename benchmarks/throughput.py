"""How many new images a second are tagged at 16 clients: ours against a plain backend, in turns, in one run.

    python benchmarks/throughput.py [--clients 16] [--seconds 20] [--rounds 3] [--tasks 1]

The plain one is `plain_backend.py`. Both are asked for the same photos through the same clients and get them from the
same file server; every image's bytes are new to both. What clients and file server use of the processor is taken out:
the rate is images per second of the cores that were left for the server (wall time x cores - their CPU time), and
beside it stands images per second of the server's own CPU time, which other programs on the machine disturb less.
Neither server is told how many threads to use: OMP_NUM_THREADS and its like are unset for both.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from photo_studio import start_label_studio
from serving import SERVE, TAGS, Caller, _port, _wait_ready, borrow, config, setup_body

from ram_backend.settings import load_settings

WANTED = 2.0
WARM_UP_S = 3.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAM_THREADS")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """One phase: images, wall seconds, and CPU seconds of the server and of clients and file server."""

    images: int
    wall: float
    server: float
    others: float

    @property
    def rate(self) -> float:
        """Images per second of the cores that the others left, times the cores."""
        cores = cores_here()
        return self.images / (self.wall - self.others / cores)

    @property
    def per_cpu_second(self) -> float:
        """Images per second of the server's CPU time."""
        return self.images / self.server


def cores_here() -> int:
    """Cores that this process, and so the servers, may run on."""
    return len(os.sched_getaffinity(0))


def cpu_seconds(process: int) -> float:
    """CPU time of a process with all its threads so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def ask_all(port: int, clients: int, tasks: int, numbers: Any, done: Any, stop: Any) -> None:
    """Asks `/predict` for so many tasks at a time, from so many threads, until told to stop; each image once."""

    def work() -> None:
        caller = Caller(port)
        while not stop.is_set():
            with numbers.get_lock():
                first = numbers.value
                numbers.value += tasks
            status, answer = caller.ask("POST", "/predict", body_of(range(first, first + tasks)))
            if status != 200 or len(json.loads(answer)["results"]) != tasks:
                raise SystemExit(f"/predict answered {status}: {answer[:300]!r}")
            with done.get_lock():
                done.value += tasks

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def body_of(numbers: range) -> bytes:
    """A request for the tasks of these numbers."""
    tasks = [
        {"id": number, "data": {"image": f"/data/upload/1/{number}.jpg"}, "annotations": [], "predictions": []}
        for number in numbers
    ]
    return json.dumps({"tasks": tasks, "project": "1.1", "label_config": config(TAGS), "params": {}}).encode()


def phase(port: int, server: int, studio: int, options: argparse.Namespace, numbers: Any) -> Measured:
    """Asks one server for a while, after a moment in which it gets going."""
    spawn = multiprocessing.get_context("spawn")
    done, stop = spawn.Value("i", 0), spawn.Event()
    clients = spawn.Process(target=ask_all, args=(port, options.clients, options.tasks, numbers, done, stop))
    clients.start()
    while done.value < options.clients * options.tasks and clients.is_alive():
        time.sleep(0.05)
    time.sleep(WARM_UP_S)
    assert clients.pid is not None

    def now() -> tuple[int, float, float, float]:
        others = cpu_seconds(clients.pid or 0) + cpu_seconds(studio)
        return done.value, time.perf_counter(), cpu_seconds(server), others

    start = now()
    time.sleep(options.seconds)
    end = now()
    stop.set()
    clients.join()
    images, wall, own, others = (after - before for before, after in zip(start, end, strict=True))
    return Measured(int(images), wall, own, others)


@contextmanager
def running(command: tuple[str, ...], environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    """A server; (port, process id)."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield _port(process), process.pid
        finally:
            process.terminate()
            process.wait(120)


def report(name: str, measured: Measured) -> None:
    """One line."""
    print(
        f"{name:<8} {measured.images:>7} {measured.wall:>7.1f} {measured.server:>9.1f} {measured.others:>9.1f}"
        f" {measured.images / measured.wall:>10.1f} {measured.rate:>12.1f} {measured.per_cpu_second:>14.1f}",
        flush=True,
    )


def main() -> None:
    """Runs both in turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=1, help="tasks in one request")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    studio, hostname = start_label_studio()
    numbers = spawn.Value("q", 0)
    good = False
    with tempfile.TemporaryDirectory() as folder:
        borrow(load_settings(), Path(folder))
        environment = {name: value for name, value in os.environ.items() if name not in _THREADS}
        environment |= {"RAM_DATA_DIR": folder, "RAM_LOG_LEVEL": "warning"}
        plain_command = (sys.executable, str(Path(__file__).with_name("plain_backend.py")), hostname)
        with running(SERVE, environment) as ours, running(plain_command, environment) as plain:
            _wait_ready(ours[0])
            Caller(ours[0]).ask("POST", "/setup", setup_body(hostname, config(TAGS)))
            print(
                f"{platform.processor() or platform.machine()}, {cores_here()} cores, {options.clients} clients,"
                f" {options.tasks} task(s) a request, {len(TAGS)} tags"
            )
            print(
                f"{'':<8} {'images':>7} {'wall s':>7} {'server s':>9} {'others s':>9} {'images/s':>10}"
                f" {'others apart':>12} {'per CPU second':>14}"
            )
            assert studio.pid is not None
            pairs: list[tuple[Measured, Measured]] = []
            for _ in range(options.rounds):
                pair = []
                for name, (port, process) in (("ours", ours), ("plain", plain)):
                    pair.append(phase(port, process, studio.pid, options, numbers))
                    report(name, pair[-1])
                pairs.append((pair[0], pair[1]))
            ratios = [mine.rate / other.rate for mine, other in pairs]
            by_cpu = statistics.median(mine.per_cpu_second / other.per_cpu_second for mine, other in pairs)
            ratio = statistics.median(ratios)
            good = ratio >= WANTED
            print(
                f"ours / plain, clients apart: {ratio:.2f} (rounds: {', '.join(f'{each:.2f}' for each in ratios)};"
                f" wanted: at least {WANTED:g}); by the servers' CPU time: {by_cpu:.2f}"
            )
    studio.terminate()
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
