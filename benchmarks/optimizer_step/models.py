"""Weights of known models: modules, names and shapes of the originals, all that routing reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn


def gpt2(width: int, vocabulary: int, layers: int) -> nn.Module:
    """Return GPT-2 as in Transformers, but with nn.Linear in the place of its Conv1D."""

    def block() -> nn.Module:
        attention = {"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)}
        mlp = {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        norms = nn.LayerNorm(width), nn.LayerNorm(width)
        return nn.ModuleDict(
            {
                "ln_1": norms[0],
                "attn": nn.ModuleDict(attention),
                "ln_2": norms[1],
                "mlp": nn.ModuleDict(mlp),
            }
        )

    wte, head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary, bias=False)
    head.weight = wte.weight
    blocks = nn.ModuleList(block() for _ in range(layers))
    parts = {
        "wte": wte,
        "wpe": nn.Embedding(1024, width),
        "h": blocks,
        "ln_f": nn.LayerNorm(width),
        "lm_head": head,
    }
    return nn.ModuleDict(parts)


def resnet50() -> nn.Module:
    """Return ResNet-50 as in torchvision."""

    def bottleneck(into: int, width: int) -> nn.Module:
        shapes = [(into, width, 1), (width, width, 3), (width, 4 * width, 1)]
        parts: dict[str, nn.Module] = {}
        for i, (a, b, taps) in enumerate(shapes, 1):
            parts |= {f"conv{i}": nn.Conv2d(a, b, taps, bias=False), f"bn{i}": nn.BatchNorm2d(b)}
        if into != 4 * width:
            parts["downsample"] = nn.Sequential(
                nn.Conv2d(into, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
            )
        return nn.ModuleDict(parts)

    model = nn.ModuleDict({"conv1": nn.Conv2d(3, 64, 7, bias=False), "bn1": nn.BatchNorm2d(64)})
    into = 64
    for i, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 1):
        inputs = [into] + [4 * width] * (blocks - 1)
        model[f"layer{i}"] = nn.ModuleList(bottleneck(x, width) for x in inputs)
        into = 4 * width
    model["fc"] = nn.Linear(into, 1000)
    return model


def vit_b(layers: int) -> nn.Module:
    """Return ViT-B/16 at 224 pixels, as in timm."""
    width = 768

    def block() -> nn.Module:
        attention = {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        mlp = {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        norms = nn.LayerNorm(width), nn.LayerNorm(width)
        return nn.ModuleDict(
            {
                "norm1": norms[0],
                "attn": nn.ModuleDict(attention),
                "norm2": norms[1],
                "mlp": nn.ModuleDict(mlp),
            }
        )

    patches = nn.ModuleDict({"proj": nn.Conv2d(3, width, 16)})
    blocks = nn.ModuleList(block() for _ in range(layers))
    parts = {
        "patch_embed": patches,
        "blocks": blocks,
        "norm": nn.LayerNorm(width),
        "head": nn.Linear(width, 1000),
    }
    model = nn.ModuleDict(parts)
    model.register_parameter("cls_token", nn.Parameter(torch.zeros(1, 1, width)))
    model.register_parameter("pos_embed", nn.Parameter(torch.zeros(1, 197, width)))
    return model


def build(name: str, layers: int, dtype: torch.dtype, device: str = "cpu") -> nn.Module:
    """Return a model with gradients, the same on every device."""
    return draw_gradients(MODELS[name](layers).to(dtype)).to(device)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "gpt2-small": partial(gpt2, 768, 50257),
    "resnet50": lambda _: resnet50(),
    "vit-b": vit_b,
    "gpt-64": partial(gpt2, 64, 256),
}
"""Each takes a number of layers; ResNet-50 has its own."""


def draw_gradients(model: nn.Module) -> nn.Module:
    """Give every parameter a random gradient of scale 1e-2, always the same."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.grad = torch.empty_like(p).normal_(std=1e-2, generator=generator)
    return model
