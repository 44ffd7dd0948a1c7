"""Pieces of the network: everything here treats a pixel by its own channels or by a bounded neighbourhood.

Nothing normalises or attends over a whole tile (no GroupNorm, InstanceNorm, global attention): a pixel's value must not
depend on where the tile around it was cut, or two tilings of one section would disagree (0.2-0.3 sigma with GroupNorm).

Axes are (B, C, D, H, W): item, channel, section (z), row (y), column (x). z is never pooled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FREQUENCIES = 16  # sinusoids a scalar is expanded into; enough to tell noise levels 1 % apart
_MAX_Z_DISTANCE = 5  # gaps of more than this many sections share a z-distance bias


class PixelNorm(nn.Module):
    """Norm over the channels of each pixel: no coupling between pixels, no learned gain (FiLM and the next weights have
    one).

    `centred` also removes the channel mean (a per-pixel LayerNorm). It is the default because torch has a fused CPU
    kernel for it (24 ms against 106 ms forward and backward on 10 M bfloat16 values, 2 cores) and it is just as local.
    A gain would be trained on noise: that kernel sums its gradient in bfloat16 (relative error .1 to .5).
    """

    def __init__(self, *, centred: bool = True) -> None:
        super().__init__()
        self.centred = centred

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> the same shape and dtype."""
        last = x.movedim(1, -1)  # (B, D, H, W, C), a view: contiguous in channels-last memory
        norm = F.layer_norm if self.centred else F.rms_norm
        return norm(last, last.shape[-1:], eps=1e-4).movedim(-1, 1)


class Embedding(nn.Module):
    """Noise level of each section, and the voxel size, as one vector a section."""

    frequencies: Tensor

    def __init__(self, width: int, *, voxel: bool) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.linspace(-3, 4, _FREQUENCIES), persistent=False)
        self.first = nn.Linear(2 * _FREQUENCIES, width)
        self.second = nn.Linear(width, width)
        self.voxel = nn.Linear(2, width) if voxel else None

    def forward(self, log_sigma: Tensor, voxel: Tensor) -> Tensor:
        """log_sigma (B, D), voxel (B, 2) = log2 of (section, lateral) voxel size over reference -> (B, D, width)."""
        phase = log_sigma[..., None] * self.frequencies  # (B, D, F)
        x = self.first(torch.cat([phase.sin(), phase.cos()], -1))
        if self.voxel is not None:
            x = x + self.voxel(voxel)[:, None]
        out: Tensor = F.silu(self.second(F.silu(x)))
        return out


