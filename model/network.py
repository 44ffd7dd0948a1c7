"""AnisoUNet3D: the one network, whose parts are switched by its config (never a copy of it per variant).

A window is D sections: one or two clean ones, K missing or damaged ones (the targets), one or two clean ones. Level 0
(half resolution) refines the targets only; the neighbours join at quarter resolution, where sections exchange
information.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import (
    Embedding,
    FirstLastAttention,
    PixelNorm,
    PlaneConv,
    ReconstructionHead,
    ResidualBlock,
    shuffled,
    unshuffled,
)

REFERENCE_NM = (47.5, 4.6)  # section thickness and lateral voxel size that condition as (0, 0)
FLOW_LEVEL = (
    2  # the level whose attention steers ALR's warps: at 1/8 resolution a 7 x 7 window reaches 24 px either way
)
OUTPUTS = ("mjs", "eps+x0", "x0", "eps")
_MOST = 4096
LATER = {"asymmetric": True}  # settings that older cards and states do not have, and need not


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Everything that shapes the network. Stored in the card beside the weights; two configs never share weights."""

    widths: tuple[int, ...] = (64, 64, 128, 128)  # channels at 1/2, 1/4, 1/8, ... of the input resolution
    encoder: tuple[int, ...] = (1, 1, 1, 1)  # residual blocks a level on the way down
    decoder: tuple[int, ...] = (2, 2, 1, 1)  # residual blocks a level on the way up
    unshuffle: int = 2  # pixels a side folded into channels at the input: costs a quarter of full resolution
    embedding: int = 128  # width of the noise-level and voxel-size vector
    symmetric: bool = True  # 3x3x3 beside 1x3x3 below level 0; False: 1x3x3 everywhere (the asymmetric-only ablation)
    asymmetric: bool = True  # 1x3x3 as the first of two, and alone at level 0; False: 3x3x3 everywhere
    flab: bool = True  # First and Last slices Attention Block; False: sections meet in 3x3x3 convolutions only
    flab_window: tuple[int, ...] = (0, 0, 7, 5)  # k of the k x k window at each level; 0 = no attention at that level
    flab_width: int = 32  # channels of its queries, keys and values
    alr: bool = True  # Adaptive and Learnable Reconstruction; False: x0 is generated only
    outputs: str = "mjs"  # "mjs": noise, x0 and the gate between them; "eps+x0": a fixed gate; "x0" or "eps": one alone
    near: bool = False  # the decoder keeps only the clean sections next to the gap: a quarter less work
    neighbours: bool = True  # show every section the two clean ones next to the gap, as input channels
    aligned: bool = False  # move those two along the tissue's drift first, to where the section lies
    mask_channel: bool = True  # tell the network which pixels are to be restored and show it the known ones
    voxel: bool = True  # condition on the voxel size
    centred_norm: bool = True  # per-pixel LayerNorm (fused kernel); False: per-pixel RMSNorm

    def __post_init__(self) -> None:
        """Raises ValueError for what is no network."""
        levels = (self.encoder, self.decoder, self.flab_window)
        if len(self.widths) < 2 or any(len(level) != len(self.widths) for level in levels):
            raise ValueError("widths, encoder, decoder and flab_window must say one number a level, 2 levels or more")
        if min(*self.widths, self.unshuffle, self.embedding, self.flab_width) < 1 or min(map(min, levels)) < 0:
            raise ValueError("widths, unshuffle, embedding and flab_width are 1 or more, numbers a level 0 or more")
        if max(*self.widths, *map(max, levels), self.unshuffle, self.embedding, self.flab_width) > _MOST:
            raise ValueError(f"a width or count above {_MOST} is no network that fits into memory")
        if any(k and not k % 2 for k in self.flab_window):
            raise ValueError(f"flab_window {self.flab_window} must be odd, or 0 where there is none")
        if self.outputs not in OUTPUTS:
            raise ValueError(f"outputs {self.outputs!r} is not one of {', '.join(OUTPUTS)}")
        if not self.symmetric and not self.asymmetric:
            raise ValueError("symmetric and asymmetric cannot both be off: no convolution would be left")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """From a card's JSON: lists become tuples, an unknown key is an error."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown network setting {unknown}: these weights are for a newer zmend; update it")
        ready: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**ready)

    def to_dict(self) -> dict[str, Any]:
        said = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in said.items() if LATER.get(k) != v}

    @property
    def stride(self) -> int:
        """H and W must be multiples of this."""
        return self.unshuffle * int(2 ** (len(self.widths) - 1))


PRESETS: Mapping[str, NetworkConfig] = {
    # 2 CPU cores, one hour: what ships; under 0.5 TFLOP a megapixel and evaluation
    "cpu": NetworkConfig(widths=(48, 64, 128, 160), decoder=(2, 1, 1, 1), near=True, aligned=True),
    # one GPU, half an hour: the same design, wider and deeper
    "bridge": NetworkConfig(widths=(64, 96, 160, 192), encoder=(1, 1, 2, 2), decoder=(2, 2, 2, 2), near=True,
                            aligned=True),
    # nearest to the letter of the paper's abstract: RMSNorm, full resolution, no voxel size, and neighbours that are
    # seen in their own places only. What remains ours, not the paper's: every guess of DESIGN.md's first table, the
    # known pixels beside the mask, level 0 for the targets alone; and training, which shows the blind level (--blind 0
    # leaves that out)
    "paper": NetworkConfig(widths=(32, 64, 128, 128), encoder=(1, 2, 2, 2), decoder=(2, 2, 2, 2), unshuffle=1,
                           flab_window=(0, 0, 7, 5), neighbours=False, voxel=False, centred_norm=False),
}  # fmt: skip


class Outputs(NamedTuple):
    """The three maps of MJS at the targets, each (B, 1, K, H, W) float32.

    "Multi-output Joint Strategy for noise estimation" (abstract): that there is more than one output, and that they
    make one estimate of the noise, is the paper's; which three, and the gate, are our guess.
    """

    noise: Tensor  # eps_hat: predicted noise, unit variance
    clean: Tensor  # x0_hat: predicted clean section in [-1, 1]
    gate: Tensor  # g: logit of the weight of `noise` in the joint estimate, on top of EDM's prior


class AnisoUNet3D(nn.Module):
    """Asymmetric and symmetric 3-D U-Net with FLAB, ALR and the three outputs of MJS.

    The abstract names the kinds of convolution, ALR and FLAB. Depth, widths, where each stands and what joins them are
    our guess; so is that sections keep their own places along z, and that z is never pooled.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        w, e = config.widths, config.embedding
        inputs = 1 + 2 * config.mask_channel + 2 * config.neighbours
        self.embedding = Embedding(e, voxel=config.voxel)
        self.stem = PlaneConv(inputs * config.unshuffle**2, w[0], (1, 3))
        self.down = nn.ModuleList(PlaneConv(a, b, (1, 2), stride=2) for a, b in pairwise(w))
        self.up = nn.ModuleList(PlaneConv(b, a, (1, 1)) for a, b in pairwise(w))
        self.encoder = nn.ModuleList(self._level(i, n) for i, n in enumerate(config.encoder))
        self.decoder = nn.ModuleList(self._level(i, n) for i, n in enumerate(config.decoder))
        self.attention = nn.ModuleDict(self._attention())
        self.norm = PixelNorm(centred=config.centred_norm)
        self.head = PlaneConv(w[0], 3 * config.unshuffle**2, (1, 3), zero=True)
        self.alr = ReconstructionHead(w[0], config.unshuffle) if config.alr else None

    def _level(self, level: int, count: int) -> nn.ModuleList:
        c = self.config
        # Lateral resolution is 5-10 times the axial at level 0: 1x3x3 alone, unless that kind is ablated
        symmetric = c.symmetric and (level > 0 or not c.asymmetric)
        return nn.ModuleList(
            ResidualBlock(
                c.widths[level], c.embedding, symmetric=symmetric, asymmetric=c.asymmetric, centred=c.centred_norm
            )
            for _ in range(count)
        )

    def _attention(self) -> dict[str, nn.Module]:
        c = self.config
        return {
            str(i): FirstLastAttention(c.widths[i], window=k, width=c.flab_width, centred=c.centred_norm)
            for i, k in enumerate(c.flab_window)
            if c.flab and k
        }

    def forward(self, x: Tensor, pair: Tensor, log_sigma: Tensor, voxel: Tensor, targets: tuple[int, int]) -> Outputs:
        """One evaluation.

        x (B, 1 to 5, D, H, W): scaled sections (noisy targets, clean neighbours), mask (1 = restore), known pixels,
        then the two clean sections next to the gap, for each of D.
        pair (B, 1, 2, H, W): the two clean sections next to the gap in [-1, 1]. log_sigma (B, D). voxel (B, 2).
        """
        embedding = self.embedding(log_sigma, voxel)  # (B, D, E)
        a, b = targets
        h = self.stem(shuffled(x, self.config.unshuffle))  # (B, C, D, h, w)
        fine = _run(self.encoder[0], h[:, :, a:b], embedding[:, a:b])  # (B, C, K, h, w)
        h = torch.cat([h[:, :, :a], fine, h[:, :, b:]], 2)
        h, flow = self._deep(h, embedding, targets)  # the targets alone
        h = fine + self._raise(h, 0)
        h = F.silu(self.norm(_run(self.decoder[0], h, embedding[:, a:b])))  # (B, C, K, h, w)
        return self._outputs(h, pair, flow)

    def _deep(self, h: Tensor, embedding: Tensor, targets: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Levels 1 and below: all sections (B, C0, D, h, w) -> the targets (B, C1, K, h/2, w/2) and FLAB's flow."""
        skips: list[Tensor] = []
        (a, b), depth = targets, len(self.config.widths)
        for i in range(1, depth):
            h = _run(self.encoder[i], self.down[i - 1](h), embedding)
            skips.append(h)
        flow: Tensor | None = None
        first, last = 0, h.shape[2]  # the sections that the decoder still carries
        for i in reversed(range(1, depth)):
            if i < depth - 1:
                h = skips[i - 1][:, :, first:last] + self._raise(h, i)
            if str(i) in self.attention:
                h, seen = self.attention[str(i)](h, a - 1 - first, b - first)
                flow = seen[:, a - first : b - first] if i == FLOW_LEVEL else flow
            h = _run(self.decoder[i], h, embedding[:, first:last])
            if self.config.near:
                h, first, last = h[:, :, a - 1 - first : b + 1 - first], a - 1, b + 1
        return h[:, :, a - first : b - first], flow

    def _raise(self, h: Tensor, level: int) -> Tensor:
        """From level + 1 up to `level`: (B, C', D, h, w) -> (B, C, D, 2h, 2w)."""
        return F.interpolate(self.up[level](h), scale_factor=(1, 2, 2), mode="nearest")

    def _outputs(self, h: Tensor, pair: Tensor, flow: Tensor | None) -> Outputs:
        with torch.autocast(h.device.type, enabled=False):  # bfloat16 would round a grey level to a half
            maps = self.head(h.float())  # (B, 3*f*f, K, h, w)
            noise, clean, gate = unshuffled(maps, self.config.unshuffle).chunk(3, 1)  # each (B, 1, K, H, W)
            if self.alr is not None:
                clean = self.alr(h.float(), clean, pair, flow)
        return Outputs(noise, clean, gate)


def _run(blocks: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        h = block(h, embedding)
    return h
