"""Measures the data engine on labels with planted noise, and `run_engine` on synthetic tokens.

    python benchmarks/data_engine.py noise --data DIR [--without SET=SOURCE] [--cache DIR] [--seeds 5] [--ablation]
    python benchmarks/data_engine.py scale --out DIR [--images 100000]

Noise: of each set's tags (at least 10 or 25 photos) 30 % are dropped, and wrong ones are added, 20 % as many as there
are right ones, drawn by the tags' frequency. The model whose scores the engine takes is the starter's prior, which no
label of these photos was used for; or, where a set is named, a starter that `python -m starter --leave-out-set SET`
built in the folder SOURCE. The ablation adds a signal that the engine doesn't have: nearness of a region to clusters of
the tag's regions, as in the cleaning step of RAM's paper (arXiv 2306.03514, section 3.2), with cells for crops. The
probe is a ridge regression, trained on four fifths of the photos with the labels in question, and judged by the clean
labels of the other fifth.

Scale: one run of the engine, in a folder that keeps its portions. Killed and run again, it prints the same digest.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from ram_backend.engine.findings import findings_of
from ram_backend.engine.noise_model import fit_noise_model
from ram_backend.engine.run import EngineInput, run_engine
from ram_backend.engine.signals import SIGNALS, CrossFittedRidge, Portion
from ram_backend.gate.training_set import FOLDS
from ram_backend.images.decode import decode
from ram_backend.metrics import mean_average_precision
from ram_backend.models.bundle import open_bundle
from ram_backend.models.delta import features_of
from ram_backend.models.registry import find_bundle
from ram_backend.models.starter.install import install_starter
from ram_backend.models.starter.network import COMPONENTS, StarterNetwork
from ram_backend.settings import load_settings
from ram_backend.tagging.image_loader import LoadedImage
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger, TagScores, rounded
from ram_backend.training.ridge import RATE_FLOOR, KernelEigen
from starter.data import label_matrix, read_set, set_tags

SETS = {"coco_objects": 10, "flickr8k_tags": 25}
DROPPED, WRONG, PORTION = 0.3, 0.2, 512
WITHOUT_CAPTIONS = SIGNALS[:3]
CLUSTERS, CLUSTER_WIDTH = 3, 64
"""Of a tag's regions, in so many principal components."""
STRENGTH = 3.0
"""Ridge penalty of the probe, of those that `eval` tries the best one for clean labels."""

Arrays = tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]


def encoded(data: Path, name: str, cache: Path | None, source: Path | None) -> Arrays:
    """Tokens, the model's log-odds, clean labels and known, of the tags with enough photos."""
    photos, tags = read_set(data, name), set_tags(data, name)
    labels, known = label_matrix(photos, tags)
    kept = (labels & known).sum(axis=0) >= SETS[name]
    names = [tag for tag, enough in zip(tags, kept, strict=True) if enough]
    file = None if cache is None else cache / f"{name}-tokens.npy"
    with tempfile.TemporaryDirectory() as scratch:
        settings = load_settings()
        bundle = find_bundle("starter", settings.bundles_dir)
        if source is not None:
            bundle = open_bundle(install_starter(Path(scratch), name="without", source=source))
        network: Any = StarterNetwork(bundle, device="cpu", precision="fp32", threads=1)
        if file is None or not file.exists():
            parts = []
            for at in range(0, len(photos), 16):
                pixels = np.stack([bundle.preprocessing(_decode(photo.path)) for photo in photos[at : at + 16]])
                parts.append(rounded(network.encode(pixels), "float16").astype(np.float16))
            tokens = np.concatenate(parts)
            if file is not None:
                np.save(file, tokens)
        else:
            tokens = np.load(file)
        tagger, scores = Tagger(bundle, network, resolve_subset(bundle, names)), []
        queries = network.select(tagger.subset.entries)
        for at in range(0, len(tokens), 16):
            part = tokens[at : at + 16].astype(np.float32)
            prior = network.component_logits(part, queries)[COMPONENTS.index("prior")]
            scores.append(prior if source is None else tagger.score(part).log_odds)
    return tokens, np.concatenate(scores), labels[:, kept], known[:, kept]


def planted(labels: NDArray[np.bool_], known: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.bool_]:
    """Labels with noise."""
    right = np.argwhere(labels & known)
    noisy = labels & known
    noisy[tuple(right[random.random(len(right)) < DROPPED].T)] = False
    rates = (labels & known).sum(axis=0) / len(right)
    left = round(WRONG * len(right))
    while left:
        image, tag = random.integers(len(labels)), random.choice(labels.shape[1], p=rates)
        if known[image, tag] and not labels[image, tag] and not noisy[image, tag]:
            noisy[image, tag] = True
            left -= 1
    return noisy


