"""How long the starter takes for one photo: decoding, preprocessing, encoder and head, everything loaded, one thread.

    python benchmarks/starter_latency.py [--tags 100] [--runs 60] [--torch]

`--torch` also times the encoder in torch, in turns with onnxruntime, and prints the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ram_backend.demo import photo_paths
from ram_backend.images.decode import decode
from ram_backend.models.network import load_network
from ram_backend.models.registry import find_bundle
from ram_backend.settings import load_settings
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger


def milliseconds(steps: list[Callable[[], Any]], runs: int) -> list[list[float]]:
    """Times several steps in turns: runs for each, in milliseconds."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(runs):
        for step, kept in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            kept.append(1000 * (time.perf_counter() - start))
    return times


def summary(times: list[float]) -> str:
    """Fastest, median and 90th percentile."""
    return (
        f"min {min(times):.1f} ms, median {statistics.median(times):.1f} ms,"
        f" 90th percentile {statistics.quantiles(times, n=10)[-1]:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tags", type=int, default=100)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--torch", action="store_true")
    chosen = parser.parse_args()
    bundle = find_bundle(chosen.bundle, load_settings().bundles_dir, progress=print)
    network = load_network(bundle, threads=1)
    names = bundle.vocabulary.names[:: max(1, len(bundle.vocabulary) // chosen.tags)][: chosen.tags]
    tagger = Tagger(bundle, network, resolve_subset(bundle, names))
    contents = [path.read_bytes() for path in photo_paths()]
    turn = iter(range(10**9))

    def one_photo() -> None:
        content = contents[next(turn) % len(contents)]
        image = decode(
            content, exif_orientation=True, alpha="white", max_pixels=10**8, max_bytes=10**8, draft_size=260
        )[0]
        tagger.tag([image])

    milliseconds([one_photo], 5)
    (times,) = milliseconds([one_photo], chosen.runs)
    print(f"one photo, {len(names)} tags, 1 thread: {summary(times)}")
    pixels = np.random.default_rng(0).standard_normal((1, 3, 260, 260)).astype(np.float32)
    tokens = network.encode(pixels)
    queries = network.select(list(range(len(names))))
    parts = milliseconds([lambda: network.encode(pixels), lambda: network.logits(tokens, queries)], chosen.runs)
    print(f"  encoder: {summary(parts[0])}")
    print(f"  head, probes, prior: {summary(parts[1])}")
    if chosen.torch:
        _against_torch(network, pixels, chosen.runs)


def _against_torch(network: Any, pixels: Any, runs: int) -> None:
    import torch

    from ram_backend.models.starter.export import encoder_weights_path, load_encoder

    torch.set_num_threads(1)
    encoder, _, _ = load_encoder(encoder_weights_path())
    tensor = torch.from_numpy(pixels)

    def in_torch() -> None:
        with torch.inference_mode():
            encoder(tensor)

    milliseconds([in_torch], 3)
    ours, theirs = milliseconds([lambda: network.encode(pixels), in_torch], runs)
    print(f"  encoder in torch fp32: {summary(theirs)}")
    print(f"  torch / onnxruntime: {statistics.median(theirs) / statistics.median(ours):.2f} x (medians, in turns)")


if __name__ == "__main__":
    main()