class PlaneConv(nn.Module):
    """A 3-D convolution that keeps the shape, run as a 2-D one over all (item, section) planes.

    A kernel of 3 in z sees the sections z - 1, z, z + 1 stacked as channels (zero beyond the ends): the same sums as
    conv3d. Not conv3d itself, because oneDNN's bfloat16 weight gradient of conv3d with a 1x3x3 kernel is wrong on AMX
    CPUs (torch 2.13: relative error .2 to 1 and NaN at 64 x 64 pixels, and it can hang); conv2d's is right, and as
    fast.
    """

    def __init__(
        self, inside: int, outside: int, kernel: tuple[int, int], *, stride: int = 1, zero: bool = False
    ) -> None:
        """kernel = (in z: 1 or 3, lateral). `zero` starts at nothing, so that a residual branch starts as identity."""
        super().__init__()
        self.depth = kernel[0]
        padding = kernel[1] // 2 if stride == 1 else 0
        self.plane = nn.Conv2d(inside * kernel[0], outside, kernel[1], stride=stride, padding=padding)
        if zero:
            nn.init.zeros_(self.plane.weight)
            assert self.plane.bias is not None
            nn.init.zeros_(self.plane.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> (B, C', D, H', W')."""
        b, _, d = x.shape[:3]
        if self.depth == 3:
            edge = torch.zeros_like(x[:, :, :1])
            below, above = torch.cat([edge, x[:, :, :-1]], 2), torch.cat([x[:, :, 1:], edge], 2)
            x = torch.cat([below, x, above], 1)  # (B, 3C, D, H, W)
        planes = x.movedim(2, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (B*D, C, H, W)
        out: Tensor = self.plane(planes)
        return out.reshape(b, d, *out.shape[1:]).movedim(1, 2)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv 1x3x3, norm, FiLM(noise level), SiLU, conv 3x3x3 (or 1x3x3), around an identity.

    "Asymmetric and symmetric 3-D convolutions" (abstract), because a voxel is 5-10 times longer in z. Pairing 1x3x3
    and 3x3x3 inside one block is our reading. `symmetric=False` makes both 1x3x3, `asymmetric=False` both 3x3x3.
    Deviation: no learned gain in the norms, no convolution on the way around (widths never change inside a level).
    """

    def __init__(
        self, channels: int, embedding: int, *, symmetric: bool, asymmetric: bool = True, centred: bool = True
    ) -> None:
        super().__init__()
        self.norm1 = PixelNorm(centred=centred)
        self.asymmetric = PlaneConv(channels, channels, (1, 3) if asymmetric else (3, 3))
        self.film = nn.Linear(embedding, 2 * channels)
        self.norm2 = PixelNorm(centred=centred)
        self.second = PlaneConv(channels, channels, (3, 3) if symmetric else (1, 3), zero=True)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, D, H, W), embedding (B, D, E) -> (B, C, D, H, W)."""
        scale, shift = self.film(embedding).movedim(-1, 1)[..., None, None].chunk(2, 1)  # each (B, C, D, 1, 1)
        h = self.norm2(self.asymmetric(F.silu(self.norm1(x))))
        # A float32 stream halves what bfloat16 rounding makes two tilings differ by; training can do without
        out: Tensor = (x if self.training else x.float()) + self.second(F.silu(h * (1 + scale) + shift))
        return out


class FirstLastAttention(nn.Module):
    """FLAB, the First and Last slices Attention Block: every section looks at the clean sections either side of the
    gap.

    Queries q: every section. Keys k and values v: the first and the last clean section next to the gap, in a k x k
    lateral window. With s in {first, last} and d among the window's offsets, at each pixel p of section z:

        A(s, d)    = softmax over (s, d) of  q(z, p) . k(s, p + d) / sqrt(c) + b[d] + b[|z - s|]
        out(z, p)  = x(z, p) + W sum of A(s, d) v(s, p + d)
        flow(z, s) = sum over d of d A(s, d) / sum over d of A(s, d)      a soft feature flow, which ALR warps with

    "First and Last slices Attention Block" (abstract) is all that is public: window, biases and flow are our guesses.
    """

    offsets: Tensor

    def __init__(self, channels: int, *, window: int, width: int, centred: bool = True) -> None:
        super().__init__()
        self.window, self.width = window, width
        self.norm = PixelNorm(centred=centred)
        self.query = PlaneConv(channels, width, (1, 1))
        self.key_value = PlaneConv(channels, 2 * width, (1, 1))
        self.out = PlaneConv(width, channels, (1, 1), zero=True)
        self.offset_bias = nn.Parameter(torch.zeros(window * window))
        self.distance_bias = nn.Parameter(torch.zeros(_MAX_Z_DISTANCE + 1))
        span = torch.arange(window, dtype=torch.float32) - window // 2
        grid = torch.stack(torch.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)  # (k*k, 2) of (dy, dx)
        self.register_buffer("offsets", grid, persistent=False)

    def forward(self, x: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """x (B, C, D, H, W) -> (B, C, D, H, W) and the flow (B, D, 2 sections, 2 = dy dx, H, W) in pixels of this
        level.
        """
        b, _, d, h, w = x.shape
        normed = self.norm(x)
        query = self.query(normed).permute(0, 3, 4, 2, 1).reshape(b * h * w, d, self.width)  # (B*H*W, D, c)
        key, value = self._windows(normed[:, :, [first, last]])  # each (B*H*W, 2*k*k, c)
        logits = query @ key.transpose(1, 2) / math.sqrt(self.width)  # (B*H*W, D, 2*k*k)
        weights = (logits.float() + self._bias(d, first, last)).softmax(-1)
        mixed = (
            (weights.to(value.dtype) @ value).reshape(b, h, w, d, self.width).permute(0, 4, 3, 1, 2)
        )  # (B, c, D, H, W)
        return x + self.out(mixed), self._flow(weights).reshape(b, h, w, d, 2, 2).permute(0, 3, 4, 5, 1, 2)

    def _windows(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """pair (B, C, 2, H, W) -> keys and values (B*H*W, 2*k*k, c), zero beyond the tile's edge."""
        b, _, _, h, w = pair.shape
        kv = self.key_value(pair).movedim(2, 1).reshape(b * 2, 2 * self.width, h, w)  # (B*2, 2c, H, W)
        near = F.unfold(kv, self.window, padding=self.window // 2)  # (B*2, 2c*k*k, H*W)
        near = near.reshape(b, 2, 2, self.width, self.window**2, h * w)  # (B, section, kv, c, k*k, H*W)
        near = near.permute(2, 0, 5, 1, 4, 3).reshape(2, b * h * w, 2 * self.window**2, self.width)
        return near[0], near[1]

    def _bias(self, d: int, first: int, last: int) -> Tensor:
        """Learned bias of each (query section, key): (D, 2*k*k)."""
        z = torch.arange(d, device=self.offsets.device)
        reach = torch.stack([(z - first).abs(), (z - last).abs()], 1).clamp(max=_MAX_Z_DISTANCE)  # (D, 2)
        return (self.distance_bias[reach][..., None] + self.offset_bias).reshape(d, -1)

    def _flow(self, weights: Tensor) -> Tensor:
        """Expected offset within each key section: weights (N, D, 2*k*k) -> (N, D, 2, 2)."""
        each = weights.reshape(*weights.shape[:2], 2, -1)  # (N, D, 2, k*k)
        share = each / each.sum(-1, keepdim=True).clamp(min=1e-6)
        with torch.autocast(weights.device.type, enabled=False):  # bfloat16 would round a flow to 1/8 pixel
            flow: Tensor = share @ self.offsets
        return flow


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Bilinear sample of image (N, 1, H, W) at each pixel + flow (N, 2 = dy dx, H, W) in pixels; edges repeat.

    Written out because `grid_sample` takes coordinates relative to the tile's size, so that two tilings round
    differently.
    """
    n, _, h, w = image.shape
    y = (torch.arange(h, device=image.device, dtype=torch.float32)[:, None] + flow[:, 0]).clamp(0, h - 1)  # (N, H, W)
    x = (torch.arange(w, device=image.device, dtype=torch.float32) + flow[:, 1]).clamp(0, w - 1)  # (N, H, W)
    top, left = (v.detach().nan_to_num().floor().clamp(max=n - 2) for v, n in ((y, h), (x, w)))
    fy, fx = y - top, x - left  # NaN stays NaN, for the caller to see; an index of it would crash
    corner = (top.long() * w + left.long()).flatten(1)  # (N, H*W)
    flat = image.reshape(n, h * w)
    at = [flat.gather(1, corner + step).reshape(n, h, w) for step in (0, 1, w, w + 1)]
    upper, lower = at[0] + fx * (at[1] - at[0]), at[2] + fx * (at[3] - at[2])
    return (upper + fy * (lower - upper))[:, None]


class ReconstructionHead(nn.Module):
    """ALR, Adaptive and Learnable Reconstruction: x0_hat = g1 r + g2 W(first) + g3 W(last), at every pixel.

    g = softmax of three learned maps ("adaptive": a convex gate per pixel); r is generated ("learnable"); and
    W(s)(p) = s(p + flow + 8 tanh(c)) samples a clean neighbour s along FLAB's flow and a learned correction c. Which
    inputs the paper's module weighs is not public: gate, warps and correction are our guess.
    """

    REACH = 8.0  # pixels that the learned correction can add to FLAB's flow

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        # The gate's 3 maps (f x f folded) and a (dy, dx) for each neighbour
        self.maps = PlaneConv(channels, 3 * factor**2 + 4, (1, 3), zero=True)

    def forward(self, h: Tensor, made: Tensor, pair: Tensor, flow: Tensor | None) -> Tensor:
        """h (B, C, K, h, w), made and result (B, 1, K, H, W), pair (B, 1, 2, H, W), flow (B, K, 2, 2, h', w') in its
        own pixels.
        """
        b, _, k, height, width = made.shape
        folded, correction = (
            self.maps(h).float().split([3 * self.factor**2, 4], 1)
        )  # (B, 3*f*f, K, h, w), (B, 4, K, h, w)
        gate = unshuffled(folded, self.factor).softmax(1)  # (B, 3, K, H, W)
        moved = [made]
        for side in range(2):
            shift = self._shift(correction, flow, side, (height, width))  # (B*K, 2, H, W)
            image = pair[:, :, side : side + 1].expand(-1, -1, k, -1, -1).movedim(2, 1).reshape(b * k, 1, height, width)
            moved.append(warp(image, shift).reshape(b, k, 1, height, width).movedim(1, 2))
        out: Tensor = (gate * torch.cat(moved, 1)).sum(1, keepdim=True)
        return out

    def _shift(self, correction: Tensor, flow: Tensor | None, side: int, size: tuple[int, int]) -> Tensor:
        """Flow into one neighbour in full-resolution pixels: (B*K, 2, H, W)."""
        fine = self.REACH * torch.tanh(correction[:, 2 * side : 2 * side + 2])  # (B, 2, K, h, w)
        shift = _resize(fine.movedim(2, 1).flatten(0, 1), size)
        if flow is not None:
            coarse = flow[:, :, side].flatten(0, 1).float()  # (B*K, 2, h', w')
            shift = shift + _resize(coarse * (size[0] / coarse.shape[-2]), size)
        return shift


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def shuffled(x: Tensor, factor: int) -> Tensor:
    """Pixels to channels: (B, C, D, H, W) -> (B, C*f*f, D, H/f, W/f); the cheap way into a lower resolution."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c, d, h // factor, factor, w // factor, factor)
    return x.permute(0, 1, 4, 6, 2, 3, 5).reshape(b, c * factor**2, d, h // factor, w // factor)


def unshuffled(x: Tensor, factor: int) -> Tensor:
    """Channels to pixels, the inverse of `shuffled`: (B, C*f*f, D, h, w) -> (B, C, D, h*f, w*f)."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c // factor**2, factor, factor, d, h, w).permute(0, 1, 4, 5, 2, 6, 3)
    return x.reshape(b, c // factor**2, d, h * factor, w * factor)
