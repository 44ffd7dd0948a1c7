"""Weights on disk: a safetensors file and, beside it, a card (JSON) that says what it is, where it is valid, who may
use it.

Nothing is ever unpickled. safetensors checks its own header but loads flipped bits without a word, so the card pins the
file's sha256. This module imports torch only when a network is built: a card must be readable in milliseconds.

CheckpointError (ValueError)    everything that is wrong with a card or with weights
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.sampler import Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from model.network import AnisoUNet3D, NetworkConfig

SCHEMA = "zmend-weights-1"
SHIPPED = Path(__file__).parent / "weights"


class CheckpointError(ValueError):
    """Weights or their card cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a weights file is. One JSON object beside it."""

    name: str
    sha256: str  # of the safetensors file, hex
    network: Mapping[str, Any]  # NetworkConfig.to_dict()
    sampler: Mapping[str, Any]  # defaults of diffusion.Sampler chosen on validation rows
    data: Sequence[Mapping[str, str]]  # what it was trained on: name, licence
    licence: str  # what the data's terms mean for these weights
    training: Mapping[str, Any]  # steps, minutes, seed
    voxel_nm_min: tuple[float, float, float] = (35.0, 3.6, 3.6)  # (z, y, x) range that training covered
    voxel_nm_max: tuple[float, float, float] = (55.0, 11.0, 11.0)
    context: int = 2  # clean sections wanted a side; works with one
    max_gap: int = 3  # sections in a row it was trained to restore
    tile: int = 256  # core edge in pixels
    halo: int = 96  # pixels around the core that the core's values may depend on
    stride: int = 16  # tile and halo are multiples of it
    spread_scale: float = (
        1.0  # multiplies the ensemble's spread, so that it is as wide as the errors on validation rows
    )
    metrics: Mapping[str, Any] | None = None  # measured on held-out sections by `python -m model.evaluate`
    schema: str = SCHEMA

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")


def locate(weights: str) -> Path:
    """The safetensors file of `weights`: the name of shipped weights, or a path."""
    shipped = SHIPPED / f"{weights}.safetensors"
    if shipped.exists():
        return shipped
    path = Path(weights)
    if path.suffix == ".safetensors" and path.exists():
        return path
    names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors"))) or "none"
    raise CheckpointError(
        f"weights {weights!r}: no such file, and no shipped weights of that name (shipped: {names}). "
        "Give a shipped name or the path of a .safetensors file that has its .json card beside it; "
        ".pt, .pth and .ckpt files are refused because loading them can run code."
    )


def read_card(path: Path) -> Card:
    """The card beside the weights file `path`, checked for schema; the weights themselves are not read."""
    beside = path.with_suffix(".json")
    try:
        values = json.loads(beside.read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: its card {beside.name} is missing: nothing says what these weights are; copy it beside them"
        ) from None
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{beside}: not valid JSON ({error}); copy the card again from where the weights came"
        ) from error
    found = values.get("schema") if isinstance(values, dict) else None
    if found != SCHEMA:
        raise CheckpointError(
            f"{beside}: schema {found!r}, this zmend reads {SCHEMA!r}; update zmend or export the weights again"
        )
    return _card(beside, values)


def _card(beside: Path, values: Mapping[str, Any]) -> Card:
    unknown = sorted(set(values) - {f.name for f in fields(Card)})
    if unknown:
        raise CheckpointError(f"{beside}: unknown entries {unknown}; update zmend or export the weights again")
    try:
        ready: dict[str, Any] = {k: tuple(v) if k.startswith("voxel_nm") else v for k, v in values.items()}
        card = Card(**ready)
    except TypeError as error:
        raise CheckpointError(f"{beside}: incomplete card ({error}); export the weights again") from error
    if wrong := _wrong(card):
        raise CheckpointError(f"{beside}: {wrong}: the card was edited; copy it again from where the weights came")
    return card


def _wrong(card: Card) -> str:
    """What no card that zmend wrote would say, or nothing. The weights are pinned by their digest; the card is not."""
    low, high = card.voxel_nm_min, card.voxel_nm_max
    numbers = all(len(v) == 3 and all(type(n) in (int, float) and n > 0 for n in v) for v in (low, high))
    if not numbers or not all(a <= b < float("inf") for a, b in zip(low, high, strict=True)):
        return f"voxel sizes {low} to {high} are no range of (z, y, x) in nm"
    for name, least in (("context", 1), ("max_gap", 1), ("tile", 1), ("halo", 0), ("stride", 1)):
        value = getattr(card, name)
        if type(value) is not int or value < least:
            return f"{name} {value!r} is no whole number from {least}"
    if type(card.spread_scale) not in (int, float) or not 0 < card.spread_scale < 100:
        return f"spread_scale {card.spread_scale!r} is no number above 0"
    texts, tables = (card.name, card.sha256, card.licence), (card.network, card.sampler, card.training)
    if not all(isinstance(t, str) for t in texts) or not all(isinstance(t, dict) for t in tables):
        return "name, sha256 or licence is no text, or network, sampler or training is no table"
    if not isinstance(card.data, list) or not all(isinstance(d, dict) and "name" in d for d in card.data):
        return "data is no list of what was trained on"
    return ""


def network_of(card: Card) -> NetworkConfig:
    """The network that a card describes. Raises CheckpointError."""
    from model.network import NetworkConfig

    try:
        return NetworkConfig.from_dict(card.network)
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"card of {card.name!r}: its network cannot be built ({error}); copy it again from where the weights came"
        ) from error


def sampler_of(card: Card) -> Sampler:
    """The sampler that a card asks for. Raises CheckpointError."""
    try:
        return Sampler(**card.sampler)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"card of {card.name!r}: its sampler is refused ({error}); copy it again from where the weights came"
        ) from error


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_weights(path: Path, card: Card) -> None:
    """Raises CheckpointError where the weights are not those of the card."""
    found = sha256_of(path)
    if found != card.sha256:
        raise CheckpointError(
            f"{path}: sha256 is {found}, its card says {card.sha256}: the file was damaged or replaced. "
            "Copy weights and card again from the same place."
        )


def load_network(path: Path, card: Card) -> AnisoUNet3D:
    """The network with its weights, in evaluation mode, on the CPU. Refuses what does not match the card, and NaN."""
    check_weights(path, card)
    # torch takes seconds to import; a card must not
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from model.network import AnisoUNet3D

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: no safetensors file ({error}); copy it again with its card") from error
    bad = sorted(k for k, v in tensors.items() if not bool(torch.isfinite(v).all()))
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} tensors hold NaN or infinity (first: {bad[0]}); train or export again"
        )
    config = network_of(card)
    if card.stride % config.stride:
        raise CheckpointError(f"{path}: its card says stride {card.stride}, its network {config.stride}; copy it again")
    try:
        network = AnisoUNet3D(config)
        network.load_state_dict({k: v.float() for k, v in tensors.items()})
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path}: the weights do not fit the network of their card ({_first(error)}); export again"
        ) from error
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _first(error: Exception) -> str:
    """torch names every tensor that does not fit; two lines of it are enough."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2])


def export(path: Path, tensors: Mapping[str, Tensor], card: Card) -> Card:
    """Write weights and card; returns the card with the file's sha256. Written beside, then renamed."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".partial")
    # Half precision: a sixteenth of what bfloat16 arithmetic rounds anyway
    save_file({k: v.detach().half().cpu().contiguous() for k, v in tensors.items()}, part)
    part.chmod(0o644)  # safetensors makes it private; others on a cluster must read it
    card = replace(card, sha256=sha256_of(part))
    part.replace(path)
    card.write(path.with_suffix(".json"))
    return card
