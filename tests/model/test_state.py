"""The state of a training: whole, as it was saved, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model import state, train
from model.state import StateError
from model.trainer import Trainer
from tests.model.test_training import settings, synthetic

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3.0), "c": torch.rand(2, 4, 3, 3).to(memory_format=torch.channels_last)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.safetensors"
    state.write(path, TENSORS, {"done": "3"})
    tensors, meta = state.read(path)
    assert tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[k], v) for k, v in TENSORS.items())
    assert meta["done"] == "3" and [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("at", [-1, -30, -100])
def test_one_flipped_bit_is_found(tmp_path: Path, at: int) -> None:
    path = tmp_path / "state.safetensors"
    state.write(path, TENSORS, {"done": "3"})
    whole = bytearray(path.read_bytes())
    whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(StateError, match="its tensors are not those that were saved.*: put a copy of it back, or remove it"):
        state.read(path)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 400], ids=["empty", "short", "noise"])
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"state.safetensors is damaged \(.*remove it to train from the beginning \(rm "):
        state.read(path)


def test_a_state_without_its_tensors_is_refused(tmp_path: Path) -> None:
    path, trainer = tmp_path / "state.safetensors", Trainer(settings(4), synthetic())
    trainer.step()
    trainer.save(path)
    tensors, meta = state.read(path)
    tensors.pop("network.stem.plane.weight")
    state.write(path, tensors, meta)
    with pytest.raises(StateError, match="KeyError: 'network.stem.plane.weight'"):
        Trainer(settings(4), synthetic()).resume(path)


def test_an_older_state_without_digest_and_without_best_goes_on(tmp_path: Path) -> None:
    path, trainer = tmp_path / "state.safetensors", Trainer(settings(4), synthetic())
    trainer.step()
    trainer.save(path)
    with safe_open(path, framework="pt") as file:
        meta, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    del meta["sha256"]
    save_file(tensors, path, {**meta, "best": "[0, 0.0]"})
    resumed = Trainer(settings(4), synthetic())
    resumed.resume(path)
    assert resumed.done == 1 and resumed.best_step is None and resumed.result is resumed.average


def test_tuning_that_only_makes_it_worse_gives_the_parent_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights it began from are looked at before the first step, and kept while nothing scores better."""
    from model.validation import Score
    from tests.model.test_training import watched
    from tests.model.tiny import alive

    given = {k: v.detach() for k, v in alive().named_parameters()}
    trainer = watched(6)
    trainer.begin(given, "abc")
    scores = iter([5.0, 4.0, 3.0, 2.0])
    assert trainer.validation is not None
    monkeypatch.setattr(trainer.validation, "score", lambda *_, **__: Score(next(scores), 0.0))
    assert train.run(trainer, tmp_path / "state.safetensors", minutes=5)
    assert trainer.done == 6 and trainer.best_step == 0 and next(scores, None) is None
    assert all(torch.equal(trainer.result[k], v) for k, v in given.items())
    again = watched(6)
    again.begin({k: torch.zeros_like(v) for k, v in given.items()}, "abc")
    again.resume(tmp_path / "state.safetensors")
    assert again.best_step == 0 and all(torch.equal(again.result[k], v) for k, v in given.items()), "so it is after an interruption"
    first = (tmp_path / "progress.jsonl").read_text().splitlines()[0]
    assert first.startswith('{"step": 0, "blind_db": 5.0')
