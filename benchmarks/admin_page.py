"""How quickly the admin's page shows many projects, and the webhook while browsers poll the page.

    python benchmarks/admin_page.py [--projects 200] [--corrected 30] [--pollers 5] [--seconds 20]

Starts `ram-backend serve` with the settings of the environment; that many projects ask for predictions of two bundled
photos each, and each gets that many annotations. Prints the times of the list and of each project's view, one after
the other, and those of the webhook without and with browsers that ask for the list and for views again and again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from collections.abc import Iterator

from photo_studio import start_label_studio
from serving import TAGS, Caller, config, setup_body
from worst_inputs import report, server

PHOTOS = 2
NOW = "2026-11-23T16:55:21.213760Z"


def predictions_wanted(project: int) -> bytes:
    tasks = [{"id": 1000 * project + number, "data": {"image": photo(number)}} for number in range(PHOTOS)]
    return json.dumps({"tasks": tasks, "project": f"{project}.1", "label_config": config(TAGS)}).encode()


def photo(number: int) -> str:
    return f"/data/upload/1/{number}.jpg"


def events_of(project: int) -> Iterator[bytes]:
    """Webhook bodies; the tags go round."""
    for number in itertools.count():
        task = {"id": 1000 * project + number % 1000, "data": {"image": photo(number % PHOTOS)}, "project": project}
        chosen = [[TAGS[(project + number) % len(TAGS)]], [TAGS[number % len(TAGS)]]]
        choice = {"id": "t", "from_name": "tags", "to_name": "image", "type": "taxonomy", "value": {"taxonomy": chosen}}
        annotation = {
            "id": 100_000 * project + number, "task": task["id"], "project": project, "completed_by": 1,
            "result": [choice], "was_cancelled": False, "ground_truth": False, "created_at": NOW, "updated_at": NOW,
        }  # fmt: skip
        about = {"id": project, "created_at": "1970-01-01T00:00:01Z", "label_config": config(TAGS)}
        body = {"action": "ANNOTATION_CREATED", "project": about, "annotation": annotation, "task": task}
        yield json.dumps(body).encode()


def timed(caller: Caller, method: str, path: str, body: bytes | None = None) -> float:
    started = time.perf_counter()
    status, answer = caller.ask(method, path, body)
    if status not in (200, 201):
        raise SystemExit(f"{method} {path} answered {status}: {answer[:300]!r}")
    return time.perf_counter() - started


def webhooks(caller: Caller, bodies: Iterator[bytes], seconds: float) -> list[float]:
    end, times = time.perf_counter() + seconds, []
    while time.perf_counter() < end:
        times.append(timed(caller, "POST", "/webhook", next(bodies)))
        time.sleep(0.01)
    return times


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    for name, default in (("projects", 200), ("corrected", 30), ("pollers", 5), ("seconds", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    studio, hostname = start_label_studio()
    numbers = range(1, options.projects + 1)
    with server() as (port, _):
        caller = Caller(port)
        for number in numbers:
            timed(caller, "POST", "/setup", setup_body(hostname, config(TAGS), f"{number}.1"))
            timed(caller, "POST", "/predict", predictions_wanted(number))
            for body in itertools.islice(events_of(number), options.corrected):
                timed(caller, "POST", "/webhook", body)
        report("/ (first)", [timed(caller, "GET", "/")])
        report("/", [timed(caller, "GET", "/") for _ in range(10)])
        report("/projects/N (first)", [timed(caller, "GET", f"/projects/{number}.1") for number in numbers])
        bodies = events_of(options.projects + 1)
        report("/webhook, alone", webhooks(caller, bodies, options.seconds))
        stop = threading.Event()

        def poll() -> None:
            browser, paths = Caller(port), itertools.cycle(["/", *(f"/projects/{number}.1" for number in numbers[:20])])
            while not stop.is_set():
                seen.append(timed(browser, "GET", next(paths)))
                time.sleep(0.5)

        seen: list[float] = []
        pollers = [threading.Thread(target=poll) for _ in range(options.pollers)]
        for each in pollers:
            each.start()
        report("/webhook, page polled", webhooks(caller, bodies, options.seconds))
        stop.set()
        for each in pollers:
            each.join()
        report("views of the pollers", seen)
    studio.terminate()


if __name__ == "__main__":
    main()
