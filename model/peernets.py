"""Two one-step networks to compare with: kernels for every pixel, and plain regression.

Both treat the targets of a window as planes that do not see one another, and are told where between the neighbours a
plane lies (t), so one network serves gaps of 1 to 3. Both are our own code, not their authors'. Only conv2d is used
(see blocks.PlaneConv for why), and norms see one pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import PixelNorm, PlaneConv, ResidualBlock, shuffled, unshuffled
from model.diffusion import SIGMA_DATA, Condition

_FOLD = 2  # pixels a side folded into channels at the input, as the restorer does
_STRIP = 8192  # pixels convolved at once on a CPU: with 25 taps a strip of kernels (0.8 MB) stays in the L2 cache
_SPREAD = 3.0  # pixels; the kernels start as this Gaussian, so that the network starts as average+blur


@dataclass(frozen=True, slots=True)
class Config:
    """What shapes a peer; the default makes both about as large as the restorer that ships."""

    widths: tuple[int, ...] = (64, 96, 128, 160)  # channels at 1/2, 1/4, 1/8, ... of the input resolution
    encoder: tuple[int, ...] = (1, 1, 1, 2)  # residual blocks a level on the way down
    decoder: tuple[int, ...] = (2, 2, 1, 1)  # residual blocks a level on the way up
    embedding: int = 64  # width of the vector that tells position and voxel size
    taps: int = 25  # of SepConv's kernels: 12 pixels of drift from either neighbour

    @property
    def stride(self) -> int:
        """H and W must be multiples of this."""
        return _FOLD * int(2 ** (len(self.widths) - 1))


class Trunk(nn.Module):
    """A 2-D U-Net at half resolution; the targets of a window are planes that do not see one another."""

    def __init__(self, inputs: int, c: Config) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(4, c.embedding), nn.SiLU(), nn.Linear(c.embedding, c.embedding), nn.SiLU())
        self.stem = PlaneConv(inputs * _FOLD**2, c.widths[0], (1, 3))
        self.down = nn.ModuleList(PlaneConv(a, b, (1, 2), stride=2) for a, b in pairwise(c.widths))
        self.up = nn.ModuleList(PlaneConv(b, a, (1, 1)) for a, b in pairwise(c.widths))
        self.encoder = nn.ModuleList(_blocks(w, c.embedding, n) for w, n in zip(c.widths, c.encoder, strict=True))
        self.decoder = nn.ModuleList(_blocks(w, c.embedding, n) for w, n in zip(c.widths, c.decoder, strict=True))
        self.norm = PixelNorm()

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """x (B, C, K, H, W), place (B, K, 4) -> (B, widths[0], K, H/2, W/2)."""
        embedding = self.embed(place)  # (B, K, E)
        h, skips = self.stem(shuffled(x, _FOLD)), list[Tensor]()
        for i, level in enumerate(self.encoder):
            h = _run(level, self.down[i - 1](h) if i else h, embedding)
            skips.append(h)
        h = _run(self.decoder[-1], h, embedding)
        for i in reversed(range(len(self.up))):
            h = skips[i] + F.interpolate(self.up[i](h), scale_factor=(1, 2, 2), mode="nearest")
            h = _run(self.decoder[i], h, embedding)
        return F.silu(self.norm(h))


def _blocks(width: int, embedding: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(width, embedding, symmetric=False) for _ in range(count))


def _run(blocks: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        h = block(h, embedding)
    return h


def places(condition: Condition) -> Tensor:
    """Of each target: t in (0, 1) from first to last, the spacing in t, and the voxel size: (B, K, 4)."""
    b, k = len(condition.sections), condition.targets[1] - condition.targets[0]
    step = torch.full((k,), 1 / (k + 1), device=condition.sections.device)
    at = torch.stack([step.cumsum(0), step], 1).expand(b, k, 2)
    return torch.cat([at, condition.voxel[:, None].expand(b, k, 2)], 2)


class Peer(nn.Module):
    """What both have: a trunk over `_inputs`, and `forward` from a condition to the targets (B, 1, K, H, W)."""

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(inputs, config)


class Regression(Peer):
    """Everything known in, the sections out, as a correction to the neighbours mixed by distance."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, inputs=8)
        self.head = PlaneConv(config.widths[0], _FOLD**2, (1, 3), zero=True)

    def forward(self, condition: Condition) -> Tensor:
        place = places(condition)
        t = place[:, None, :, :1, None]  # (B, 1, K, 1, 1)
        first, last = condition.pair[:, :, :1], condition.pair[:, :, 1:]  # each (B, 1, 1, H, W)
        change = unshuffled(self.head(self.trunk(self._inputs(condition), place)).float(), _FOLD)
        return (1 - t) * first + t * last + SIGMA_DATA * change

    @staticmethod
    def _inputs(condition: Condition) -> Tensor:
        """Two clean sections a side, where the outer ones are known, where the target is, and it: (B, 8, K, H, W)."""
        (a, b), depth = condition.targets, condition.sections.shape[2]
        sections, known = condition.sections / SIGMA_DATA, condition.known
        absent = torch.zeros_like(sections[:, :, :1])

        def at(stack: Tensor, z: int) -> Tensor:
            return stack[:, :, z : z + 1] if 0 <= z < depth else absent

        fixed = [at(sections, z) for z in (a - 2, a - 1, b, b + 1)] + [at(known, z) for z in (a - 2, b + 1)]
        own = condition.target_known
        wide = torch.cat(fixed, 1).expand(-1, -1, b - a, -1, -1)  # (B, 6, K, H, W)
        return torch.cat([wide, own, sections[:, :, a:b] * own], 1)


