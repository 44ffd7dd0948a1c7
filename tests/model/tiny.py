"""A network small enough for milliseconds, and where the real data is."""

from __future__ import annotations

from pathlib import Path

import torch

from model.network import AnisoUNet3D, NetworkConfig

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TINY = NetworkConfig(widths=(16, 16, 16), encoder=(1, 1, 1), decoder=(1, 1, 1), embedding=16, flab_window=(0, 0, 3), flab_width=8)


def alive(config: NetworkConfig = TINY, seed: int = 0) -> AnisoUNet3D:
    """An untrained network whose zero-started branches are woken up, so that every path shows in the output."""
    torch.manual_seed(seed)
    network = AnisoUNet3D(config)
    with torch.no_grad():
        for value in network.parameters():
            if not bool(value.any()):
                value.normal_(0, 0.05)
    return network.eval()
