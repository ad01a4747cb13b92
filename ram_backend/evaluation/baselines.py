"""Baselines: ImageNet prior, ConSE, CLIP zero-shot; linear probe and ML-Decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import TextEncoderUnavailable
from ram_backend.evaluation.figures import MIN_POSITIVES, ModelScores
from ram_backend.evaluation.labels import LabelSet
from ram_backend.evaluation.leaks import TrainingImages
from ram_backend.evaluation.scoring import ScoredImages, score_images
from ram_backend.images.near_duplicates import group_near_duplicates
from ram_backend.metrics import mean_average_precision
from ram_backend.models.delta import features_of
from ram_backend.models.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import LoadedImage, open_image_loader
from ram_backend.tagging.subset import tag_embeddings
from ram_backend.tagging.tagger import Tagger
from ram_backend.training.ridge import KernelEigen, standardised_targets
from ram_backend.vocabulary.prompts import unit_rows

LIKELIEST = 10
"""Classes that ConSE combines, as in its paper."""
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Ridge penalties of the linear probe that are tried."""
DECODER_WIDTH, EPOCHS, BATCH, LEARNING_RATE = 256, 15, 64, 3e-4
"""Of ML-Decoder's training: AdamW, one cycle of the learning rate."""
_AT_ONCE = 64

Scores = NDArray[np.floating]


def baselines(
    tagger: Tagger, scored: ScoredImages, test: LabelSet, training: LabelSet | None, folder: Path, settings: Settings
) -> list[ModelScores]:
    """Scores of N test images by each baseline, for L tags; what one lacks is its note.

    Args:
        tagger: whose tokens these are.
        scored: the test images, with tokens.
        test: what `scored` was made of.
        training: labelled images that probe and ML-Decoder learn from; None:
            there are none.
        folder: that the files of both are in.
        settings: batch size, threads, limits, weights of CLIP.
    """
    paths = [folder / test.images[row].file for row in scored.rows]
    found = {**_untrained(tagger, scored.tokens), "CLIP zero-shot": _clip(tagger.tags, paths, settings)}
    found |= _learned(tagger, scored, training, folder, settings)
    named = ((name, (None, each) if isinstance(each, str) else (each, "")) for name, each in found.items())
    return [ModelScores(name, scores, baseline=True, note=note) for name, (scores, note) in named]


def _untrained(tagger: Tagger, tokens: NDArray[np.float16]) -> dict[str, Scores | str]:
    """The starter's prior, and ConSE (Norouzi et al. 2014): likeliest classes' mean."""
    from ram_backend.models.starter.network import COMPONENTS, StarterNetwork

    network, embeddings = tagger.network, tag_embeddings(tagger.bundle, tagger.subset)
    if not isinstance(network, StarterNetwork) or embeddings is None:
        note = "needs the ImageNet classifier of the starter: name it as the first bundle"
        return {"untrained prior": note, "ConSE": note}
    queries = network.select(tagger.subset.entries)
    prior, combined = [], []
    for start in range(0, len(tokens), _AT_ONCE):
        part = tokens[start : start + _AT_ONCE].astype(np.float32)
        prior.append(network.component_logits(part, queries)[COMPONENTS.index("prior")])
        classes = network.classifier.class_probabilities(part)[:, 0]
        least = np.partition(classes, -LIKELIEST, axis=1)[:, -LIKELIEST, None]
        combined.append(unit_rows(np.where(classes >= least, classes, 0) @ network.class_embeddings))
    return {"untrained prior": np.concatenate(prior), "ConSE": np.concatenate(combined) @ embeddings.T}


