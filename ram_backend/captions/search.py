"""Beam search, greedy search and nucleus sampling, with a key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BertLMHeadModel, DynamicCache, EncoderDecoderCache

_NONE = -1e9
"""Log-probability of a beam that does not exist."""


@dataclass(frozen=True)
class Search:
    """How the words of a caption are chosen.

    Attributes:
        beams: width of the beam search; 1: greedy.
        longest: word pieces, those of the prompt included.
        shortest: likewise; no caption ends before.
        repetition_penalty: of word pieces that the text has already (Keskar et
            al. 2019, arXiv 1909.05858); 1: none.
        top_p: nucleus sampling from this share of the probability instead of a
            beam search (Holtzman et al. 2019, arXiv 1904.09751).
        seed: of the sampling.
    """

    beams: int = 3
    longest: int = 30
    shortest: int = 10
    repetition_penalty: float = 1.0
    top_p: float | None = None
    seed: int = 0


def generate(decoder: BertLMHeadModel, states: Tensor, prompt: Tensor, search: Search, *, end: int) -> list[list[int]]:
    """Ids of B texts, from their prompt on; `end` is the last one of those that ended.

    Args:
        decoder: causal, with cross-attention.
        states: (B, W, H), to which its cross-attention attends.
        prompt: (B, P) int64.
        search: how words are chosen.
        end: id that ends a text.
    """
    if search.beams == 1 or search.top_p is not None:
        return _sample(_Steps(decoder, states, search, end), prompt, search, end)
    return _beam_search(_Steps(decoder, states.repeat_interleave(search.beams, 0), search, end), prompt, search, end)


class _Steps:
    """The decoder one word at a time, with cached keys and values."""

    def __init__(self, decoder: BertLMHeadModel, states: Tensor, search: Search, end: int) -> None:
        self._decoder = decoder
        self._states = states
        self._search = search
        self._end = end
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def logits(self, ids: Tensor) -> Tensor:
        """Logits (rows, V) of the next word."""
        seen = self._cache.get_seq_length()
        logits: Tensor = self._decoder(
            input_ids=ids[:, seen:], encoder_hidden_states=self._states, cache=self._cache
        ).logits[:, -1]
        return logits

    def constrain(self, scores: Tensor, ids: Tensor) -> Tensor:
        """Scores (rows, V) after the penalty; without the end in too short a text."""
        if self._search.repetition_penalty != 1:
            used = scores.gather(1, ids)
            penalty = self._search.repetition_penalty
            scores = scores.scatter(1, ids, torch.where(used < 0, used * penalty, used / penalty))
        if ids.shape[1] < self._search.shortest:
            scores[:, self._end] = -torch.inf
        return scores

    def reorder(self, rows: Tensor) -> None:
        """Gives each row the words of another row of its image."""
        self._cache.self_attention_cache.reorder_cache(rows)


def _sample(steps: _Steps, prompt: Tensor, search: Search, end: int) -> list[list[int]]:
    ids, ended = prompt, torch.zeros_like(prompt[:, 0], dtype=torch.bool)
    random = torch.Generator(prompt.device).manual_seed(search.seed)
    while ids.shape[1] < search.longest and not ended.all():
        scores = steps.constrain(steps.logits(ids), ids)
        if search.top_p is None:
            word = scores.argmax(-1)
        else:
            shares, order = scores.softmax(-1).sort(descending=True)
            shares[shares.cumsum(-1) - shares >= search.top_p] = 0
            word = order.gather(1, shares.multinomial(1, generator=random)).squeeze(1)
        ids = torch.cat([ids, word.masked_fill(ended, end)[:, None]], 1)
        ended |= word == end
    start = prompt.shape[1]
    return [row[: row.index(end, start) + 1] if end in row[start:] else row for row in ids.tolist()]


def _beam_search(steps: _Steps, prompt: Tensor, search: Search, end: int) -> list[list[int]]:
    """Of each image the text with the highest log-probability per word.

    An image is done when none of its beams, as long as it is now, beats the
    worst of `search.beams` ended texts: the rule of transformers up to 4.25,
    which the authors used.
    """
    images, beams = len(prompt), search.beams
    first = torch.arange(images, device=prompt.device)[:, None] * beams
    ids = prompt.repeat_interleave(beams, 0)
    sums = torch.full((images, beams), _NONE, device=prompt.device)
    sums[:, 0] = 0
    found: list[list[tuple[float, list[int]]]] = [[] for _ in range(images)]
    running = set(range(images))
    while ids.shape[1] < search.longest and running:
        length = ids.shape[1]
        words = steps.constrain(steps.logits(ids).log_softmax(-1), ids)
        total, place = (words.view(images, beams, -1) + sums[..., None]).flatten(1).topk(2 * beams)
        row, word = first + place // words.shape[1], place % words.shape[1]
        ended = word == end
        for image, rank in ended[:, :beams].nonzero().tolist():
            if image in running:
                text = [*ids[row[image, rank]].tolist(), end]
                found[image] = _best(beams, [*found[image], (total[image, rank].item() / length, text)])
        running -= {
            at for at in running if len(found[at]) == beams and found[at][-1][0] >= total[at, 0].item() / length
        }
        sums, kept = total.masked_fill(ended, -torch.inf).topk(beams)
        rows = row.gather(1, kept).flatten()
        ids = torch.cat([ids[rows], word.gather(1, kept).view(-1, 1)], 1)
        steps.reorder(rows)
    for image in running:
        texts = ids[image * beams : (image + 1) * beams].tolist()
        last = [(each / ids.shape[1], text) for each, text in zip(sums[image].tolist(), texts, strict=True)]
        found[image] = _best(beams, [*found[image], *last])
    return [texts[0][1] for texts in found]


def _best(count: int, texts: list[tuple[float, list[int]]]) -> list[tuple[float, list[int]]]:
    return sorted(texts, key=lambda each: each[0], reverse=True)[:count]
