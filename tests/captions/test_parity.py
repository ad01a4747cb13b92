"""The full-size captioner against what the authors' own code wrote with the same weights.

The small sibling is test_search.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import reference
from PIL import Image

from ram_backend.captions.search import Search
from ram_backend.captions.writer import CaptionWriter
from ram_backend.models.captioner import load_captioner
from ram_backend.models.network import load_network
from ram_backend.vocabulary.minilm import bert_tokenizer

pytestmark = [pytest.mark.shared, pytest.mark.slow]

SEARCHES = {
    "greedy_max30": Search(1),
    "beam3_max30": Search(),
    "beam3_max50": Search(longest=50),
    "beam3_max30_rep1.2": Search(repetition_penalty=1.2),
    "beam3_usertags": Search(longest=50),
    "greedy_alt_eos": Search(1),
    "beam3_alt_eos": Search(),
}


@pytest.fixture(scope="module")
def full(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Tag2Text at full size, the image tokens of three photos, and what the authors' code wrote about them."""
    folder = shared / "ram-reference"
    expected = json.loads((folder / "expected.json").read_text())
    model = expected["models"]["tag2text"]
    photos = [Image.open(folder / "images" / name) for name in expected["images"][:3]]
    with np.load(folder / "expected.tag2text.npz") as arrays:
        logits = arrays["greedy_step0_logits"]
    with reference.full_size(shared, "tag2text", tmp_path_factory.mktemp("tag2text")) as (bundle, _, _):
        network = load_network(bundle, device="cpu", precision="fp32")
        tokens = network.encode(np.stack([bundle.preprocessing(photo) for photo in photos]))
        scores = bundle.calibration.scores(network.logits(tokens, network.select(range(len(bundle.vocabulary)))))
        names = list(bundle.vocabulary.names)
        captioner = load_captioner(bundle)
        yield SimpleNamespace(
            captioner=captioner,
            writer=CaptionWriter(captioner, bert_tokenizer()),
            tokens=torch.from_numpy(tokens),
            tags=[[names[at] for at in np.flatnonzero(row)] for row in scores > bundle.vocabulary.thresholds],
            logits=logits,
            expected=model["captions"],
            loss=model["losses_eval_mode"],
            names=names,
        )


def test_the_tags_of_the_caption_and_its_first_logits(full: SimpleNamespace) -> None:
    assert [" | ".join(tags) for tags in full.tags] == [each["beam3_max30"]["tag_input"] for each in full.expected]
    ids, mask = full.writer.tag_ids(full.tags)
    assert ids.tolist() == [each["beam3_max30"]["tag_encoder_ids"] for each in full.expected]
    with torch.inference_mode():
        states = full.captioner.encode_tags(ids, mask, full.tokens)
        prompt = full.writer.prompt(3)
        logits = full.captioner.text_decoder(input_ids=prompt, encoder_hidden_states=states).logits[:, -1].numpy()
    for ours, theirs in zip(logits, full.logits, strict=False):
        finite = np.isfinite(theirs)
        assert np.flatnonzero(~finite).tolist() == [102]  # recorded after the rule of the shortest length
        np.testing.assert_allclose(ours[finite], theirs[finite], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", SEARCHES)
def test_ids_of_one_image(full: SimpleNamespace, name: str) -> None:
    image, run = next((at, each[name]) for at, each in enumerate(full.expected) if name in each)
    tags = run["tag_input"].split(" | ") if name == "beam3_usertags" else full.tags[image]
    end = run.get("eos_token_id", 102)
    ids = full.writer.ids(full.tokens[image : image + 1], [tags], SEARCHES[name], end=end)
    assert ids == [run["ids"]]


@pytest.mark.parametrize("name", ["greedy_max30", "beam3_max30"])
def test_a_batch_of_three(full: SimpleNamespace, name: str) -> None:
    assert full.writer.ids(full.tokens, full.tags, SEARCHES[name]) == [each[name]["ids"] for each in full.expected]
    if name == "beam3_max30":
        texts = full.writer.write(full.tokens.numpy(), full.tags, SEARCHES[name])
        assert texts == [each[name]["caption"] for each in full.expected]


def test_the_caption_loss(full: SimpleNamespace) -> None:
    tags = [[full.names[11 + image + 401 * step] for step in range(6)] for image in range(2)]
    with torch.inference_mode():
        loss, _ = full.writer.loss(full.tokens[:2], tags, full.loss["captions"])
    assert float(loss) == pytest.approx(full.loss["loss_t2t"], rel=1e-4)
