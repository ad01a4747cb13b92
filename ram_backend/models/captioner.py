"""Captioner of Tag2Text and RAM: BERT over tags and tokens, causal BERT decoder.

Tag2Text paper, section 3.3 (arXiv 2303.05657): the tags of an image, as one
text, attend to its tokens; the decoder attends to the result. Weights come by
the official names, which are those of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel, BertModel

from ram_backend.errors import BundleDamaged, first_line
from ram_backend.models.bundle import CAPTIONER, NETWORK, Bundle
from ram_backend.models.official import HEAD_PARTS
from ram_backend.models.torch_network import torch_device

HEAD_WIDTH = 64
"""Width of an attention head in both parts, as in BERT; no shape reveals it."""

PAD = 0


class Captioner(nn.Module):
    """Tag encoder and text decoder; `token_width` is D of the image tokens."""

    def __init__(self, encoder: BertConfig, decoder: BertConfig, token_width: int) -> None:
        super().__init__()
        self.tag_encoder = BertModel(encoder, add_pooling_layer=False)
        for layer in self.tag_encoder.encoder.layer:
            attention = layer.crossattention.self
            attention.key = nn.Linear(token_width, encoder.hidden_size)
            attention.value = nn.Linear(token_width, encoder.hidden_size)
        self.text_decoder = BertLMHeadModel(decoder)

    @classmethod
    def with_weights(cls, weights: Mapping[str, Tensor]) -> Captioner:
        """A captioner around complete weights by official names, in evaluation mode.

        Raises:
            KeyError, RuntimeError: these are not exactly a captioner's tensors.
        """
        with torch.device("meta"):
            width = weights["tag_encoder.encoder.layer.0.crossattention.self.key.weight"].shape[1]
            captioner = cls(_config(weights, "tag_encoder"), _config(weights, "text_decoder.bert"), width)
        state = dict(weights)
        parts = {"tag_encoder": captioner.tag_encoder, "text_decoder.bert": captioner.text_decoder.bert}
        for name, bert in parts.items():
            types = f"{name}.embeddings.token_type_embeddings.weight"
            state[types] = torch.zeros(captioner.get_parameter(types).shape)  # the authors have none
            bert.embeddings.position_ids = torch.arange(bert.config.max_position_embeddings)[None]
            bert.embeddings.token_type_ids = torch.zeros_like(bert.embeddings.position_ids)
        decoder = "text_decoder.cls.predictions.decoder"
        state[f"{decoder}.weight"] = state["text_decoder.bert.embeddings.word_embeddings.weight"]
        state[f"{decoder}.bias"] = state["text_decoder.cls.predictions.bias"]
        captioner.load_state_dict(state, strict=True, assign=True)
        captioner.text_decoder.tie_weights()
        return captioner.eval()

    def encode_tags(self, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Lets the words of the tags look at each other and at the image.

        Args:
            ids: (B, W) int64.
            mask: (B, W), 1 for words and 0 for padding.
            tokens: (B, T, D) image tokens.

        Returns:
            (B, W, H) states; the decoder attends to those of padding, too.
        """
        # A mask of four axes is taken as it is; one of two would become causal.
        seen = torch.where(mask.bool(), 0.0, -10000.0)[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        return self.tag_encoder(
            input_ids=ids, attention_mask=seen, encoder_hidden_states=tokens, use_cache=False
        ).last_hidden_state


def load_captioner(bundle: Bundle, device: str = "cpu", network: Mapping[str, Tensor] | None = None) -> Captioner:
    """The captioner of a bundle in fp32.

    `network`: parameters of the bundle's `TaggingNetwork`, with which it shares
    some (for training); None: read from the bundle.

    Raises:
        BundleDamaged: it has none, or its weights are not those of a captioner.
        SettingsError: the device is not there.
    """
    path = bundle.path / CAPTIONER
    try:
        weights = load_file(path)
        for name, tensor in (network or load_file(bundle.path / NETWORK)).items():
            if name.startswith("head.layers."):  # the tag encoder shares these, all but self-attention
                _, _, layer, part, value = name.split(".")
                weights[f"tag_encoder.encoder.layer.{layer}.{HEAD_PARTS[part]}.{value}"] = tensor
        return Captioner.with_weights(weights).to(torch_device(device))
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise BundleDamaged(f"{path} doesn't fit its bundle ({first_line(error)}). Make it again.") from None


def _config(weights: Mapping[str, Tensor], part: str) -> BertConfig:
    """The numbers of a part, from the shapes of its weights."""
    words, hidden = weights[f"{part}.embeddings.word_embeddings.weight"].shape
    layers = f"{part}.encoder.layer."
    numbers = {name[len(layers) :].split(".")[0] for name in weights if name.startswith(layers)}
    return BertConfig(
        vocab_size=words,
        hidden_size=hidden,
        num_hidden_layers=len(numbers),
        num_attention_heads=max(1, hidden // HEAD_WIDTH),
        intermediate_size=len(weights[f"{layers}0.intermediate.dense.bias"]),
        max_position_embeddings=len(weights[f"{part}.embeddings.position_embeddings.weight"]),
        layer_norm_eps=1e-12,
        is_decoder=True,
        add_cross_attention=True,
        pad_token_id=PAD,
    )
