"""Scout and spotter: the networks that see damage in a part of a section, beside the sections before and after.

The scout goes over everything, as cheaply as can be: it tells where one should look. There the spotter looks, a small
U-Net on cells of 4 × 4 pixels: what lies in a section beyond all that is near in both neighbours is counted out for it
(`novel`), the rest it learns. They run in scans without torch: `export` writes them as ONNX.
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


def _step(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def novel(sections: Tensor) -> Tensor:
    """(n, 3, y, x) -> (n, NOVEL, y/4, x/4): by how much a cell's mean, least and greatest grey lie beyond those of all
    cells within one, and within two, of it in both neighbours."""
    found = []
    for sign, pool in ((1, F.avg_pool2d), (-1, F.avg_pool2d), (1, F.max_pool2d), (-1, F.max_pool2d)):
        cells = pool(sign * sections, CELL)
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
        fine = self.first(torch.cat([self.stem(sections), novel(sections)], 1))
        middle = self.down(fine)
        middle = self.up(torch.cat([F.interpolate(self.lowest(middle), scale_factor=2.0, mode="nearest"), middle], 1))
        fine = self.last(torch.cat([F.interpolate(middle, scale_factor=2.0, mode="nearest"), fine], 1))
        return F.pixel_shuffle(self.head(fine), CELL)


def cells(sections: Tensor) -> Tensor:
    """(n, 3, y, x) -> (n, 9, y/4, x/4): the means of cells, then their greatest, then their least greys."""
    pooled = F.avg_pool2d(sections, CELL), F.max_pool2d(sections, CELL), -F.max_pool2d(-sections, CELL)
    return torch.cat(pooled, 1)


class Scout(nn.Module):
    """(n, 9, y/4, x/4), `cells` -> (n, 1, y/16, x/16): whether there is any damage, as logits."""

    def __init__(self, fine: int = 16, middle: int = 24, coarse: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(9), _step(9, fine), _step(fine, middle, 2), _step(middle, middle),
            _step(middle, coarse, 2), _step(coarse, coarse), nn.Conv2d(coarse, 1, 1),
        )  # fmt: skip

    def forward(self, cells: Tensor) -> Tensor:
        found: Tensor = self.body(cells)
        return found


def export(network: nn.Module, example: Tensor, path: Path) -> None:
    """Write a network as ONNX, for sections of any size that is a multiple of SIDES. Needs the package `onnx`.

    The shape in the file is an example: OpenCV takes others, but infers wrong ones where the file leaves them open.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter writes what OpenCV cannot read
        torch.onnx.export(network.eval(), (example,), str(path), dynamo=False, opset_version=13)
