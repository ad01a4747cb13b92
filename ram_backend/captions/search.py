"""Beam search over a batch of prompts, with a key-value cache; with one beam a greedy search."""

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
    """

    beams: int = 3
    longest: int = 30
    shortest: int = 10


def generate(decoder: BertLMHeadModel, states: Tensor, prompt: Tensor, search: Search, *, end: int) -> list[list[int]]:
    """Ids of B texts, from their prompt on; `end` is the last one of those that ended.

    Of each image it is the text with the highest log-probability per word,
    prompt included. An image is done when none of its beams, as long as it is
    now, beats the worst of `search.beams` ended texts: transformers' rule up to
    4.25, with which the authors made their captions. Later ones leave the
    prompt out of the length.

    Args:
        decoder: causal, with cross-attention.
        states: (B, W, H), to which its cross-attention attends.
        prompt: (B, P) int64.
        search: how words are chosen.
        end: id that ends a text.
    """
    images, beams = len(prompt), search.beams
    states, cache = states.repeat_interleave(beams, 0), EncoderDecoderCache(DynamicCache(), DynamicCache())
    first = torch.arange(images, device=prompt.device)[:, None] * beams
    ids, sums = prompt.repeat_interleave(beams, 0), torch.full((images, beams), _NONE, device=prompt.device)
    sums[:, 0] = 0
    found: list[list[tuple[float, list[int]]]] = [[] for _ in range(images)]
    running = set(range(images))
    while ids.shape[1] < search.longest and running:
        length, new = ids.shape[1], ids[:, cache.get_seq_length() :]
        words = decoder(input_ids=new, encoder_hidden_states=states, cache=cache).logits[:, -1].log_softmax(-1)
        if length < search.shortest:
            words[:, end] = -torch.inf
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
        cache.self_attention_cache.reorder_cache(rows)  # the states are the same in all rows of an image
    for image in running:
        texts = ids[image * beams : (image + 1) * beams].tolist()
        last = [(each / ids.shape[1], text) for each, text in zip(sums[image].tolist(), texts, strict=True)]
        found[image] = _best(beams, [*found[image], *last])
    return [texts[0][1] for texts in found]


def _best(count: int, texts: list[tuple[float, list[int]]]) -> list[tuple[float, list[int]]]:
    return sorted(texts, key=lambda each: each[0], reverse=True)[:count]
