"""A GPT of about one million parameters: pre-norm, causal attention, bytes in and bytes out."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

VOCABULARY = 256
HEAD_WIDTH = 32
"""Of each attention head."""


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """Sizes of the model."""

    width: int = 128
    """Of the residual stream; a multiple of `HEAD_WIDTH`."""
    depth: int = 4
    """Blocks."""
    context: int = 128
    """Bytes per sequence."""


class Block(nn.Module):
    """Attention and an MLP four times as wide, each behind a norm and around a residual."""

    def __init__(self, width: int, head_width: int = HEAD_WIDTH) -> None:
        super().__init__()
        self.heads = width // head_width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.projection = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, width) to the same shape."""
        batch, time, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Prediction of the next byte, or of another token below `vocabulary`.

    Weights are drawn from `seed`, those of the residual projections smaller by 1/sqrt(2 depth).
    """

    def __init__(
        self,
        config: GPTConfig = GPTConfig(),
        seed: int = 0,
        vocabulary: int = VOCABULARY,
        head_width: int = HEAD_WIDTH,
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config.width, head_width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, vocabulary, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.ndim > 1:
                residual = name.endswith(("projection.weight", "down.weight"))
                deviation = 0.02 / (2 * config.depth) ** 0.5 if residual else 0.02
                nn.init.normal_(p, std=deviation, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, time) int64 to logits (batch, time, vocabulary)."""
        x = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean cross-entropy, in nats per token, of tokens (batch, time + 1)."""
        return F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