def _clip(tags: Sequence[str], paths: Sequence[Path], settings: Settings) -> Scores | str:
    """CLIP ViT-B/16 (Radford et al. 2021): cosine of image and tag in RAM's 63 prompts."""
    if settings.clip_weights is None:
        return "needs CLIP's weights: name their file in RAM_CLIP_WEIGHTS"
    import torch

    from ram_backend.vocabulary.clip_text import load_clip, load_clip_text_encoder

    try:
        model: Any = load_clip(settings.clip_weights)
        texts = load_clip_text_encoder(settings.clip_weights, device="cpu").embed(tags)
    except TextEncoderUnavailable as error:
        return str(error)
    seen = Preprocessing(model.visual.image_size[0], "crop", "bicubic", CLIP_MEAN, CLIP_STD)
    threads = settings.cpu_threads()
    loader = open_image_loader(settings, seen, "", cached=False, decoders=threads)
    found = []
    for batch in loader.batches(paths, settings.batch_size, threads=threads):
        pixels: list[Any] = [image.pixels for _, image in batch if isinstance(image, LoadedImage)]
        found.append(unit_rows(model.encode_image(torch.from_numpy(np.stack(pixels))).numpy()) @ texts.T)
    return np.concatenate(found)


def _learned(
    tagger: Tagger, scored: ScoredImages, training: LabelSet | None, folder: Path, settings: Settings
) -> dict[str, Scores | str]:
    """Linear probe and ML-Decoder, fitted on training images without the test images."""
    names = ("linear probe", "ML-Decoder")
    if training is None:
        return dict.fromkeys(names, "needs --split, and images of split train")
    fitted = score_images([tagger], [folder / image.file for image in training.images], settings, keep_tokens=True)
    tested = TrainingImages(frozenset(zip(scored.sha256, scored.phash.tolist(), strict=True)))
    kept = np.setdiff1d(np.arange(len(fitted.rows)), list(tested.leaks(fitted.sha256, fitted.phash)))
    labels, known = (each[fitted.rows[kept]] for each in training.matrices(tagger.tags))
    if not (labels & known).any():
        return dict.fromkeys(names, "needs images of split train with these tags")
    groups = group_near_duplicates(fitted.phash[kept], [fitted.sha256[row] for row in kept])
    eigen = KernelEigen.of(features_of(fitted.tokens[kept]))
    targets = standardised_targets(labels, known.astype(np.float32))
    ridges = [eigen.ridge(targets, groups, strength) for strength in STRENGTHS]
    quality = [mean_average_precision(each.out_of_group_scores, labels, known, MIN_POSITIVES) for each in ridges]
    best = ridges[int(np.argmax(np.nan_to_num(quality)))]
    probe = features_of(scored.tokens) @ best.weight.T + best.bias
    return dict(zip(names, (probe, _ml_decoder(fitted.tokens[kept], labels, known, scored.tokens)), strict=True))


def _ml_decoder(
    tokens: NDArray[np.float16], labels: NDArray[np.bool_], known: NDArray[np.bool_], tested: NDArray[np.float16]
) -> Scores:
    """ML-Decoder (Ridnik et al. 2023), timm's, by cross-entropy of known pairs."""
    import torch
    from timm.layers.ml_decoder import MLDecoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = MLDecoder(labels.shape[1], decoder_embedding=DECODER_WIDTH, initial_num_features=tokens.shape[2])
        head.decoder = head.decoder.layers[0]  # timm's layer lacks what torch 2's decoder asks
        optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE)
        steps = EPOCHS * -(-len(tokens) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
        for _ in range(EPOCHS):
            order = torch.randperm(len(tokens)).numpy()
            for rows in np.split(order, range(BATCH, len(order), BATCH)):
                batch, right, weight = (torch.from_numpy(each[rows]).float() for each in (tokens, labels, known))
                loss: Any = torch.nn.functional.binary_cross_entropy_with_logits(head(batch), right, weight)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    head.eval()
    with torch.inference_mode():
        parts = (tested[start : start + _AT_ONCE] for start in range(0, len(tested), _AT_ONCE))
        return np.concatenate([head(torch.from_numpy(part).float()).numpy() for part in parts])
