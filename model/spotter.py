"""Scout and spotter: the networks that see damage in a part of a section, beside the sections before and after.

The scout goes over everything, as cheaply as can be: it tells where one should look. There the spotter looks, a small
U-Net on cells of 4 × 4 pixels. What lies in a section beyond all that is near in both neighbours is counted out for
both (`novel`), the rest they learn. They run in scans without torch: `export` writes them as ONNX; what the scout is
shown (`hints`) scans count out themselves.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.wounds import WOUNDS

CLASSES = ("intact", *WOUNDS)
CELL = 4  # px
SIDES = 16  # px: edges are multiples of it; a place of the scout
NOVEL = 8  # channels of `novel`
HINTS = NOVEL + 6  # of `hints`
STEPS, LEVELS = 16, 128  # of a unit of tissue that bytes tell apart; to either side


def _step(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def pooled(sections: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, 3, y, x) -> the mean, greatest and least greys of cells, each (n, 3, y/4, x/4)."""
    return F.avg_pool2d(sections, CELL), F.max_pool2d(sections, CELL), -F.max_pool2d(-sections, CELL)


def novel(sections: Tensor) -> Tensor:
    """(n, 3, y, x) -> (n, NOVEL, y/4, x/4): by how much a cell's mean, least and greatest grey lie beyond those of all
    cells within one, and within two, of it in both neighbours."""
    mean, most, least = pooled(sections)
    return _beyond(mean, most, least)


def _beyond(mean: Tensor, most: Tensor, least: Tensor) -> Tensor:
    found = []
    for cells in (mean, -mean, most, -least):
        near = torch.maximum(cells[:, 0:1], cells[:, 2:3])
        found += [cells[:, 1:2] - F.max_pool2d(near, 2 * r + 1, 1, r) for r in (1, 2)]
    return torch.cat(found, 1)


class Spotter(nn.Module):
    """(n, 3, y, x), the sections before, here, after in units of tissue -> (n, classes, y, x) logits of `here`."""

    def __init__(self, fine: int = 32, middle: int = 48, coarse: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, fine - NOVEL, CELL, CELL)
        self.first = nn.Sequential(nn.BatchNorm2d(fine), nn.ReLU(inplace=True), _step(fine, fine))
        self.down = nn.Sequential(_step(fine, middle, 2), _step(middle, middle))
        self.lowest = nn.Sequential(_step(middle, coarse, 2), _step(coarse, coarse), _step(coarse, coarse))
        self.up = _step(middle + coarse, middle)
        self.last = _step(fine + middle, fine)
        self.head = nn.Conv2d(fine, len(CLASSES) * CELL**2, 1)

    def forward(self, sections: Tensor) -> Tensor:
        return F.pixel_shuffle(self.apart(sections), CELL)

    def apart(self, sections: Tensor) -> Tensor:
        """The same with the pixels of each cell in channels of their own: (n, classes · 16, y/4, x/4)."""
        fine = self.first(torch.cat([self.stem(sections), novel(sections)], 1))
        middle = self.down(fine)
        middle = self.up(torch.cat([F.interpolate(self.lowest(middle), scale_factor=2.0, mode="nearest"), middle], 1))
        fine = self.last(torch.cat([F.interpolate(middle, scale_factor=2.0, mode="nearest"), fine], 1))
        found: Tensor = self.head(fine)
        return found


class Apart(nn.Module):
    """A spotter as scans run it: putting the pixels of cells together costs OpenCV as much as two convolutions."""

    def __init__(self, spotter: Spotter) -> None:
        super().__init__()
        self.spotter = spotter

    def forward(self, sections: Tensor) -> Tensor:
        return self.spotter.apart(sections)


def hints(sections: Tensor) -> Tensor:
    """(n, 3, y, x) in units of tissue -> (n, HINTS, y/8, x/8), what the scout is shown, as scans count it out in bytes.

    The greatest of what is `novel` in squares of 8 pixels, nothing below 0; the means of all three sections there; and
    by how much their greys differ there.
    """
    mean, most, least = (torch.round(part * STEPS).clamp(-LEVELS, LEVELS - 1) for part in pooled(sections))
    new = F.max_pool2d(_beyond(mean, most, least).clamp_min(0), 2)
    span = F.max_pool2d(most, 2) + F.max_pool2d(-least, 2)
    return torch.cat([new, F.avg_pool2d(mean, 2), span], 1) / STEPS


class Scout(nn.Module):
    """(n, HINTS, y/8, x/8), `hints` -> (n, 1, y/16, x/16): whether there is any damage, as logits."""

    def __init__(self, fine: int = 16, coarse: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(HINTS), _step(HINTS, fine), _step(fine, coarse, 2), _step(coarse, coarse),
            nn.Conv2d(coarse, 1, 1),
        )  # fmt: skip

    def forward(self, shown: Tensor) -> Tensor:
        found: Tensor = self.body(shown)
        return found


def export(network: nn.Module, example: Tensor, path: Path) -> None:
    """Write a network as ONNX, for sections of any size that is a multiple of SIDES. Needs the package `onnx`.

    The shape in the file is an example: OpenCV takes others, but infers wrong ones where the file leaves them open.
    """
    network = Apart(network) if isinstance(network, Spotter) else network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter writes what OpenCV cannot read
        torch.onnx.export(network.eval(), (example,), str(path), dynamo=False, opset_version=13)


def read(network: nn.Module, path: Path, seen: Tensor) -> None:
    """Take over what `export` wrote, to train on. Needs the package `onnx`.

    Where a norm went into the convolution before it, its numbers are those of `seen` (n, channels, y, x) from now on,
    and it answers as before.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    known = {part.name: torch.from_numpy(numpy_helper.to_array(part).copy()) for part in graph.initializer}
    stored = iter([[known[i] for i in node.input if i in known] for node in graph.node if _learns(node.op_type)])
    last: list[Tensor] = []  # of the convolution before

    def take(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.Conv2d):
            last[:] = next(stored)
            layer.weight.data.copy_(last[0])
            if layer.bias is not None:
                layer.bias.data.copy_(last.pop(1))
        elif isinstance(layer, nn.BatchNorm2d):
            values = _norm(inputs[0], last.pop(1)) if len(last) > 1 else next(stored)
            own = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
            for part, value in zip(own, values, strict=True):
                assert part is not None
                part.data.copy_(value)

    hooks = [layer.register_forward_pre_hook(take) for layer in network.modules() if not list(layer.children())]
    with torch.no_grad():
        network.eval()(seen)
    network.train()
    for hook in hooks:
        hook.remove()


def _learns(kind: str) -> bool:
    return kind in ("Conv", "BatchNormalization")


def _norm(inputs: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, bias, mean and variance of a norm that does nothing to these inputs but shift them."""
    mean, variance = inputs.mean((0, 2, 3)), inputs.var((0, 2, 3))
    return (variance + nn.BatchNorm2d(1).eps).sqrt(), mean + shift, mean, variance
