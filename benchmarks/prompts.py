"""Labels by prompt: how many phrases are found that photos show, and how many that no photo shows.

    python benchmarks/prompts.py --data FOLDER [--photos 60] [--split test]

FOLDER has labels.jsonl and images/ of COCO objects. A shown phrase describes a
class of COCO without naming it, and is right where the class has a box; the
others name what no photo of COCO's classes is about, in words that the
vocabulary doesn't have.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ram_backend.demo import photo_paths
from ram_backend.engine.phrases import calibrate_phrases
from ram_backend.images.decode import decode
from ram_backend.models.network import load_network
from ram_backend.models.registry import find_bundle
from ram_backend.settings import load_settings
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger
from ram_backend.vocabulary.embeddings import open_text_encoder

SHOWN = {
    "a big grey animal with a trunk": "elephant", "a tall spotted animal with a long neck": "giraffe",
    "striped horse-like animal": "zebra", "a puppy or hound": "dog", "kitten lying down": "cat",
    "passenger jet at an airport": "airplane", "steam locomotive and carriages": "train",
    "double-decker bus on a street": "bus", "people riding on the waves": "surfboard",
    "slice of pizza on a plate": "pizza", "someone skiing down a slope": "skis", "a bathroom toilet bowl": "toilet",
    "laptop computer on a desk": "laptop", "grizzly bear in the wild": "bear", "flock of sheep grazing": "sheep",
    "herd of cattle": "cow", "sailing boat on water": "boat", "motorbike parked": "motorcycle",
    "clock on a tower": "clock", "baseball player with a bat": "baseball bat",
    "a tennis player on the court": "tennis racket", "bunch of yellow bananas": "banana", "kite in the sky": "kite",
    "traffic light at a crossing": "traffic light", "person on a skateboard": "skateboard",
    "keyboard and mouse": "keyboard", "red fire hydrant": "fire hydrant", "an umbrella in the rain": "umbrella",
}  # fmt: skip
ABSENT = (
    "volcano erupting lava", "submarine under water", "x-ray of a chest", "cathedral at night",
    "a person without a hard hat", "scaffold", "penguin on ice", "a violin", "an astronaut", "a military tank",
    "lighthouse on a cliff", "a harp", "rattlesnake in the sand", "a whale", "desert with camels", "a robot",
    "a map of the world", "a castle", "goldfish in a tank", "an owl at night", "a sewing machine",
    "a forklift in a warehouse", "welding mask", "a spiral galaxy", "crane over a building site",
    "a stained glass window", "solar panels on a roof", "a wind turbine in a field", "rusty pipe with a leak",
    "crack in a concrete wall", "a fire extinguisher on the wall", "a microscope slide of cells", "sheet music",
    "a suit of armour", "a hot air balloon", "a totem pole", "a ferris wheel", "an iceberg", "a scorpion",
    "a field of sunflowers",
)  # fmt: skip


def main() -> None:
    """Prints what is found, with the calibration by prompt and with the bundle's own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    rows = [json.loads(line) for line in (options.data / "labels.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == options.split][: options.photos]
    settings = load_settings()
    bundle = find_bundle(settings.bundle, settings.bundles_dir)
    network = load_network(bundle, threads=1)
    phrases = [phrase for phrase in (*SHOWN, *ABSENT) if bundle.vocabulary.find(phrase) is None]
    assert bundle.text_encoder is not None
    given = Tagger(bundle, network, resolve_subset(bundle, phrases, open_text_encoder(bundle.text_encoder, settings)))
    tokens = _tokens(given, [options.data / "images" / row["file"] for row in rows])
    right = np.array([[SHOWN.get(phrase) in row["tags"] for phrase in phrases] for row in rows])
    none = ~right.any(axis=0)
    print(
        f"{len(rows)} photos, {(~none).sum()} phrases that {right.any(axis=1).sum()} of them show, {none.sum()} others"
    )
    for name, tagger in (("prompt", calibrate_phrases(given, _tokens(given, photo_paths()))), ("bundle", given)):
        on = tagger.score(tokens).scores > tagger.thresholds
        found, others = on[:, none], on & right
        recall, precision = on[right].mean(), others.sum() / max(1, on[:, ~none].sum())
        print(f"{name}: of phrases that no photo shows {found.any(axis=0).sum()} found, in {found.sum()} photos;")
        print(f"   of the others {others.any(axis=0).sum()}, recall {recall:.3f}, precision {precision:.3f}")
        print("   found though absent:", *(phrases[place] for place in np.flatnonzero(on.any(axis=0) & none)), sep="  ")


def _tokens(tagger: Tagger, paths: list[Path]) -> NDArray[np.float32]:
    opened = (decode(path, exif_orientation=True, alpha="white", max_pixels=10**8, max_bytes=10**8) for path in paths)
    return np.concatenate([tagger.encode([photo]) for photo, _ in opened])


if __name__ == "__main__":
    main()
