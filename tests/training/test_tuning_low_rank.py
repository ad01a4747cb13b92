"""Low-rank tuning: small files that merge into the head that was trained."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from training import tiny_tuning as tiny

from ram_backend.errors import NotAvailable
from ram_backend.metrics import mean_average_precision
from ram_backend.models.tuned import LOW_RANK_FILE, tuned_tensors
from ram_backend.training.low_rank import PRODUCTS, add_factors, factors_of
from ram_backend.training.tuning import tune_head, tuned_log_odds
from ram_backend.training.tuning_run import plain_head


def test_fresh_factors_change_nothing_and_are_all_that_learns() -> None:
    source = tiny.source()
    plain, changed = plain_head(source), plain_head(source)
    add_factors(changed, 3)
    tokens, texts = torch.randn(2, tiny.TOKENS, tiny.WIDTH), torch.randn(4, tiny.TEXT)
    torch.testing.assert_close(changed(tokens, changed.queries(texts)), plain(tokens, plain.queries(texts)))
    learning = [name for name, part in changed.named_parameters() if part.requires_grad]
    assert len(learning) == 2 * len(PRODUCTS) * source.config.layers
    assert all("lora_" in name for name in learning)


def test_factors_merge_to_the_same_logits() -> None:
    source = tiny.source()
    head = plain_head(source)
    add_factors(head, 2)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, part in head.named_parameters():
            if "lora_" in name:
                part.normal_(std=0.3)
    factors = factors_of(head)
    assert {pair.a.shape[0] for pair in factors.values()} == {2}
    merged = plain_head(source)
    state = {name: torch.tensor(array) for name, array in source.tensors.items()}
    for name, pair in factors.items():
        state[name] = state[name] + torch.tensor(pair.b @ pair.a)
    merged.load_state_dict(state)
    tokens, texts = torch.randn(3, tiny.TOKENS, tiny.WIDTH), torch.randn(4, tiny.TEXT)
    expected = head(tokens, head.queries(texts))
    torch.testing.assert_close(merged(tokens, merged.queries(texts)), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(expected, plain_head(source)(tokens, merged.queries(texts)), atol=1e-2)


def test_tuning_with_factors_learns_and_its_file_gives_what_was_trained() -> None:
    material, unseen = tiny.material(), tiny.material(seed=2)
    options = tiny.options(rank=4, learning_rate=2e-2, epochs=12)
    tuned = tune_head(material, tiny.groups(), tiny.source(), options=options, seed=3)
    assert set(tuned.files) == {LOW_RANK_FILE}
    np.testing.assert_allclose(
        tuned_log_odds(material, tiny.source(), tuned.files, device="cpu"), tuned.log_odds, atol=1e-5
    )
    after = tuned_log_odds(unseen, tiny.source(), tuned.files, device="cpu")
    assert mean_average_precision(after, unseen.labels) > mean_average_precision(unseen.base, unseen.labels) + 0.15
    changed = tuned_tensors(tiny.source().tensors, tuned.files)
    same = {name for name, array in changed.items() if np.array_equal(array, tiny.source().tensors[name])}
    assert "classifier.weight" in same
    assert "layers.0.key.weight" not in same


def test_without_peft_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(NotAvailable, match="pip install 'peft"):
        tune_head(tiny.material(), tiny.groups(), tiny.source(), options=tiny.options(rank=2))
