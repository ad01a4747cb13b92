"""Captions at full size: our search against transformers' own, and the time of a word, early and late; as ratios.

    python benchmarks/captions.py [--threads 2] [--runs 3] [--bundle tag2text]

Without a bundle the weights are random: time does not depend on them. Both searches run in turns on the same decoder;
the end of a text is left out, so that each has the same number of words. With one thread CPU time is measured, which
other programs change little, else time on the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, DynamicCache, EncoderDecoderCache, GenerationConfig

from ram_backend.captions.search import Search, generate
from ram_backend.models.captioner import PAD, Captioner, load_captioner
from ram_backend.models.registry import find_bundle
from ram_backend.settings import load_settings

LENGTH, TAG_WORDS = 50, 40
NEVER = 1
"""An id that ends no text here."""


def decoder_of(bundle: str | None) -> torch.nn.Module:
    if bundle is not None:
        return load_captioner(find_bundle(bundle, load_settings().bundles_dir)).text_decoder
    config = BertConfig(vocab_size=30524, is_decoder=True, add_cross_attention=True, pad_token_id=PAD)
    one_layer = BertConfig(vocab_size=8, num_hidden_layers=1, is_decoder=True, add_cross_attention=True)
    return Captioner(one_layer, config, 1024).eval().text_decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--bundle", default=None)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    now = time.process_time if chosen.threads == 1 else time.perf_counter
    decoder: Any = decoder_of(chosen.bundle)
    states, prompt = torch.randn(1, TAG_WORDS, decoder.config.hidden_size), torch.tensor([[30522, 1037, 3861, 1997]])
    words: list[float] = []

    def ours() -> None:
        hook = decoder.register_forward_pre_hook(lambda *_: words.append(now()))
        generate(decoder, states, prompt, Search(chosen.beams, LENGTH, shortest=LENGTH), end=NEVER)
        hook.remove()

    def theirs() -> Tensor:
        found: Tensor = decoder.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            encoder_hidden_states=states,
            cache=EncoderDecoderCache(DynamicCache(), DynamicCache()),
            generation_config=GenerationConfig(
                num_beams=chosen.beams,
                max_length=LENGTH,
                min_length=LENGTH,
                eos_token_id=NEVER,
                pad_token_id=PAD,
            ),
        )
        return found

    ratios, growth = [], []
    with torch.inference_mode():
        ours()
        theirs()
        for _ in range(chosen.runs):
            words.clear()
            seconds = []
            for search in (ours, theirs):
                started = now()
                search()
                seconds.append(now() - started)
            each = [after - before for before, after in pairwise(words)]
            ratios.append(seconds[0] / seconds[1])
            growth.append(statistics.median(each[40:45]) / statistics.median(each[2:7]))
            print(f"{seconds[0]:.2f} s against {seconds[1]:.2f} s of transformers; a word {1000 * min(each):.0f} ms")
    print(f"time of our search / of transformers' generate: {statistics.median(ratios):.3f}")
    print(f"time of words 41 to 45 / of words 3 to 7: {statistics.median(growth):.3f}")


if __name__ == "__main__":
    main()
