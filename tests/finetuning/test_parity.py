"""The full-size losses against those that the authors' own code gave with the same weights.

The small sibling is test_recipe.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from finetuning import small
from models import reference, tiny
from PIL import Image

from ram_backend.finetuning.recipe import Batch, Recipe
from ram_backend.models.bundle import Bundle
from ram_backend.tagging.subset import whole_vocabulary

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_losses_are_the_authors(kind: str, shared: Path, tmp_path: Path) -> None:
    with reference.full_size(shared, kind, tmp_path) as (bundle, salt, _):
        check_losses(bundle, salt, shared / "ram-reference")


def check_losses(bundle: Bundle, salt: str, folder: Path) -> None:
    kind = bundle.kind
    expected = json.loads((folder / "expected.json").read_text())
    wanted = expected["models"][kind]["losses_eval_mode"]
    photos = [bundle.preprocessing(Image.open(folder / "images" / name)) for name in expected["images"][:2]]
    names = bundle.vocabulary.names
    parsed = [[11 + image + 401 * step for step in range(6)] for image in range(2)]
    labels = torch.zeros(2, len(names))
    for image in range(2):
        labels[image, parsed[image] if kind == "tag2text" else list(range(7 + image, len(names), 97))] = 1
    features = reference.draw("aux:clip_feature", (2, 512), 0, 0.4, salt)
    texts = reference.draw("aux:batch_text_embed", (2, 512), 0, 512**-0.5, salt)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    batch = Batch(torch.from_numpy(np.stack(photos)), labels, torch.ones_like(labels))
    if kind != "tag2text":
        batch = batch._replace(clip_features=torch.from_numpy(features))
    if kind == "ram_plus":
        batch = batch._replace(texts=torch.from_numpy(texts), matches=torch.eye(2))
    else:
        batch = batch._replace(captions=wanted["captions"], caption_tags=[[names[at] for at in row] for row in parsed])
    recipe = Recipe(bundle, whole_vocabulary(bundle), small.options(), captions=kind != "ram_plus").eval()
    with torch.no_grad():
        found = {name: float(value) for name, value in recipe(batch).items()}
    theirs = {"tag": ("loss_tag", 2), "alignment": ("loss_alignment", 2), "distillation": ("loss_dis", 1)}
    for name, (key, images) in {**theirs, "caption": ("loss_t2t", 1)}.items():
        assert (name in found) == (key in wanted)
        if key in wanted:  # theirs are sums over the images
            assert images * found[name] == pytest.approx(wanted[key], rel=1e-4), name
    rest = found.get("distillation", 0)
    sums = 26 * (found["tag"] + found["alignment"]) if kind == "ram_plus" else 2 * found["caption"]
    assert found["loss"] == pytest.approx(sums + rest, rel=1e-5)
