"""LoRA or full fine-tuning of the tagging head on a project's corrections.

What is minimised, over images of the project:

    asymmetric loss of the project's tags, each pair counted by how much its
    label is believed
  + replay of the bundle's own scores on tags outside the project (in eval mode:
  dropout would pass for drift)

Each round starts from the bundle's head and learns from all corrections. A
fifth of the images is left out: it says when to stop, and the head's worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit
from torch import Tensor, nn
from torch.nn import functional

from ram_backend.errors import NotAvailable
from ram_backend.gate.training_set import TrainingSet
from ram_backend.metrics import mean_average_precision
from ram_backend.models.bundle import Bundle
from ram_backend.models.label_embeddings import Entry, LabelEmbeddings
from ram_backend.models.network import HEAD_FILE, LOW_RANK_FILE, Network, head_file, tuned_network
from ram_backend.models.torch_network import load_module, torch_device
from ram_backend.tagging.subset import Subset
from ram_backend.training.selection import Candidate, Progress, fit_candidate

FloatArray = NDArray[np.float32]

MIN_GROUPS = 30
"""Fewest groups of near-duplicates: else too few are held out."""
HUBER_DELTA = 1.0
"""Log-odds beyond which replay is linear instead of squared."""
TAGS_AT_ONCE = 192
"""Of the project's tags, at most this many a step."""
IMAGES_AT_ONCE = 64
"""Images that are scored at a time."""
OFF_TARGET_TAGS = 300
"""Tags outside the project that the off-target check compares, at most."""
LORA_TARGETS = r".*layers\.\d+\.(query|key|value|attention_output|up|down)"
"""Products that get factors; the others stay the bundle's."""
_ADAPTER = "default"


@dataclass(frozen=True)
class HeadTrainer:
    """Fine-tunes the head, then fits recalibration or ridge on the images left out.

    Attributes:
        bundle: of RAM, RAM++ or Tag2Text; the starter's head is not fine-tuned.
        subset: the training set's tags.
        replay_tokens: (M, T, D) tokens of other photos on which the bundle's
            scores are replayed, too.
        harmless: whether a head, given as files of a version, leaves other tags
            alone; if not, it is discarded. None: no check.
        rank: r of LoRA (needs peft); None: the whole head learns.
        epochs: at most.
        batch: images a step.
        learning_rate: at its highest; None: .15 / H, or 1 / H for LoRA: weights
            are about 1 / sqrt(H) large.
        dropout: on attention weights and layer outputs, in [0, 1).
        gamma_neg, clip: of the asymmetric loss.
        replay: weight of the bundle's own scores; 0: none.
        replay_tags: tags outside the project a step, drawn anew each time.
        validation: share of the images that is left out, in (0, 1).
        stop_after: epochs without improvement after which it stops.
    """

    bundle: Bundle
    subset: Subset = field(repr=False)
    replay_tokens: NDArray[np.float16] | None = field(default=None, repr=False)
    harmless: Callable[[dict[str, bytes]], bool] | None = field(default=None, repr=False)
    rank: int | None = None
    epochs: int = 12
    batch: int = 32
    learning_rate: float | None = None
    dropout: float = 0.1
    gamma_neg: float = 4.0
    clip: float = 0.05
    replay: float = 2.0
    replay_tags: int = 64
    validation: float = 0.2
    stop_after: int = 4
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def name(self) -> str:
        """Stands in a version's lineage."""
        return "tuning" if self.rank is None else "low-rank"

    def fit(self, training_set: TrainingSet, seed: int, progress: Progress) -> Candidate | None:
        """As `Trainer` says; None: too few images, or the head is no better, or harmful.

        Raises:
            BundleDamaged: the bundle's weights can't be read.
            NotAvailable: LoRA without peft.
            SettingsError: the device is not there.
        """
        groups = training_set.groups
        if len(np.unique(groups)) < MIN_GROUPS:
            return None
        splitter = GroupShuffleSplit(1, test_size=self.validation, random_state=seed)
        rest, held = next(splitter.split(groups, groups=groups))
        rest = rest[training_set.known[rest].any(axis=1)]
        if not len(rest):
            return None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tuning = _Tuning(self, training_set, rest, held)
            epoch, files, tuned = tuning.run(np.random.default_rng(seed), progress)
        if not files or (self.harmless is not None and not self.harmless(files)):
            return None
        on_top = fit_candidate(replace(training_set.take(held), base=tuned), seed=seed)
        log_odds = training_set.base.copy()
        log_odds[held] = on_top.log_odds
        evaluated = np.zeros(len(training_set), dtype=np.bool_)
        evaluated[held] = True
        params: dict[str, Any] = {"epoch": epoch, "rank": self.rank, "replay": self.replay}
        params |= {"on_top": on_top.trainer, **on_top.params}
        return Candidate(on_top.delta, params, log_odds=log_odds, evaluated=evaluated, files=files)