def probe(fits: Sequence[KernelEigen], features: Any, targets: Any, known: NDArray[np.bool_], truth: Any) -> float:
    """Cross-validated mAP of a ridge on `truth`, trained on `targets`: labels, or probabilities in [0, 1]."""
    scores = np.zeros(truth.shape)
    folds = np.arange(len(features)) % FOLDS
    for fold, eigen in enumerate(fits):
        inside, outside = folds != fold, folds == fold
        said = known[inside]
        rate = (targets[inside] * said).sum(axis=0) / np.maximum(said.sum(axis=0), 1)
        wanted = said * (targets[inside] - rate) / (np.sqrt(rate * (1 - rate)) + RATE_FLOOR)
        fitted = eigen.ridge(wanted, np.arange(inside.sum()), STRENGTH)
        scores[outside] = features[outside] @ fitted.weight.T + fitted.bias
    return mean_average_precision(scores, truth, known)


def judge(
    arrays: Arrays, noisy: NDArray[np.bool_], folds: NDArray[np.int64], *, clusters: bool
) -> tuple[list[Portion], list[Any], Any]:
    """Portions, signals and rates of one draw."""
    tokens, scores, _, known = arrays
    parts = [slice(at, at + PORTION) for at in range(0, len(tokens), PORTION)]
    portions = [Portion(folds[at], tokens[at], scores[at], noisy[at], known[at]) for at in parts]
    evidence = CrossFittedRidge(portions)
    signals = [evidence.signals(portion) for portion in portions]
    if clusters:
        near = cluster_likeness(evidence, tokens, noisy & known, folds)
        signals = [np.concatenate([each, near[None, at]]) for each, at in zip(signals, parts, strict=True)]
    return portions, signals, evidence.rates


