"""The network's parts: local norms, attention to the first and last clean section only, and the switches of the config."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from model.blocks import FirstLastAttention, PixelNorm, PlaneConv, ResidualBlock, shuffled, unshuffled, warp
from model.network import PRESETS, AnisoUNet3D, NetworkConfig, Outputs
from tests.model.tiny import TINY, alive


@pytest.mark.parametrize("centred", [True, False])
def test_the_norm_does_not_couple_pixels(centred: bool) -> None:
    x = torch.randn(1, 8, 2, 6, 6)
    y = x.clone()
    y[:, :, 1, 3, 4] *= 100
    same = (PixelNorm(centred=centred)(x) == PixelNorm(centred=centred)(y)).all(1)[0]
    assert not same[1, 3, 4] and int((~same).sum()) == 1


def test_no_layer_normalises_over_space() -> None:
    names = {type(m).__name__ for m in AnisoUNet3D(PRESETS["cpu"]).modules()}
    assert not [n for n in names if "GroupNorm" in n or "InstanceNorm" in n or "BatchNorm" in n]


@pytest.mark.parametrize("kernel", [(1, 3), (3, 3), (1, 1)])
def test_plane_convolution_is_conv3d(kernel: tuple[int, int]) -> None:
    layer, x = PlaneConv(4, 5, kernel), torch.randn(2, 4, 3, 8, 8)
    depth, side = kernel
    weight = layer.plane.weight.reshape(5, depth, 4, side, side).movedim(1, 2)  # (C', C, kz, ky, kx)
    expected = F.conv3d(x, weight, layer.plane.bias, padding=(depth // 2, side // 2, side // 2))
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_attention_looks_at_the_first_and_last_clean_section_only() -> None:
    torch.manual_seed(0)
    block = FirstLastAttention(8, window=3, width=4)
    torch.nn.init.normal_(block.out.plane.weight)
    x = torch.randn(1, 8, 5, 6, 6)
    before, _ = block(x, 1, 3)
    for z, reaches in [(0, False), (1, True), (2, False), (3, True), (4, False)]:
        y = x.clone()
        y[:, :, z] += 1.0 + torch.randn(8, 6, 6)
        after, _ = block(y, 1, 3)
        others = [i for i in range(5) if i != z]
        assert torch.allclose(before[:, :, others], after[:, :, others], atol=1e-6) != reaches


def test_attention_is_lateral_and_local() -> None:
    block = FirstLastAttention(8, window=3, width=4)
    torch.nn.init.normal_(block.out.plane.weight)
    x = torch.randn(1, 8, 3, 9, 9)
    y = x.clone()
    y[:, :, 0, 0, 0] += 5
    changed = (block(x, 0, 2)[0] != block(y, 0, 2)[0]).any(1)[0, 1]
    assert changed[:2, :2].any() and not changed[2:].any() and not changed[:, 2:].any()


def test_warp_by_whole_pixels_is_a_shift() -> None:
    image = torch.rand(1, 1, 8, 9)
    flow = torch.zeros(1, 2, 8, 9)
    flow[:, 0], flow[:, 1] = 2.0, -1.0
    assert torch.allclose(warp(image, flow)[0, 0, :-2, 1:], image[0, 0, 2:, :-1], atol=1e-6)


def test_shuffling_pixels_to_channels_loses_nothing() -> None:
    x = torch.randn(2, 3, 2, 8, 12)
    assert torch.equal(unshuffled(shuffled(x, 2), 2), x)


@pytest.mark.parametrize(
    "change",
    [{}, {"symmetric": False}, {"asymmetric": False}, {"flab": False}, {"alr": False}, {"outputs": "x0"}, {"outputs": "eps"},
     {"mask_channel": False}, {"voxel": False}, {"neighbours": False}, {"centred_norm": False}],
    ids=str,
)  # fmt: skip
def test_every_switch_of_the_config_makes_a_working_network(change: dict[str, object]) -> None:
    config = replace(TINY, **change)  # type: ignore[arg-type]
    out = run(alive(config), channels=1 + 2 * config.mask_channel + 2 * config.neighbours)
    assert all(v.shape == (2, 1, 1, 16, 16) and bool(v.isfinite().all()) for v in out)
    assert NetworkConfig.from_dict(config.to_dict()) == config


def run(network: AnisoUNet3D, channels: int) -> Outputs:
    torch.manual_seed(1)
    x, pair = torch.randn(2, channels, 3, 16, 16), torch.randn(2, 1, 2, 16, 16)
    out: Outputs = network(x, pair, torch.zeros(2, 3), torch.zeros(2, 2), (1, 2))
    return out


def test_the_shipped_preset_has_all_five_pieces() -> None:
    c = PRESETS["cpu"]
    assert c.symmetric and c.flab and c.alr and c.outputs == "mjs" and c.mask_channel


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widths": (8,)}, "one number a level, 2 levels or more"),
        ({"encoder": (1, 1)}, "widths, encoder, decoder and flab_window must say one number a level"),
        ({"flab_window": (0, 0, 4)}, r"flab_window \(0, 0, 4\) must be odd, or 0"),
        ({"outputs": "both"}, "outputs 'both' is not one of mjs, eps.x0, x0, eps"),
        ({"unshuffle": 0}, "unshuffle, embedding and flab_width are 1 or more"),
        ({"symmetric": False, "asymmetric": False}, "cannot both be off"),
    ],
)
def test_what_is_no_network_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)  # type: ignore[arg-type]


def test_without_asymmetric_kernels_every_block_looks_along_z() -> None:
    """3x3x3 everywhere, level 0 included; older cards, which do not know the switch, mean that it is on."""
    def depths(config: NetworkConfig) -> set[tuple[int, int]]:
        return {(b.asymmetric.depth, b.second.depth) for b in AnisoUNet3D(config).modules() if isinstance(b, ResidualBlock)}

    assert depths(TINY) == {(1, 1), (1, 3)} and depths(replace(TINY, symmetric=False)) == {(1, 1)}
    assert depths(replace(TINY, asymmetric=False)) == {(3, 3)}
    assert "asymmetric" not in TINY.to_dict() and replace(TINY, asymmetric=False).to_dict()["asymmetric"] is False


def test_an_unknown_setting_in_a_card_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown network setting \['wings'\].*update"):
        NetworkConfig.from_dict({"wings": 2})
