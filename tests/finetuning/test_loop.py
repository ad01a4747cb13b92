"""The loop on small networks: it learns, goes on where it was stopped, and gives the same with two processes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from finetuning import small
from models import tiny
from PIL import Image

from ram_backend.captions.writer import CaptionWriter
from ram_backend.errors import InputError
from ram_backend.finetuning import loop
from ram_backend.finetuning.loop import finetune, write_bundle
from ram_backend.finetuning.recipe import Recipe
from ram_backend.models.bundle import Bundle
from ram_backend.models.captioner import load_captioner
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.models.network import load_network
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.settings import load_settings
from ram_backend.tagging.subset import whole_vocabulary
from ram_backend.vocabulary.minilm import bert_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loop")


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_thirty_steps_lower_the_loss(kind: str, folder: Path, tmp_path: Path) -> None:
    _, losses = small.run(folder, kind, tmp_path, small.options(), captions=True, clip=small.clip())
    parts = {"ram": {"distillation", "caption"}, "ram_plus": {"distillation", "alignment"}, "tag2text": {"caption"}}
    assert len(losses) == 30
    assert losses[0].keys() == {"loss", "tag", *parts[kind]}
    for name in {"loss", "tag", "caption"} & losses[0].keys():
        first, last = ([each[name] for each in some] for some in (losses[:6], losses[-6:]))
        assert np.mean(last) < 0.8 * np.mean(first), name


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVED_EVERY", 0)
    options = small.options(epochs=2, dropout=0.1, accumulate=2, batch=3)
    whole, _ = small.run(folder, "tag2text", tmp_path / "whole", options, captions=True)
    with pytest.raises(small.Stopped):
        small.run(folder, "tag2text", tmp_path / "parts", options, captions=True, stop=5)
    resumed, losses = small.run(folder, "tag2text", tmp_path / "parts", options, captions=True)
    assert len(losses) == 16 - 4
    assert all(torch.equal(resumed[name], part) for name, part in whole.items())
    with pytest.raises(InputError, match="is of a run with other labels or options: remove it"):
        small.run(folder, "tag2text", tmp_path / "parts", small.options(), captions=True)


def test_two_processes_give_what_one_does(folder: Path) -> None:
    """With captions, and with texts that are compared with the other process's images, too."""
    options, kinds = small.options(epochs=1, batch=4, learning_rate=2e-5), ("ram_plus", "tag2text")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = str(Path(__file__).with_name("two_processes.py"))
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "OMP_NUM_THREADS": "1"}
    for kind in kinds:
        small.import_bundle(folder, kind)
    running = [
        subprocess.Popen([*launch, program, str(folder), kind], env=environment, stderr=subprocess.PIPE, text=True)
        for kind in kinds
    ]
    for kind, process in zip(kinds, running, strict=True):
        alone, _ = small.run(folder, kind, folder / "alone" / kind, options, captions=True, clip=small.clip())
        error = process.communicate()[1]
        assert process.returncode == 0, error
        together = torch.load(folder / f"{kind}.pt", weights_only=True)
        assert together.keys() == alone.keys()
        for name in alone:
            pair = [each[name].detach() for each in (together, alone)]
            if name.endswith("qkv.bias"):
                pair = [each.unflatten(0, (3, -1))[[0, 2]] for each in pair]
            if not name.endswith("key.bias"):  # attention doesn't depend on it: its gradient is rounding
                far = (pair[0] - pair[1]).abs() > 1e-5  # AdamW makes steps of rounding where a gradient is next to 0
                assert far.float().mean() < 0.01, f"{kind} {name}"


@torch.no_grad()
def distance(bundle_or_recipe: Any, clip: Any, paths: list[Path]) -> float:
    """Mean absolute difference of token 0 and CLIP's features."""
    prepare = Preprocessing(size=tiny.IMAGE)
    images = [Image.open(path) for path in paths]
    tokens = bundle_or_recipe.network.encoder(torch.from_numpy(np.stack([prepare(image) for image in images])))
    seen = Preprocessing(32, "crop", "bicubic", loop.CLIP_MEAN, loop.CLIP_STD)
    features = clip.encode_image(torch.from_numpy(np.stack([seen(image) for image in images])))
    return float((tokens[:, 0] - features).abs().mean())


def test_distillation_moves_token_0_to_clip_s_features_of_other_images(folder: Path, tmp_path: Path) -> None:
    bundle, clip = small.import_bundle(folder, "ram"), small.clip()
    given = small.examples(folder / "images")
    nothing = replace(given, paths=given.paths[:12], labels=given.labels[:12], known=np.zeros_like(given.known[:12]))
    others = list(given.paths[12:])
    subset = whole_vocabulary(bundle)
    settings = load_settings(device="cpu", threads=1)
    recipe, main = finetune(bundle, subset, nothing, small.options(epochs=10), settings, tmp_path, clip=clip)
    assert main
    before = distance(Recipe(bundle, subset, small.options()).eval(), clip, others)
    assert distance(recipe, clip, others) < 0.6 * before


def test_the_new_bundle_is_what_has_learned(folder: Path, tmp_path: Path) -> None:
    base, given = small.import_bundle(folder, "tag2text"), small.examples(folder / "images", captions=True)
    subset, settings = whole_vocabulary(base), load_settings(device="cpu", threads=1)
    recipe, _ = finetune(base, subset, given, small.options(epochs=1), settings, tmp_path / "work")
    seen: list[Bundle] = []
    made = write_bundle(
        recipe, base, "made", tmp_path / "bundles", ["a 0"], lambda each: seen.append(each) or {"mAP": 1}
    )
    assert (seen[0].digest, made.manifest["evaluation"]) == (made.digest, {"mAP": 1})
    assert (made.path / "training_images.txt").read_text() == "a 0\n"
    images, tags = tiny.images(2), [["dog"], ["sky"]]
    network = load_network(made, device="cpu")
    with torch.no_grad():
        tokens = recipe.network.encoder(images)
        logits = recipe.network(tokens, recipe.network.label_block(LabelEmbeddings.open(base.path), subset.entries))
        losses = [
            float(CaptionWriter(each, bert_tokenizer()).loss(tokens, tags, ["a picture of a dog"] * 2)[0])
            for each in (recipe.captioner, load_captioner(made), load_captioner(base))
        ]
    np.testing.assert_allclose(network.encode(images.numpy()), tokens, atol=1e-5)
    np.testing.assert_allclose(network.logits(tokens.numpy(), network.select(subset.entries)), logits, atol=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] > losses[0]


def test_half_precision_and_images_of_any_kind(folder: Path, tmp_path: Path) -> None:
    """A run in bf16, from pictures that are grey, have a palette, or are transparent."""
    given = small.examples(folder / "images")
    paths = [tmp_path / f"{mode}.png" for mode in ("L", "P", "RGBA")]
    for path in paths:
        Image.open(given.paths[0]).convert(path.stem).save(path)
    some = replace(given, paths=paths, labels=given.labels[:3], known=given.known[:3])
    bundle = small.import_bundle(folder, "ram")
    losses: list[float] = []
    AcceleratorState._reset_state(reset_partial_state=True)
    settings = load_settings(device="cpu", threads=1, precision="force-bf16")
    progress = lambda step, steps, found: losses.append(found["loss"])  # noqa: E731
    finetune(
        bundle, whole_vocabulary(bundle), some, small.options(epochs=2), settings, tmp_path / "work", progress=progress
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    assert len(losses) == 2
    assert np.isfinite(losses).all()
