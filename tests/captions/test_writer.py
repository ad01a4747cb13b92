"""Captions of small bundles: tokenization, text, batches, and what a bundle lacks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import reference, tiny
from safetensors.torch import load_file, save_file

from ram_backend.captions.bundle import BundleCaptions
from ram_backend.captions.search import Search
from ram_backend.captions.writer import CaptionWriter
from ram_backend.errors import BundleDamaged, InputError
from ram_backend.models.bundle import CAPTIONER, Bundle, open_bundle
from ram_backend.models.captioner import load_captioner
from ram_backend.vocabulary.minilm import bert_tokenizer

WIDTHS = {"ram": tiny.WIDTH, "tag2text": tiny.EMBED * 4}


@pytest.fixture(scope="module", params=WIDTHS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle whose captioner knows all of BERT's words."""
    return tiny.imported(tmp_path_factory.mktemp("captions"), request.param, tiny.captioning_state(request.param))


@pytest.fixture(scope="module")
def writer(bundle: Bundle) -> CaptionWriter:
    return CaptionWriter(load_captioner(bundle), bert_tokenizer())


def tokens(bundle: Bundle, images: int) -> np.ndarray:
    return reference.draw("tokens", (images, 17, WIDTHS[bundle.kind]), 0, 1, "tiny:")


def test_each_image_of_a_batch_has_its_own_caption(bundle: Bundle, writer: CaptionWriter) -> None:
    seen, tags = tokens(bundle, 3), [["dog", "grass"], ["red car"], []]
    texts = writer.write(seen, tags, Search())
    assert len(set(texts)) == 3
    assert texts == [writer.write(seen[at : at + 1], tags[at : at + 1], Search())[0] for at in range(3)]
    assert not any(word in text for text in texts for word in ("[", "picture of"))


def test_tags_are_one_text_of_forty_word_pieces(writer: CaptionWriter) -> None:
    ids, mask = writer.tag_ids([["dog", "grass", "ball"], ["zebra crossing"] * 30])
    assert ids.shape == mask.shape == (2, 40)
    assert ids[0, :8].tolist() == [30523, 3899, 1064, 5568, 1064, 3608, 102, 0]
    assert mask.sum(1).tolist() == [7, 40]
    assert (ids[1, 0], ids[1, -1]) == (30523, 102)
    assert writer.prompt(2).tolist() == [[30522, 1037, 3861, 1997]] * 2


def test_layers_shared_with_the_tagging_head_are_read_from_the_network(bundle: Bundle) -> None:
    captioner, state = load_captioner(bundle), tiny.captioning_state(bundle.kind)
    for layer in range(3):
        ours = captioner.tag_encoder.encoder.layer[layer].intermediate.dense.weight
        theirs = "tagging_head" if layer < 2 else "tag_encoder"
        torch.testing.assert_close(ours, state[f"{theirs}.encoder.layer.{layer}.intermediate.dense.weight"])


def test_a_model_without_a_captioner_gets_a_template_and_a_bundle_without_weights_says_why(tmp_path: Path) -> None:
    captions = BundleCaptions(tiny.imported(tmp_path, "ram_plus"))
    assert captions.source == "template"
    assert captions.write(np.zeros((2, 17, 24), np.float32), [["dog", "grass"], []]) == ["dog, grass", ""]
    state = {key: value for key, value in tiny.state_dict("ram").items() if not reference.is_caption_key(key)}
    with pytest.raises(InputError, match="'ram' can't write captions: the imported file had none"):
        BundleCaptions(tiny.imported(tmp_path, "ram", state))


def test_a_bundle_s_captions_are_its_captioner_s(bundle: Bundle, writer: CaptionWriter) -> None:
    captions = BundleCaptions(bundle, device="cpu", beams=2, longest=15)
    seen, tags = tokens(bundle, 2), [["dog"], ["sky", "red car"]]
    assert captions.source == "model"
    assert captions.write(seen, tags) == writer.write(seen, tags, Search(2, 15))
    assert captions.write(seen[:0], []) == []


def test_a_captioner_that_lacks_a_tensor_is_damaged(bundle: Bundle) -> None:
    kept = load_file(bundle.path / CAPTIONER)
    content = (bundle.path / CAPTIONER).read_bytes()
    kept.pop("text_decoder.cls.predictions.bias")
    save_file(kept, bundle.path / CAPTIONER)
    with pytest.raises(BundleDamaged, match="doesn't fit its bundle"):
        load_captioner(bundle)
    (bundle.path / CAPTIONER).write_bytes(content)
    load_captioner(open_bundle(bundle.path))