class _Tuning:
    """One run over the images `rest`, judged on `held`.

    A tag's calibrated log-odds are linear in its head's logit, z = slope *
    logit + offset, so a tuned head changes them by slope * (its logit - the
    bundle's).
    """

    def __init__(
        self, trainer: HeadTrainer, training_set: TrainingSet, rest: NDArray[np.int64], held: NDArray[np.int64]
    ) -> None:
        assert training_set.tokens is not None
        self.trainer = trainer
        self.training_set, self.tokens = training_set, training_set.tokens
        self.rest, self.held = rest, held
        self.entries = trainer.subset.entries
        self.slope = trainer.subset.calibration.slope
        self.outside = np.setdiff1d(np.arange(len(trainer.bundle.vocabulary)), _rows(self.entries))
        self.outside_slope = trainer.bundle.calibration.slope[self.outside]
        self.labels = LabelEmbeddings.open(trainer.bundle.path)
        self.device = torch_device(trainer.device)
        self.frozen = load_module(trainer.bundle).requires_grad_(False)
        self.frozen.head.to(self.device)
        copies = {name: part.clone() for name, part in self.frozen.head.state_dict().items()}
        self.tuned = self.frozen.with_head(copies, dropout=trainer.dropout)
        self.head = self.tuned.head
        if trainer.rank is not None:
            add_factors(self.head, trainer.rank)
            self.head.to(self.device)

    def run(self, rng: np.random.Generator, progress: Progress) -> tuple[int, dict[str, bytes], FloatArray]:
        """The best epoch (0: none), the head's files, its log-odds (H, L) of `held`."""
        trainer = self.trainer
        learning = [part for part in self.head.parameters() if part.requires_grad]
        rate = trainer.learning_rate or (0.15 if trainer.rank is None else 1.0) / self.head.config.hidden
        optimizer = torch.optim.AdamW(learning)
        steps = -(-len(self.rest) // trainer.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, trainer.epochs * steps, pct_start=0.1)
        base = self.training_set.base[self.held]
        best: tuple[int, dict[str, bytes], FloatArray] = (0, {}, base)
        highest = self._quality(base)
        for epoch in range(1, trainer.epochs + 1):
            self.head.train()
            for rows in np.array_split(rng.permutation(self.rest), steps):
                optimizer.zero_grad(set_to_none=True)
                self.loss(rows, rng).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(learning, 1.0)
                optimizer.step()
                schedule.step()
            tuned = self._held_out()
            if (quality := self._quality(tuned)) > highest:
                highest, best = quality, (epoch, self.files(), tuned)
            progress("fine-tuning the head", epoch, trainer.epochs)
            if epoch - best[0] >= trainer.stop_after:
                break
        return best

    def loss(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Of the project's tags on images `rows`, and of replay; a scalar."""
        trainer, training_set = self.trainer, self.training_set
        columns = _drawn_tags(training_set.known[rows], training_set.labels[rows], TAGS_AT_ONCE, rng)
        tokens = self._tensor(self.tokens[rows])
        change = self._change(tokens, [self.entries[column] for column in columns], self.slope[columns])
        base, labels, weights = (
            self._tensor(values[np.ix_(rows, columns)])
            for values in (training_set.base, training_set.labels, training_set.weights)
        )
        loss = asymmetric_loss(base + change, labels, weights, gamma_neg=trainer.gamma_neg, clip=trainer.clip)
        count = min(trainer.replay_tags, len(self.outside)) if trainer.replay else 0
        if count:
            drawn = rng.choice(len(self.outside), count, replace=False)
            self.head.eval()
            for seen in (tokens, *self._replay_photos(rng)):
                drift = self._change(seen, self.outside[drawn].tolist(), self.outside_slope[drawn])
                huber = functional.huber_loss(drift, torch.zeros_like(drift), delta=HUBER_DELTA)
                loss = loss + trainer.replay * count * huber
            self.head.train()
        return loss

    def files(self) -> dict[str, bytes]:
        """The head as files of a version: all of it, or its LoRA factors."""
        if self.trainer.rank is not None:
            return head_file(LOW_RANK_FILE, factors_of(self.head))
        state = self.head.state_dict()
        return head_file(HEAD_FILE, {name: part.float().cpu().numpy() for name, part in state.items()})

    def _replay_photos(self, rng: np.random.Generator) -> Iterator[Tensor]:
        photos = self.trainer.replay_tokens
        if photos is not None and len(photos):
            count = min(len(photos), max(1, self.trainer.batch // 4))
            yield self._tensor(photos[rng.choice(len(photos), count, replace=False)])

    def _change(self, tokens: Tensor, entries: Sequence[Entry], slope: FloatArray) -> Tensor:
        """Calibrated log-odds (B, C) of the head minus the bundle's."""
        labels = self.frozen.label_block(self.labels, entries)
        change: Tensor = (self.tuned(tokens, labels) - self.frozen(tokens, labels)) * self._tensor(slope)
        return change

    @torch.no_grad()
    def _held_out(self) -> FloatArray:
        """Calibrated log-odds (H, L) under the tuned head of the images left out."""
        self.head.eval()
        found = self.training_set.base[self.held]
        for start in range(0, len(self.held), IMAGES_AT_ONCE):
            rows = slice(start, start + IMAGES_AT_ONCE)
            tokens = self._tensor(self.tokens[self.held[rows]])
            for at in range(0, len(self.entries), TAGS_AT_ONCE):
                part = slice(at, at + TAGS_AT_ONCE)
                change = self._change(tokens, self.entries[part], self.slope[part])
                found[rows, part] += change.float().cpu().numpy()
        return found

    def _quality(self, log_odds: FloatArray) -> float:
        known = self.training_set.known[self.held]
        quality = mean_average_precision(log_odds, self.training_set.labels[self.held], known, min_positives=1)
        return quality if np.isfinite(quality) else 0.0

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self.device)


def add_factors(head: nn.Module, rank: int) -> None:
    """Adds LoRA factors to a head, freezes the rest; NotAvailable: no peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise NotAvailable("LoRA needs peft: pip install 'ram_backend[low-rank]', or set RAM_TUNING=whole.") from None
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS, bias="none", lora_dropout=0.0)
    inject_adapter_in_model(config, head, adapter_name=_ADAPTER)


def factors_of(head: nn.Module) -> dict[str, FloatArray]:
    """The LoRA factors of a head, by the names of their weights in a plain head."""
    found: dict[str, FloatArray] = {}
    for name, part in head.named_modules():
        if hasattr(part, "lora_A") and _ADAPTER in part.lora_A:
            layer: Any = part
            found[f"{name}.weight.a"] = layer.lora_A[_ADAPTER].weight.detach().float().cpu().numpy().copy()
            b = layer.lora_B[_ADAPTER].weight.detach().float().cpu().numpy()
            found[f"{name}.weight.b"] = b * np.float32(layer.scaling[_ADAPTER])
    return found


def asymmetric_loss(
    logits: Tensor,
    labels: Tensor,
    known: Tensor,
    *,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    detached: bool = False,
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021, equation 7): easy negatives count little.

    With p the probability of a tag: -log p where it is right, -q^gamma_neg
    log(1 - q) with q = max(p - clip, 0) where it is wrong, nothing where nobody
    knows. gamma_neg 0 and clip 0 give plain binary cross-entropy.

    Args:
        logits: (B, L).
        labels: (B, L), 1 = right, 0 = wrong; anything where unknown.
        known: (B, L), 0 = unknown: no loss and no gradient; 1 = known; in
            between, the pair counts that much.
        gamma_neg: how fast negatives lose weight as they get easy, at least 0.
        clip: probability below which a negative counts nothing, in [0, 1).
        detached: the focusing weight q^gamma_neg carries no gradient, as in
            RAM's training.

    Returns:
        The weighted sum over all known pairs divided by B: a scalar >= 0.
    """
    probability = torch.sigmoid(logits)
    positive = torch.nn.functional.softplus(-logits)
    shifted = (probability - clip).clamp_min(0) if clip else probability
    negative = -torch.log1p(-shifted.clamp_max(1 - 1e-06)) if clip else torch.nn.functional.softplus(logits)
    if gamma_neg:
        negative = negative * (shifted.detach() if detached else shifted) ** gamma_neg
    pairs = torch.where(labels > 0, positive, negative)
    weighted = torch.where(known > 0, pairs, torch.zeros_like(pairs)) * known.to(pairs.dtype)
    return weighted.sum() / logits.shape[0]


def off_target_scores(
    bundle: Bundle, network: Network, files: Mapping[str, bytes], subset: Subset, tokens: NDArray[np.float16], seed: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Arguments of `measure_shift`, of `OFF_TARGET_TAGS` tags outside the subset.

    `files`: of a candidate with a tuned head. `tokens`: (N, T, D) of the
    project's images and of other photos.

    Raises:
        VersionDamaged: the files are not of a head like the network's.
    """
    rows = np.setdiff1d(np.arange(len(bundle.vocabulary)), _rows(subset.entries))
    drawn = np.sort(np.random.default_rng((seed, 5)).permutation(rows)[:OFF_TARGET_TAGS]).tolist()
    calibration = bundle.calibration.take(drawn)
    scores = []
    for each in (network, tuned_network(network, files)):
        queries = each.select(drawn)
        logits = []
        for start in range(0, len(tokens), IMAGES_AT_ONCE):
            part = tokens[start : start + IMAGES_AT_ONCE].astype(np.float32)
            logits.append(each.logits(part, queries))
        scores.append(calibration.scores(np.concatenate(logits)))
    return scores[0], scores[1], bundle.vocabulary.thresholds[drawn]


def _rows(entries: Sequence[Entry]) -> list[int]:
    """The vocabulary's rows among the entries."""
    return [entry for entry in entries if not isinstance(entry, np.ndarray)]


def _drawn_tags(
    known: NDArray[np.bool_], labels: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """At most `count` columns with a known pair (B, L), positives first."""
    candidates = rng.permutation(np.flatnonzero(known.any(axis=0)))
    positive = (known & labels)[:, candidates].any(axis=0)
    return np.sort(candidates[np.argsort(~positive, kind="stable")][:count])