class SepConv(Peer):
    """Niklaus, Mai and Liu, "Video Frame Interpolation via Adaptive Separable Convolution", ICCV 2017; the idea behind
    Deng et al., IEEE TMI 2022, for ssEM.

    Each target pixel is a weighted sum of taps x taps pixels around it in either neighbour; the weights are products
    of a vertical and a horizontal kernel that the network gives for that pixel. So it moves and mixes the grey values
    of the two clean sections next to the gap, and can do nothing else.

    Departures from the paper: kernels at half resolution, raised bilinearly; 25 taps, not 51; t as an input.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, inputs=2)
        self.head = PlaneConv(config.widths[0], 4 * config.taps, (1, 3), zero=True)
        bell = torch.exp(-0.5 * ((torch.arange(config.taps) - config.taps // 2) / _SPREAD) ** 2)
        bell = bell / bell.sum()
        assert self.head.plane.bias is not None
        with torch.no_grad():  # vertical and horizontal of first, then of last: each neighbour counts half
            self.head.plane.bias.copy_(torch.cat([bell, bell / 2, bell, bell / 2]))

    def forward(self, condition: Condition) -> Tensor:
        k = condition.targets[1] - condition.targets[0]
        sides = condition.pair.movedim(2, 1)[:, :, 0]  # (B, 2, H, W)
        x = (sides / SIGMA_DATA)[:, :, None].expand(-1, -1, k, -1, -1)  # (B, 2, K, H, W)
        maps = self.head(self.trunk(x, places(condition)))  # (B, 4*taps, K, h, w)
        return torch.stack([self._plane(maps[:, :, j], sides) for j in range(k)], 1)[:, None]

    def _plane(self, maps: Tensor, sides: Tensor) -> Tensor:
        """maps (B, 4*taps, h, w), sides (B, 2, H, W) -> (B, H, W). One target at a time: its kernels are large."""
        kernels = F.interpolate(maps.float(), size=sides.shape[-2:], mode="bilinear", align_corners=False)
        v1, h1, v2, h2 = kernels.chunk(4, 1)  # each (B, taps, H, W)
        return convolve(sides[:, 0], v1, h1) + convolve(sides[:, 1], v2, h2)


KINDS: Mapping[str, Callable[[Config], Peer]] = {"sepconv": SepConv, "regression": Regression}


# ---- adaptive separable convolution -------------------------------------------------------------------------------


def convolve(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """out[y, x] = sum over i, j of vertical[i, y, x] horizontal[j, y, x] image[y + i - r, x + j - r]; edges repeat.

    image (B, H, W), kernels (B, taps, H, W), all float32 -> (B, H, W). No gradient flows to the image.
    """
    r = vertical.shape[1] // 2
    padded = F.pad(image[:, None], [r] * 4, mode="replicate")[:, 0]
    out: Tensor = _Separable.apply(padded, vertical, horizontal)  # type: ignore[no-untyped-call]
    return out


class _Separable(torch.autograd.Function):
    """Strip by strip, so that nothing of taps x taps values a pixel is ever held: 330 MB for a batch of 8 at 128 px."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
        across = torch.empty_like(vertical)  # (B, taps, H, W): the image after each row of the horizontal kernels
        for rows in _strips(vertical):
            for i in range(vertical.shape[1]):
                torch.sum(horizontal[:, :, rows] * _shifts(padded, rows, i, horizontal), 1, out=across[:, i, rows])
        ctx.save_for_backward(padded, vertical, across)
        return (vertical * across).sum(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        (grad,), (padded, vertical, across) = grads, ctx.saved_tensors
        weight, horizontal = grad[:, None] * vertical, torch.zeros_like(vertical)
        for rows in _strips(vertical):
            for i in range(vertical.shape[1]):
                near = _shifts(padded, rows, i, vertical)  # (B, taps, rows, W)
                horizontal[:, :, rows].addcmul_(weight[:, i : i + 1, rows], near)
        return None, grad[:, None] * across, horizontal


def _strips(kernels: Tensor) -> list[slice]:
    b, _, h, w = kernels.shape
    step = h if kernels.is_cuda else max(_STRIP // (b * w), 1)
    return [slice(y, min(y + step, h)) for y in range(0, h, step)]


def _shifts(padded: Tensor, rows: slice, i: int, kernels: Tensor) -> Tensor:
    """Every horizontal shift of the rows moved by i: a view (B, taps, rows, W)."""
    return padded[:, rows.start + i : rows.stop + i].unfold(2, kernels.shape[1], 1).permute(0, 3, 1, 2)
