"""Whether anything fails, mixes or slows down while a project's version is swapped under load.

    python benchmarks/swap_under_load.py [--clients 16] [--versions 20] [--rounds 3] [--tags 160]

Starts `ram-backend serve` with the starter on an empty data folder, a local server that plays Label Studio's file
routes with the bundled photos, and clients that ask `/predict` without pause for two tasks at a time. The versions are
made beforehand, and what each of them has to answer is computed here, without the server. First nothing is swapped;
then one version after another is published by writing its row, and a request counts as "during" when it was under way
between that moment and the first answer of the new version. A response is mixed where anything in it is not what the
version that it names computes.

What this doesn't show: the photos are few and asked for again and again, so all but the first requests find their
tokens in the cache, and nothing is decoded or encoded during a swap; and no worker runs beside the server, which in a
real installation trains on the same cores shortly before each swap.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from photo_studio import start_label_studio
from serving import SERVE, Caller, _port, _wait_ready, borrow, config, setup_body

from ram_backend.database.migrate import open_migrated
from ram_backend.demo import photo_paths
from ram_backend.images.decode import decode
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.predictions import prediction
from ram_backend.models.delta import Delta
from ram_backend.models.network import load_network
from ram_backend.models.registry import find_bundle
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.server.model import ModelIdentity
from ram_backend.server.predict import scored_choices
from ram_backend.server.resolved_config import resolve_config
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import TOKEN_DTYPE, Tagger
from ram_backend.versions.directory import write_version
from ram_backend.versions.records import CorrectionsUsed, Lineage
from ram_backend.versions.table import VersionTable

PROJECT = "1.1"
NEAR = 1e-5
Expected = Mapping[str, Sequence[tuple[frozenset[str], float]]]
"""By version: per photo the ticked tags and their confidence (the prediction's score is the order's: random)."""


@dataclass(frozen=True)
class Answer:
    """One request: when it was under way, which version answered, and what was wrong with it ("" = nothing)."""

    began: float
    ended: float
    version: str
    wrong: str


def predict_body(numbers: Sequence[int], label_config: str) -> bytes:
    tasks = [
        {"id": number + 1, "data": {"image": f"/data/upload/1/{number}.jpg"}, "annotations": [], "predictions": []}
        for number in numbers
    ]
    return json.dumps({"tasks": tasks, "project": PROJECT, "label_config": label_config, "params": {}}).encode()


def judged(status: int, body: bytes, numbers: Sequence[int], expected: Expected) -> tuple[str, str]:
    """(version, what is wrong) of an answer."""
    if status != 200:
        return "", f"failed: {status} {body[:200]!r}"
    answer = json.loads(body)
    named = {answer["model_version"], *(each["model_version"] for each in answer["results"])}
    parts = answer["model_version"].split("-")
    version = parts[1] if len(parts) == 3 else "base"
    if len(named) != 1:
        return version, f"mixed: {sorted(named)}"
    for number, found in zip(numbers, answer["results"], strict=True):
        ticked, confidence = expected[version][number]
        said, sure = ticks(found)
        if said != ticked or abs(sure - confidence) > NEAR:
            return version, f"mixed: photo {number} isn't what {version} computes"
    return version, ""


def ticks(made: Mapping[str, Any]) -> tuple[frozenset[str], float]:
    """Ticked tags of a prediction with one control, and its confidence (0 where nothing is ticked)."""
    items = made["result"]
    tags = frozenset(path[-1] for item in items for path in item["value"]["taxonomy"])
    return tags, sum(item["score"] for item in items)


def load(port: int, clients: int, label_config: str, expected: Expected, ready: Any, stop: Any, result: Any) -> None:
    """Asks without pause from so many threads until told to stop; puts all answers."""
    answers: list[Answer] = []
    photos = len(next(iter(expected.values())))

    def work(first: int) -> None:
        caller, turn = Caller(port), first
        while not stop.is_set():
            numbers = (turn % photos, (turn + 1) % photos)
            turn += 1
            began = time.perf_counter()
            status, body = caller.ask("POST", "/predict", predict_body(numbers, label_config))
            ended = time.perf_counter()
            answers.append(Answer(began, ended, *judged(status, body, numbers, expected)))
            if len(answers) > 3 * clients:
                ready.set()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.put(answers)


def some_delta(tags: Sequence[str], width: int, seed: int) -> Delta:
    """A version that differs clearly from all others."""
    random = np.random.default_rng(seed)
    count = len(tags)
    return Delta(
        tags=tuple(tags),
        base_scale=np.exp(random.normal(0, 0.2, count)).astype(np.float32),
        weight=random.normal(0, 0.3 / np.sqrt(width), (count, width)).astype(np.float32),
        bias=random.normal(0, 1, count).astype(np.float32),
        thresholds=random.uniform(0.3, 0.6, count).astype(np.float32),
    )


def make_versions(
    settings: Settings, table: VersionTable, key: ProjectKey, tags: Sequence[str], count: int
) -> Expected:
    """Writes the versions, and computes what each of them says about each bundled photo."""
    bundle = find_bundle(settings.bundle, settings.bundles_dir)
    network = load_network(bundle, device=settings.device, precision=settings.precision, threads=1)
    preprocessing = bundle.preprocessing
    images = [
        decode(
            path,
            exif_orientation=preprocessing.exif_orientation,
            alpha=preprocessing.alpha,
            max_pixels=settings.max_image_pixels,
            max_bytes=settings.max_image_bytes,
        )[0]
        for path in photo_paths()
    ]
    identity = ModelIdentity(bundle, network.encoder_id)
    resolved = resolve_config(identity, parse_label_config(config(tags)), Project(key))
    (control,) = resolved.controls.values()
    plain = Tagger(bundle, network, resolve_subset(bundle, control.texts), token_dtype=TOKEN_DTYPE)
    tokens = plain.encode(images)

    def says(tagger: Tagger) -> list[tuple[frozenset[str], float]]:
        found = scored_choices(control, tagger.score(tokens).scores, tagger.thresholds)
        name = resolved.schema.tag_controls[0].name
        made = [prediction(resolved.schema, {name: choices}, model_version="") for choices in found]
        return [ticks(each) for each in made]

    expected = {"base": says(plain)}
    for number in range(count):
        delta = some_delta(tags, network.token_shape[1], number)
        lineage = Lineage(
            parent=None,
            bundle=bundle.name,
            bundle_digest=bundle.digest,
            encoder_id=network.encoder_id,
            corrections=CorrectionsUsed(0, 0, 0, 0, ""),
            trainer="random",
            params={},
            seed=number,
            metrics_before={},
            metrics_after={},
            gate_share=0.0,
            code_version="",
            created_at=datetime.now(UTC),
        )
        verdict = {"outcome": "accept", "reason": "made for a benchmark"}
        stored = write_version(settings.versions_dir, key, delta, {}, lineage, verdict)
        table.record(stored)
        expected[stored.name] = says(plain.with_version(delta, stored.digest))
    return expected


def swap_all(port: int, table: VersionTable, key: ProjectKey, names: Sequence[str]) -> list[tuple[str, float]]:
    """Publishes one version after another, each as soon as the one before is live; when each was published."""
    published: list[tuple[str, float]] = []
    caller = Caller(port)
    for name in names:
        published.append((name, time.perf_counter()))
        table.publish(key, name, expected=table.served(key).version)
        while f"-{name}-" not in caller.ask("GET", f"/versions?project={PROJECT}")[1].decode():
            time.sleep(0.02)
        time.sleep(0.5)
    return published


def memory_mb(process: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def report(answers: Sequence[Answer], published: Sequence[tuple[str, float]], began: float) -> bool:
    """Prints the figures; whether they are what they should be."""
    windows = []
    for (name, at), (_, then) in zip(published, [*published[1:], ("", float("inf"))], strict=True):
        first = min((each.ended for each in answers if each.version == name and each.ended > at), default=then)
        windows.append((at, min(first, then)))
    before = [each for each in answers if each.began >= began and each.ended < published[0][1]]
    during = [each for each in answers if any(each.began < end and each.ended > start for start, end in windows)]
    swapping = [each for each in answers if each.began >= published[0][1]]
    print(f"{'':<34} {'n':>7} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    p99: dict[str, float] = {}
    for name, some in (("before", before), ("during a swap", during), ("all of the swapping phase", swapping)):
        times = [1000 * (each.ended - each.began) for each in some]
        p50, p99[name] = np.percentile(times, [50, 99])
        print(f"{name:<34} {len(times):>7} {p50:>8.1f} {p99[name]:>8.1f} {max(times):>8.1f}")
    to_live = [end - start for start, end in windows]
    print(f"from row to first answer: median {np.median(to_live):.2f} s, longest {max(to_live):.2f} s")
    failed = [each.wrong for each in answers if each.wrong.startswith("failed")]
    mixed = [each.wrong for each in answers if each.wrong.startswith("mixed")]
    ratio = p99["during a swap"] / p99["before"]
    print(f"swaps {len(published)}, failed requests {len(failed)}, mixed responses {len(mixed)} of {len(answers)}")
    print(f"p99 during a swap is {ratio:.2f} times that before (wanted: at most 1.5)")
    for wrong in (*failed[:3], *mixed[:3]):
        print(wrong)
    return not failed and not mixed and ratio <= 1.5


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tags", type=int, default=160)
    parser.add_argument("--seconds", type=float, default=20, help="of the phase before")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    studio, hostname = start_label_studio()
    key = ProjectKey(hostname, 1, 1)
    good = False
    with tempfile.TemporaryDirectory() as folder:
        borrow(load_settings(), Path(folder))
        settings = load_settings(data_dir=Path(folder))
        table = VersionTable(open_migrated(settings))
        tags = find_bundle(settings.bundle, settings.bundles_dir).vocabulary.names[: options.tags]
        expected = make_versions(settings, table, key, tags, options.versions)
        environment = {**os.environ, "RAM_DATA_DIR": folder, "RAM_LOG_LEVEL": "warning"}
        with subprocess.Popen(SERVE, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                port = _port(process)
                _wait_ready(port)
                Caller(port).ask("POST", "/setup", setup_body(hostname, config(tags), PROJECT))
                print(
                    f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.clients} clients,"
                    f" {options.tags} tags, {options.versions} versions, {options.rounds} rounds"
                )
                ready, stop, result = spawn.Event(), spawn.Event(), spawn.Queue()
                given = (port, options.clients, config(tags), expected, ready, stop, result)
                clients = spawn.Process(target=load, args=given)
                clients.start()
                ready.wait(120)
                began = time.perf_counter()
                time.sleep(options.seconds)
                start = memory_mb(process.pid)
                published: list[tuple[str, float]] = []
                for _ in range(options.rounds):
                    published += swap_all(port, table, key, [name for name in expected if name != "base"])
                end = memory_mb(process.pid)
                stop.set()
                answers: list[Answer] = result.get(timeout=120)
                clients.join()
                good = report(answers, published, began)
                print(f"memory of the server: {start:.0f} MB before the first swap, {end:.0f} MB after the last")
            finally:
                process.terminate()
                process.wait(120)
    studio.terminate()
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
