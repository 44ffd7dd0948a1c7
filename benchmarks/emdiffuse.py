"""A network of EMDiffuse's size, with random weights, for operations and seconds alone; our own code.

Lu, Chen, Qiu et al., "EMDiffuse: a diffusion-based deep learning method augmenting ultrastructural imaging and volume
electron microscopy", Nature Communications 2024. Sizes are those of its repository, Luchixiang/EMDiffuse,
config/vEMDiffuse-i.json: the U-Net of guided diffusion with 32 channels times 1, 2, 4, 8, two residual blocks a level,
residual blocks that change the resolution, attention at 1/16 resolution (which four levels do not reach, so in the middle
alone) with 32 channels a head, two neighbours and the noisy section in, one section out; 1,000 steps when testing.
`WIDE` is the same with 96 channels, 149 million parameters instead of 17: as large as diffusion models often are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MULTIPLES, BLOCKS, HEAD = (1, 2, 4, 8), 2, 32
PUBLISHED, WIDE = 32, 96  # channels at full resolution
STEPS, CONFIGURED_STEPS = 200, 1000


class Block(nn.Module):
    """Residual, with the noise level as scale and shift; `change` halves ("down") or doubles ("up") the resolution."""

    def __init__(self, inputs: int, outputs: int, embedding: int, change: str = "") -> None:
        super().__init__()
        self.change = change
        self.before, self.after = nn.GroupNorm(32, inputs), nn.GroupNorm(32, outputs)
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.level = nn.Linear(2 * embedding, 2 * outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.first(self._changed(F.silu(self.before(x))))
        scale, shift = self.level(F.silu(level))[..., None, None].chunk(2, 1)
        return self.skip(self._changed(x)) + self.second(F.silu(self.after(h) * (1 + scale) + shift))

    def _changed(self, x: Tensor) -> Tensor:
        if not self.change:
            return x
        return F.avg_pool2d(x, 2) if self.change == "down" else F.interpolate(x, scale_factor=2)


class Attention(nn.Module):
    """Every place to every place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(32, channels), channels // HEAD
        self.qkv, self.out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x).reshape(b, c, -1)).reshape(b, 3, self.heads, HEAD, h * w).transpose(3, 4)
        seen = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])  # (B, heads, H W, HEAD)
        return x + self.out(seen.transpose(2, 3).reshape(b, c, -1)).reshape(x.shape)


class UNet(nn.Module):
    """(B, 3, H, W) and the embedded noise level and place (B, 8 channels) -> (B, 1, H, W). H and W are multiples of 8."""

    def __init__(self, channels: int = PUBLISHED) -> None:
        super().__init__()
        e, width = 4 * channels, channels
        self.stem, kept = nn.Conv2d(3, width, 3, padding=1), [width]
        self.down = nn.ModuleList()
        for i, m in enumerate(MULTIPLES):
            for _ in range(BLOCKS):
                self.down.append(Block(width, m * channels, e))
                kept.append(width := m * channels)
            if i < len(MULTIPLES) - 1:
                self.down.append(Block(width, width, e, "down"))
                kept.append(width)
        self.middle = nn.ModuleList([Block(width, width, e), Attention(width), Block(width, width, e)])
        self.up = nn.ModuleList()
        for i, m in reversed(list(enumerate(MULTIPLES))):
            for _ in range(BLOCKS + 1):
                self.up.append(Block(width + kept.pop(), m * channels, e))
                width = m * channels
            if i:
                self.up.append(Block(width, width, e, "up"))
        self.norm, self.head = nn.GroupNorm(32, width), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.stem(x)
        kept = [h]
        for block in self.down:
            kept.append(h := block(h, level))
        first, attention, last = self.middle
        h = last(attention(first(h, level)), level)
        for block in self.up:
            h = block(h if block.change else torch.cat([h, kept.pop()], 1), level)  # type: ignore[arg-type]
        return self.head(F.silu(self.norm(h)))


def inputs(channels: int, edge: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """What one evaluation of a section of edge x edge pixels is given."""
    return torch.rand(1, 3, edge, edge, device=device), torch.rand(1, 8 * channels, device=device)
