"""The captioner and its searches against stored numbers of transformers 4.25.1, with which the authors made captions.

`transformers_4_25.npz` holds what that release's BERT and its `generate`, one image at a time, gave with the weights of
`tiny.py`: the tag encoder's states, the logits after the prompt, and ids by search and end, padded with -1.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import reference, tiny
from torch import Tensor

from ram_backend.captions.search import Search, generate
from ram_backend.models.captioner import Captioner

SEARCHES = {
    "greedy": Search(1),
    "greedy_repetition": Search(1, repetition_penalty=1.3),
    "beam3": Search(3, 20),
    "beam3_long": Search(3, 40),
    "beam3_repetition": Search(3, repetition_penalty=1.3),
    "beam5": Search(5),
}
ENDS = (2, 4, 27, 57)
TAG_IDS = torch.tensor(
    [[89, 5, 17, 33, 2, 0, 0, 0], [89, 7, 2, 0, 0, 0, 0, 0], [89, 11, 12, 13, 14, 15, 16, 2], [89, 2, 0, 0, 0, 0, 0, 0]]
)
PROMPT = torch.tensor([[88, 40, 41, 42]]).expand(4, -1)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner.with_weights(tiny.captioner_weights(tiny.captioner_shapes(90, 128, 24, 96)))


@pytest.fixture(scope="module")
def states(captioner: Captioner) -> Tensor:
    tokens = torch.from_numpy(reference.draw("tokens", (4, 17, 24), 0, 1, "tiny:"))
    with torch.inference_mode():
        return captioner.encode_tags(TAG_IDS, TAG_IDS != 0, tokens)


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).with_name("transformers_4_25.npz")) as arrays:
        return dict(arrays)


def searched(captioner: Captioner, states: Tensor, search: Search, end: int) -> list[list[int]]:
    with torch.inference_mode():
        return generate(captioner.text_decoder, states, PROMPT[: len(states)], search, end=end)


def test_states_and_first_logits(captioner: Captioner, states: Tensor, stored: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(states, stored["states"], atol=2e-5)
    with torch.inference_mode():
        logits = captioner.text_decoder(input_ids=PROMPT, encoder_hidden_states=states).logits[:, -1]
    np.testing.assert_allclose(logits, stored["logits"], atol=2e-5)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", SEARCHES)
def test_ids_of_a_batch_are_those_of_each_image_alone(
    captioner: Captioner, states: Tensor, stored: dict[str, np.ndarray], name: str, end: int
) -> None:
    expected = [[each for each in row if each >= 0] for row in stored[f"{name} {end}"].tolist()]
    assert searched(captioner, states, SEARCHES[name], end) == expected
    assert searched(captioner, states[2:3], SEARCHES[name], end) == expected[2:3]


@pytest.mark.parametrize("search", [Search(1, 16), Search(3, 16)])
def test_the_decoder_reads_each_word_once(captioner: Captioner, states: Tensor, search: Search) -> None:
    widths: list[int] = []
    hook = captioner.text_decoder.register_forward_pre_hook(
        lambda _, __, inputs: widths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    crossing: list[int] = []
    keys = captioner.text_decoder.bert.encoder.layer[0].crossattention.self.key
    other = keys.register_forward_hook(lambda *_: crossing.append(1))
    searched(captioner, states, search, end=2)
    hook.remove()
    other.remove()
    assert widths == [4] + [1] * 11
    assert len(crossing) == 1


def test_nucleus_sampling(captioner: Captioner, states: Tensor) -> None:
    greedy = searched(captioner, states, Search(1, 20), 2)
    assert searched(captioner, states, Search(top_p=1e-6, longest=20), 2) == greedy
    some, again, others = (
        searched(captioner, states, Search(top_p=0.9, longest=20, seed=seed), 2) for seed in (1, 1, 2)
    )
    assert some == again != others
    assert some != greedy
    with torch.inference_mode():
        shares = captioner.text_decoder(input_ids=PROMPT, encoder_hidden_states=states).logits[0, -1].softmax(-1)
    sampled = {searched(captioner, states[:1], Search(top_p=0.5, longest=5, seed=seed), 2)[0][4] for seed in range(60)}
    order = shares.argsort(descending=True).tolist()
    nucleus = int((shares.sort(descending=True).values.cumsum(0) < 0.5).sum()) + 1
    assert len(sampled) > 2
    assert sampled <= set(order[:nucleus])


def test_no_text_ends_before_its_shortest_length(captioner: Captioner, states: Tensor) -> None:
    for beams in (1, 3):
        short = searched(captioner, states, Search(beams, 40, shortest=0), 57)
        long = searched(captioner, states, Search(beams, 40, shortest=25), 57)
        assert min(map(len, short)) < 12
        assert min(map(len, long)) >= 25