def cluster_likeness(
    evidence: CrossFittedRidge, tokens: NDArray[np.float16], labels: NDArray[np.bool_], folds: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(N, L) highest cosine of an image's region and a cluster of the tag's best regions in other folds."""
    regions = tokens[:, 1:].astype(np.float32)
    flat = regions.reshape(-1, regions.shape[2])[:: max(1, regions.shape[0] * regions.shape[1] // 20_000)]
    whitened = PCA(CLUSTER_WIDTH, whiten=True, random_state=0).fit(flat)
    reduced = normalize(whitened.transform(regions.reshape(-1, regions.shape[2]))).reshape(*regions.shape[:2], -1)
    found = np.zeros(labels.shape, np.float32)
    for fold, weight in enumerate(evidence.weights):
        inside, others = folds == fold, np.flatnonzero(folds != fold)
        best = np.concatenate([(regions[some] @ weight[:-1]).argmax(axis=1) for some in np.array_split(others, 8)])
        for tag in np.flatnonzero(labels[others].sum(axis=0) >= CLUSTERS):
            rows = labels[others, tag]
            examples = reduced[others[rows], best[rows, tag]]
            centres = normalize(KMeans(CLUSTERS, n_init=1, random_state=0).fit(examples).cluster_centers_)
            found[inside, tag] = (reduced[inside] @ centres.T).max(axis=(1, 2))
    return found


def cleaned(model: Any, signals: Any, noisy: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The labels with all findings accepted."""
    result, tags = noisy.copy(), [str(tag) for tag in range(noisy.shape[1])]
    standard = model.standardised(signals)
    for each in findings_of(np.arange(len(noisy)), tags, model.present(signals, noisy), standard, noisy, known):
        result[each.number, int(each.tag)] ^= True
    return result


def figures(present: NDArray[np.float64], result: Any, noisy: Any, labels: Any, known: Any) -> dict[str, float]:
    """Of one draw, whose labels became `result`."""
    dropped, added = noisy & ~result, result & ~noisy

    def f1(found: NDArray[np.bool_]) -> float:
        return float(2 * (found & labels & known).sum() / ((found & known).sum() + (labels & known).sum()))

    wrong, right = noisy & ~labels & known, noisy & labels & known
    doubt = 1 - present[noisy & known]
    gap = np.abs([doubt[b].mean() - wrong[noisy & known][b].mean() for b in _bins(doubt)])
    return {
        "F1 noisy": f1(noisy),
        "F1 gained": f1(result) - f1(noisy),
        "precision of drops": (dropped & ~labels).sum() / max(1, dropped.sum()),
        "wrong ones caught": (dropped & wrong).sum() / wrong.sum(),
        "right ones lost": (dropped & right).sum() / right.sum(),
        "precision of additions": (added & labels).sum() / max(1, added.sum()),
        "added": added.sum(),
        "calibration error": float(np.average(gap, weights=[b.sum() for b in _bins(doubt)])),
    }


def _bins(values: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    edges = np.linspace(0, 1, 11)
    found = [(values >= low) & (values < high) for low, high in zip(edges, [*edges[1:-1], 1.01], strict=False)]
    return [each for each in found if each.any()]


def noise_test(data: Path, sources: dict[str, Path], cache: Path | None, seeds: int, ablation: bool) -> None:
    every = {"": list(range(len(WITHOUT_CAPTIONS)))}
    if ablation:
        every |= {f" without {one}": [row for row in every[""] if SIGNALS[row] != one] for one in WITHOUT_CAPTIONS}
        every |= {" with clusters": [*every[""], len(WITHOUT_CAPTIONS)]}
        every |= {f" by {one} alone": [row] for row, one in enumerate([*WITHOUT_CAPTIONS, "clusters"])}
    for name in SETS:
        arrays = encoded(data, name, cache, sources.get(name))
        tokens, _, labels, known = arrays
        features, rows = features_of(tokens), defaultdict(list)
        fits = [KernelEigen.of(features[np.arange(len(features)) % FOLDS != fold]) for fold in range(FOLDS)]
        clean = probe(fits, features, labels, known, labels)
        for seed in range(seeds):
            random = np.random.default_rng(seed)
            noisy = planted(labels, known, random)
            portions, signals, rates = judge(arrays, noisy, random.integers(FOLDS, size=len(labels)), clusters=ablation)
            parts = ([each.labels for each in portions], [each.known for each in portions])
            for title, used in every.items():
                chosen = [each[used] for each in signals]
                model = fit_noise_model(chosen, *parts, rates)
                present = np.concatenate([model.present(*each) for each in zip(chosen, parts[0], strict=True)])
                result = cleaned(model, np.concatenate(chosen, axis=1), noisy, known)
                found = figures(present, result, noisy, labels, known)
                if title:
                    rows["F1 gained" + title].append(found["F1 gained"])
                    continue
                before, hard, soft = (probe(fits, features, each, known, labels) for each in (noisy, result, present))
                found |= {"mAP clean": clean, "mAP noisy": before}
                found["mAP recovered by labels"] = (hard - before) / (clean - before)
                found["mAP recovered by probabilities"] = (soft - before) / (clean - before)
                for key, value in found.items():
                    rows[key].append(float(value))
            print(f"{name}, draw {seed + 1} of {seeds}", flush=True)
        print(f"\n{name}: {len(labels)} photos, {labels.shape[1]} tags")
        for key, values in rows.items():
            print(f"  {key:38s} {_interval(values)}", flush=True)


def _interval(values: Sequence[float]) -> str:
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.3f} +- {half:.3f}"


def scale(images: int, folder: Path) -> None:
    """Synthetic tokens of the starter's shape, from a seed each; every label stands for a shift of the tokens."""
    random = np.random.default_rng(0)
    clean = random.random((images, 40)) < 0.07
    labels = (clean & (random.random(clean.shape) < 0.8)) | (random.random(clean.shape) < 0.01)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "JPEG")

    def load(numbers: Sequence[int]) -> Iterator[bytes | Exception]:
        return (picture.getvalue() for _ in numbers)

    def loaded(_: bytes, *, name: str) -> LoadedImage:
        own = np.random.default_rng(int(name))
        tokens = own.standard_normal((26, 1454), dtype=np.float32)
        tokens[0, :40] += 2 * clean[int(name)]
        return LoadedImage(f"{int(name):064x}", int(own.integers(2**62)), (8, 8), tokens, None)

    def score(tokens: NDArray[np.float32]) -> TagScores:
        return TagScores(*3 * [tokens[:, 0, :40].astype(np.float32)])

    began = dict[str, float]()

    def progress(stage: str, step: int, steps: int) -> None:
        began.setdefault(stage, time.monotonic())

    loader: Any = SimpleNamespace(load=loaded, encode=lambda _, some: [each.tokens for each in some])
    tagger: Any = SimpleNamespace(model_version="s", score=score, network=SimpleNamespace(token_shape=(26, 1454)))
    given = EngineInput([str(n) for n in range(images)], tuple(map(str, range(40))), labels, np.ones_like(labels), load)
    run_engine(folder, given, tagger, loader, limits=(10**6, 10**6), progress=progress)
    progress("end", 0, 0)
    digest = hashlib.sha256()
    for name in ("findings.jsonl", "labels.jsonl", "summary.json", "report.html"):
        digest.update((folder / name).read_bytes())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    stages = ", ".join(f"{one} {began[two] - began[one]:.0f} s" for one, two in pairwise(began))
    print(f"{images} images, 40 tags: {stages}; peak {peak:.2f} GiB; digest {digest.hexdigest()[:12]}")


def _decode(path: Path) -> Image.Image:
    return decode(path, exif_orientation=True, alpha="white", max_pixels=10**8, max_bytes=10**8)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["noise", "scale"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--without", action="append", default=[], metavar="SET=SOURCE")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    if options.what == "scale":
        scale(options.images, options.out)
    else:
        sources = {name: Path(source) for name, _, source in (each.partition("=") for each in options.without)}
        noise_test(options.data, sources, options.cache, options.seeds, options.ablation)


if __name__ == "__main__":
    main()
