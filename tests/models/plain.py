"""RAM, RAM++ and Tag2Text written down naively, on official key names: one image, one window, one head at a time.

Slow and simple on purpose, and sharing no line with the package: what the package computes is compared with this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

Weights = Mapping[str, Tensor]
HEADS = 4


def linear(w: Weights, key: str, x: Tensor) -> Tensor:
    return x @ w[f"{key}.weight"].T + w.get(f"{key}.bias", torch.zeros(()))


def norm(w: Weights, key: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{key}.weight"] + w[f"{key}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def window_attention(w: Weights, at: str, x: Tensor, window: int, region: Tensor) -> Tensor:
    """x (window * window, C) and the region that each position belongs to: others are all but invisible."""
    table = w[f"{at}.relative_position_bias_table"]
    heads, width = table.shape[1], x.shape[1] // table.shape[1]
    q, k, v = linear(w, f"{at}.qkv", x).chunk(3, dim=-1)
    bias = torch.empty(len(x), len(x), heads)
    for i in range(len(x)):
        for j in range(len(x)):
            dy, dx = i // window - j // window, i % window - j % window
            bias[i, j] = table[(dy + window - 1) * (2 * window - 1) + dx + window - 1]
            bias[i, j] -= 100.0 * float(region[i] != region[j])
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width) + bias[..., head]
        outputs.append(scores.softmax(-1) @ v[:, part])
    return linear(w, f"{at}.proj", torch.cat(outputs, dim=-1))


def block(w: Weights, at: str, x: Tensor, window: int, shift: int) -> Tensor:
    """One Swin block on a map x (side, side, C)."""
    side = len(x)
    y = norm(w, f"{at}.norm1", x, 1e-5).roll((-shift, -shift), (0, 1))
    edge = torch.tensor([0 if i < side - window else 1 if i < side - shift else 2 for i in range(side)])
    region = edge[:, None] * 3 + edge[None, :] if shift else torch.zeros(side, side)
    out = torch.empty_like(y)
    for top in range(0, side, window):
        for left in range(0, side, window):
            here = (slice(top, top + window), slice(left, left + window))
            tokens = window_attention(w, f"{at}.attn", y[here].reshape(window**2, -1), window, region[here].reshape(-1))
            out[here] = tokens.reshape(window, window, -1)
    x = x + out.roll((shift, shift), (0, 1))
    return x + linear(w, f"{at}.mlp.fc2", gelu(linear(w, f"{at}.mlp.fc1", norm(w, f"{at}.norm2", x, 1e-5))))


def tokens(w: Weights, image: Tensor, depths: tuple[int, ...], window: int) -> Tensor:
    """One image (3, S, S) to its tokens (T, D)."""
    at = "visual_encoder"
    kernel = w[f"{at}.patch_embed.proj.weight"]
    x = functional.conv2d(image[None], kernel, w[f"{at}.patch_embed.proj.bias"], stride=kernel.shape[-1])[0]
    x = norm(w, f"{at}.patch_embed.norm", x.permute(1, 2, 0), 1e-5)
    for stage, depth in enumerate(depths):
        for number in range(depth):
            shift = window // 2 if number % 2 and len(x) > window else 0
            x = block(w, f"{at}.layers.{stage}.blocks.{number}", x, window, shift)
        if stage < len(depths) - 1:
            merged = torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], dim=-1)
            down = f"{at}.layers.{stage}.downsample"
            x = linear(w, f"{down}.reduction", norm(w, f"{down}.norm", merged, 1e-5))
    x = norm(w, f"{at}.norm", x, 1e-5).reshape(-1, x.shape[-1])
    x = torch.cat([x.mean(0, keepdim=True), x])
    return linear(w, "image_proj", x) if "image_proj.weight" in w else x


def head(w: Weights, x: Tensor, image_tokens: Tensor, layers: int) -> Tensor:
    """Queries x (L, H) through the head's layers."""
    for layer in range(layers):
        at = f"tagging_head.encoder.layer.{layer}"
        q = linear(w, f"{at}.crossattention.self.query", x)
        k = linear(w, f"{at}.crossattention.self.key", image_tokens)
        v = linear(w, f"{at}.crossattention.self.value", image_tokens)
        width = q.shape[1] // HEADS
        outputs = []
        for number in range(HEADS):
            part = slice(number * width, (number + 1) * width)
            outputs.append((q[:, part] @ k[:, part].T / math.sqrt(width)).softmax(-1) @ v[:, part])
        attended = linear(w, f"{at}.crossattention.output.dense", torch.cat(outputs, dim=-1))
        a = norm(w, f"{at}.crossattention.output.LayerNorm", x + attended, 1e-12)
        inner = gelu(linear(w, f"{at}.intermediate.dense", a))
        x = norm(w, f"{at}.output.LayerNorm", a + linear(w, f"{at}.output.dense", inner), 1e-12)
    return x


def logits_of_tokens(w: Weights, seen: Tensor, tags: int, layers: int = 2) -> Tensor:
    """(L,) of one image's tokens."""
    if "fc.W" in w:
        x = head(w, w["label_embed.weight"], seen, layers)
        return (x * w["fc.W"][0]).sum(-1) + w["fc.b"][0]
    labels = w["label_embed"]
    if "reweight_scale" in w:
        image = seen[0] / seen[0].norm()
        mixed = []
        for rows in labels.reshape(tags, -1, labels.shape[1]):
            weights = (w["reweight_scale"].exp() * (rows @ image)).softmax(0)
            mixed.append((weights[:, None] * rows).sum(0))
        labels = torch.stack(mixed)
    x = head(w, linear(w, "wordvec_proj", labels).relu(), seen, layers)
    return linear(w, "fc", x)[:, 0]


def logits(w: Weights, images: Tensor, tags: int, depths: tuple[int, ...], window: int) -> Tensor:
    """(B, L) of images (B, 3, S, S)."""
    return torch.stack([logits_of_tokens(w, tokens(w, image, depths, window), tags) for image in images])
