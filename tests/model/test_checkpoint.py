"""What is wrong with weights is refused before it can reach a voxel, in words that help."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from model.checkpoint import Card, CheckpointError, export, load_network, locate, read_card
from tests.model.tiny import TINY, alive


def test_weights_return_as_they_were_written(weights: Path) -> None:
    loaded = load_network(weights, read_card(weights)).state_dict()
    for name, value in alive().state_dict().items():
        assert torch.equal(loaded[name], value.half().float()), name  # kept in half precision


def test_one_flipped_bit_is_refused(weights: Path) -> None:
    raw = bytearray(weights.read_bytes())
    raw[-100] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(CheckpointError, match="sha256 is .* its card says .* damaged or replaced"):
        load_network(weights, read_card(weights))


def test_nan_weights_are_refused(weights: Path) -> None:
    state = dict(alive().state_dict())
    state["head.plane.weight"] = state["head.plane.weight"] * float("nan")
    card = export(weights, state, Card("nan", "", TINY.to_dict(), {}, [], "test", {}))
    with pytest.raises(CheckpointError, match="1 tensors hold NaN or infinity .first: head.plane.weight"):
        load_network(weights, card)


def test_an_unknown_schema_is_refused(weights: Path) -> None:
    card = weights.with_suffix(".json")
    card.write_text(json.dumps({**json.loads(card.read_text()), "schema": "zmend-weights-9"}))
    with pytest.raises(CheckpointError, match="schema 'zmend-weights-9'.*update zmend"):
        read_card(weights)


def test_a_missing_card_and_a_broken_card_say_what_to_do(weights: Path) -> None:
    card = weights.with_suffix(".json")
    card.write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON .* copy the card again"):
        read_card(weights)
    card.unlink()
    with pytest.raises(CheckpointError, match=r"its card tiny\.json is missing.*copy it beside"):
        read_card(weights)


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    card = export(weights, {"head.plane.weight": torch.zeros(3)}, Card("x", "", TINY.to_dict(), {}, [], "test", {}))
    with pytest.raises(CheckpointError, match="do not fit the network of their card"):
        load_network(weights, card)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was executed",))


def test_the_open_weights_owe_nothing_but_credit() -> None:
    path = locate("open")
    card = read_card(path)
    assert {d["name"] for d in card.data} == {"fib25_train1", "fib25_train2"}
    assert all(d["licence"].startswith("Creative Commons Attribution.") for d in card.data)
    assert "NC" not in card.licence and "non-commercial" not in card.licence.lower()
    assert card.metrics and "from" not in card.training, "not tuned from other weights"
    load_network(path, card)  # its sha256 is the card's


@pytest.mark.parametrize("name", ["evil.pt", "evil.safetensors"])
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        load_network(locate(str(path)), read_card(path))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(CheckpointError, match=r"weights 'nonesuch': no such file.*shipped: .*refused because"):
        locate("nonesuch")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"voxel_nm_min": 5}, "incomplete card"),
        ({"voxel_nm_max": [1, 2]}, "are no range of .z, y, x. in nm: the card was edited"),
        ({"voxel_nm_min": [500, 500, 500]}, "are no range of .z, y, x. in nm"),
        ({"halo": -3}, "halo -3 is no whole number from 0"),
        ({"context": "2"}, "context '2' is no whole number from 1"),
        ({"spread_scale": 0}, "spread_scale 0 is no number above 0"),
        ({"sampler": 3}, "network, sampler or training is no table"),
        ({"name": 5}, "name, sha256 or licence is no text"),
        ({"data": [1]}, "data is no list of what was trained on"),
        ({"stride": 7}, "its card says stride 7, its network 8; copy it again"),
        ({"network": {"widths": "abc"}}, "its network cannot be built .*one number a level"),
        ({"network": {"widths": [16, 16, 10**9]}}, "its network cannot be built"),
        ({"network": {**TINY.to_dict(), "flab_width": 10**9}}, "above 4096 is no network that fits into memory"),
        ({"network": {**TINY.to_dict(), "embedding": 7}}, "the weights do not fit the network of their card .*; export again$"),
    ],
)
def test_an_edited_card_is_refused_in_words(weights: Path, edit: dict[str, object], words: str) -> None:
    beside = weights.with_suffix(".json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **edit}))
    with pytest.raises(CheckpointError, match=words) as error:
        load_network(weights, read_card(weights))
    assert len(str(error.value)) < 500
