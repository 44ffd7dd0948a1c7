"""The learned peers: they learn, they keep what is known, and they come back from disk as they were."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from model import data, peerfile, peers
from model.checkpoint import CheckpointError, sha256_of
from model.peernets import KINDS, Config, convolve

TINY = Config(widths=(16, 16), encoder=(1, 1), decoder=(1, 1), embedding=8, taps=9)


@dataclass(frozen=True)
class Case:
    """A case as the evaluation has it, as far as a peer may look."""

    sections: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    targets: tuple[int, int]
    truth: npt.NDArray[np.float32]
    voxel_nm: tuple[float, float, float] = (47.5, 4.6, 4.6)


def drifting(sections: int = 12, side: int = 96) -> npt.NDArray[np.uint8]:
    """A pattern that moves three pixels a section: a copy is wrong, and the average is blurred."""
    y, x = np.mgrid[:side, :side]
    return np.stack([127 + 60 * np.sin((x + 3 * z) / 3) + 60 * np.cos((y - 3 * z) / 4) for z in range(sections)]).astype(np.uint8)


def stacks() -> list[data.Stack]:
    return [data.Stack(data.Part("drifting", (0, 12)), drifting(), (47.5, 4.6, 4.6), "none")]


def case(gap: int, *, partial: bool = False, before: int = 2, after: int = 2, side: int = 40) -> Case:
    full = drifting(before + gap + after, side).astype(np.float32) / np.float32(255)
    known = np.ones(full.shape, bool)
    known[before : before + gap] = False
    if partial:
        known[before : before + gap, : side // 2] = True
    return Case(np.where(known, full, np.float32(0.5)), known, (before, before + gap), full[before : before + gap])


def woken(kind: str, config: Config = TINY) -> peers.Peer:
    """An untrained network whose zero-started branches show in the output."""
    torch.manual_seed(0)
    network = KINDS[kind](config)
    with torch.no_grad():
        for value in network.parameters():
            if not bool(value.any()):
                value.normal_(0, 0.02)
    return network.eval()


both = pytest.mark.parametrize("kind", sorted(KINDS))


# ---- the networks -----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("gap", [1, 2, 3])
@pytest.mark.parametrize(("before", "after"), [(2, 2), (1, 2), (1, 1)])
def test_every_gap_and_context_is_restored(kind: str, gap: int, before: int, after: int) -> None:
    made = peers.restorer(woken(kind))(case(gap, before=before, after=after))
    assert made.shape == (gap, 40, 40) and made.dtype == np.float32
    assert made.min() >= 0 and made.max() <= 1
    assert gap == 1 or not np.array_equal(made[0], made[-1]), "the place between the neighbours is an input"


@both
def test_known_pixels_come_out_as_they_went_in(kind: str) -> None:
    given = case(2, partial=True)
    made = peers.restorer(woken(kind))(given)
    assert np.array_equal(made[:, :20], given.truth[:, :20])
    assert not np.array_equal(made[:, 20:], given.truth[:, 20:])


@both
def test_hidden_voxels_are_never_looked_at(kind: str) -> None:
    given, restore = case(1, partial=True), peers.restorer(woken(kind))
    poisoned = given.sections.copy()
    poisoned[~given.known] = np.nan
    assert np.array_equal(restore(given), restore(Case(poisoned, given.known, given.targets, given.truth)))


@both
@pytest.mark.parametrize("side", [37, 40, 43])
def test_any_size_is_restored(kind: str, side: int) -> None:
    assert peers.restorer(woken(kind))(case(1, side=side)).shape == (1, side, side)


@both
def test_a_peer_is_about_as_large_as_the_restorer(kind: str) -> None:
    assert 2.5e6 < sum(v.numel() for v in KINDS[kind](Config()).parameters()) < 4e6


def test_the_pixels_known_of_a_target_inform_the_regression() -> None:
    restore = peers.restorer(woken("regression"))
    assert not np.array_equal(restore(case(1))[0, 20:], restore(case(1, partial=True))[0, 20:])


def test_an_untrained_sepconv_is_the_blurred_average() -> None:
    given = case(1)
    made = peers.restorer(KINDS["sepconv"](TINY).eval())(given)[0]
    plain = (given.sections[1] + given.sections[3]) / 2
    assert made.std() < plain.std() and np.corrcoef(made.ravel(), plain.ravel())[0, 1] > 0.95


def test_convolve_is_the_sum_over_all_shifts_and_so_is_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.peernets._STRIP", 2 * 9 * 5)  # strips of 5 rows, the last of 3
    torch.manual_seed(0)
    image = torch.randn(2, 13, 9, dtype=torch.float64)
    down, across = (torch.randn(2, 5, 13, 9, dtype=torch.float64, requires_grad=True) for _ in range(2))
    near = F.unfold(F.pad(image[:, None], [2] * 4, mode="replicate"), 5).reshape(2, 5, 5, 13, 9)
    slow, fast = torch.einsum("bijyx,biyx,bjyx->byx", near, down, across), convolve(image, down, across)
    weight = torch.randn_like(slow)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(torch.autograd.grad(fast, (down, across), weight), torch.autograd.grad(slow, (down, across), weight))


# ---- training ---------------------------------------------------------------------------------------------------------


@both
def test_a_few_dozen_steps_leave_copy_and_average_behind(kind: str) -> None:
    network = peers.train(kind, stacks(), steps=90, size=4, crop=32, threads=1, config=TINY)
    given = case(1, side=64)
    error = float(np.mean((peers.restorer(network)(given) - given.truth) ** 2))
    before, after = given.sections[1], given.sections[3]
    assert error < 0.5 * np.mean((before - given.truth[0]) ** 2)
    assert error < 0.9 * np.mean(((before + after) / 2 - given.truth[0]) ** 2)


@both
def test_steps_alone_make_the_weights_a_function_of_the_seed(kind: str) -> None:
    a, b, c = (peers.train(kind, stacks(), steps=2, seed=s, size=2, crop=32, config=TINY).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_minutes_end_the_training_and_a_kill_leaves_the_last_save(tmp_path: Path) -> None:
    ticks = count(step=50.0)  # seconds a step: a save is due every third step
    seen = []

    def clock() -> float:
        path = tmp_path / "regression.json"
        seen.append(json.loads(path.read_text())["steps"] if path.exists() else 0)
        return next(ticks)

    peers.train("regression", stacks(), minutes=5, size=2, crop=32, config=TINY, folder=tmp_path, clock=clock)
    record = peerfile.read_record(tmp_path / "regression.safetensors")
    assert record.steps == 6 and record.minutes == 5 and record.finished and list(record.data) == ["drifting"]
    assert 3 in seen and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"steps": None}, "say how long"), ({"crop": 34}, "multiple of 4"), ({"crop": 400}, "fit the smallest stack"), ({"kind": "x"}, "no peer is called 'x'")],
)
def test_what_cannot_be_trained_is_refused_in_words(change: dict[str, object], words: str) -> None:
    options = {"kind": "sepconv", "stacks": stacks(), "steps": 1, "crop": 32, "size": 2, "config": TINY, **change}
    with pytest.raises(ValueError, match=words):
        peers.train(**options)  # type: ignore[arg-type]


# ---- on disk ----------------------------------------------------------------------------------------------------------


@both
def test_a_peer_comes_back_from_disk_as_it_was(kind: str, tmp_path: Path) -> None:
    network = peers.train(kind, stacks(), steps=2, size=2, crop=32, config=TINY, folder=tmp_path)
    loaded = peers.load(tmp_path)
    assert list(loaded) == [kind]
    for given in (case(1), case(2, partial=True)):
        assert np.array_equal(loaded[kind](given), peers.restorer(network)(given))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    peers.train("regression", stacks(), steps=1, size=2, crop=32, config=TINY, folder=tmp_path)
    return tmp_path / "regression.safetensors"


def test_weights_with_nan_are_refused(trained: Path) -> None:
    tensors = load_file(trained)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, trained)
    with pytest.raises(CheckpointError, match="sha256 is not the one"):
        peers.load(trained.parent)
    beside = trained.with_suffix(".json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "sha256": sha256_of(trained)}))
    with pytest.raises(CheckpointError, match="hold NaN or infinity"):
        peers.load(trained.parent)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}'])
def test_a_damaged_record_is_refused(trained: Path, text: str) -> None:
    trained.with_suffix(".json").write_text(text)
    with pytest.raises(CheckpointError, match="not the record of a peer"):
        peers.load(trained.parent)


def test_a_folder_that_is_not_there_is_refused_and_an_empty_one_has_no_peers(tmp_path: Path) -> None:
    assert peers.load(tmp_path) == {}
    with pytest.raises(CheckpointError, match="there is no folder"):
        peers.load(tmp_path / "absent")


def test_the_command_line_trains_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        monkeypatch.setitem(KINDS, kind, lambda _, make=KINDS[kind]: make(TINY))  # type: ignore[misc]
    np.savez(tmp_path / "mine.npz", raw=drifting())
    manifest = {"mine": {"file": "mine.npz", "voxel_zyx_nm": [40, 8, 8], "licence": "mine"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "peers"
    assert peers.main(["--data", str(tmp_path), "--out", str(out), "--steps", "1", "--batch", "2", "--crop", "32", "--threads", "1"]) == 0
    assert sorted(p.name for p in out.iterdir()) == sorted(f"{k}.{e}" for k in KINDS for e in ("json", "safetensors"))
