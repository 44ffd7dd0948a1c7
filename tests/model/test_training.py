"""Training: lowers its loss, resumes bit for bit, never leaves the training parts of the data."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from model import augment, cards, data, train
from model.checkpoint import export, load_network, locate, read_card
from model.trainer import Settings, Trainer
from model.validation import Score
from tests.model.tiny import TINY, alive


def synthetic(sections: int = 12) -> list[data.Stack]:
    """Smooth tissue that drifts by a pixel a section: easy to interpolate, so that a few steps must show."""
    y, x = np.mgrid[:96, :96]
    raw = np.stack([127 + 100 * np.sin((x + z) / 5) * np.cos((y - z) / 7) for z in range(sections)])
    part = data.Part("synthetic", (0, sections))
    return [data.Stack(part, raw.astype(np.uint8), (47.5, 4.6, 4.6), "none")]


def settings(steps: int) -> Settings:
    return Settings(network=TINY, steps=steps, size=4, crop=32, rate=3e-3, warmup=3, rollout=0.3, bf16=False)


def test_twenty_steps_lower_the_loss() -> None:
    trainer = Trainer(settings(40), synthetic())
    losses = [trainer.step() for _ in range(24)]
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:4])


def test_an_interrupted_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    straight = Trainer(settings(6), synthetic())
    for _ in range(6):
        straight.step()
    state = tmp_path / "state.safetensors"
    ticks = count(step=30.0)  # a clock that leaves time for three steps
    assert not train.run(Trainer(settings(6), synthetic()), state, minutes=2.5, clock=lambda: next(ticks))
    resumed = Trainer(settings(6), synthetic())
    resumed.resume(state)
    assert 0 < resumed.done < 6
    while resumed.done < 6:
        resumed.step()
    for (name, a), b in zip(straight.network.named_parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(straight.average[name], resumed.average[name]), name


def test_a_gradient_that_is_not_finite_stops_the_training() -> None:
    trainer = Trainer(settings(4), synthetic())
    with torch.no_grad():
        trainer.network.head.plane.weight.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="step 0: the gradient is not finite"):
        trainer.step()


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    trainer = Trainer(Settings(network=TINY, steps=1000, warmup=100, cooldown=0.5), synthetic())
    rates = []
    for trainer.done in (0, 99, 400, 750, 1000):
        rates.append(trainer.rate())
    assert rates == pytest.approx([1e-5, 1e-3, 1e-3, 5e-4, 0])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Somebody's own stacks, one to train on and one to keep for testing."""
    folder = tmp_path / "own"
    folder.mkdir()
    raw = synthetic()[0].raw
    np.savez(folder / "mine.npz", raw=raw)
    np.savez(folder / "kept.npz", raw=raw)
    entry = {"voxel_zyx_nm": [40, 8, 8], "licence": "mine, all rights"}
    stacks = {"mine": {"file": "mine.npz", **entry}, "kept": {"file": "kept.npz", "use": "test", **entry}}
    (folder / "manifest.json").write_text(json.dumps(stacks))
    return folder


def test_own_stacks_train_resume_and_export_with_a_true_card(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(train.PRESETS, "cpu", TINY)  # type: ignore[misc]
    common = ["--data", str(own), "--state", str(own / "s"), "--steps", "2", "--batch", "2", "--crop", "32"]
    assert train.main([*common, "--minutes", "1"]) == 0
    out = own / "w" / "mine.safetensors"
    assert train.main([*common, "--minutes", "0", "--export", str(out)]) == 0
    card = read_card(out)
    load_network(out, card)
    depth = synthetic()[0].raw.shape[0]
    assert [(d["name"], d["sections"], d["licence"]) for d in card.data] == [
        ("mine", f"0-{depth - 1}", "mine, all rights")
    ]
    assert "mine, all rights" in card.licence
    assert (card.training["steps"], card.training["batch"], card.training["crop"]) == (2, 2, 32)
    assert (tuple(card.voxel_nm_min), tuple(card.voxel_nm_max)) == (
        pytest.approx((35, 7.2, 7.2)),
        pytest.approx((44, 17.6, 17.6)),
    )
    assert out.stat().st_mode & 0o044, "others may read the weights"


def test_fine_tuning_starts_at_its_parent_and_owes_what_it_owes(own: Path, weights: Path) -> None:
    """In one step of rate 1e-9 nothing moves by more than half precision rounds: the parent's weights come out."""
    parent = replace(read_card(weights), data=[{"name": "theirs", "licence": "share alike"}], halo=24, spread_scale=1.5,
                     voxel_nm_min=(30.0, 7.3, 7.3), voxel_nm_max=(42.0, 20.0, 20.0))  # fmt: skip
    parent.write(weights.with_suffix(".json"))
    out = own / "w" / "tuned.safetensors"
    common = ["--data", str(own), "--state", str(own / "s"), "--from", str(weights), "--batch", "2", "--crop", "32"]
    assert train.main([*common, "--steps", "1", "--rate", "1e-9", "--export", str(out)]) == 0
    card = read_card(out)
    before, after = (dict(load_network(p, c).named_parameters()) for p, c in ((weights, parent), (out, card)))
    assert all(torch.allclose(before[k], v, atol=1e-3) for k, v in after.items())
    assert card.network == parent.network
    assert [d["name"] for d in card.data] == ["mine", "theirs"]
    assert "mine: mine, all rights" in card.licence and "theirs: share alike" in card.licence
    assert card.training["from"] == {"name": "tiny", "sha256": parent.sha256, "training": {}}
    assert (card.training["rate"], card.training["blind"]) == (1e-9, 0.4)
    assert tuple(card.voxel_nm_min) == pytest.approx((30, 7.2, 7.2))
    assert tuple(card.voxel_nm_max) == pytest.approx((44, 20, 20))
    assert (card.tile, card.halo, card.spread_scale, card.sampler["steps"]) == (32, 24, 1.5, 3)


def test_a_trainer_begins_with_the_bits_it_is_given() -> None:
    given = {k: v.detach() for k, v in alive().named_parameters()}
    trainer = Trainer(settings(4), synthetic())
    trainer.begin(given, "abc")
    for name, value in trainer.network.named_parameters():
        assert torch.equal(value, given[name]) and torch.equal(trainer.average[name], given[name]), name
        assert torch.equal(trainer.result[name], given[name]), name
    trainer.step()
    assert any(not torch.equal(v, given[k]) for k, v in trainer.network.named_parameters())
    assert all(torch.equal(v, given[k]) for k, v in alive().named_parameters()), "the parent's own tensors are left alone"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--from", "OTHER"], "was trained with .*, from [0-9a-f]{64}, .*: give the same, or another --state"),
        ([], "was trained with .*, from [0-9a-f]{64}, "),
        (["--from", "SAME", "--rate", "1e-4"], "was trained with .*rate 0.0003, blind 0.4"),
        (["--from", "SAME", "--blind", "0.5"], "was trained with .*rate 0.0003, blind 0.4"),
        (["--from", "nothing"], "weights 'nothing': no such file, and no shipped weights of that name"),
        (["--from", "model.pth"], ".pt, .pth and .ckpt files are refused"),
    ],
)
def test_fine_tuning_goes_on_as_it_began(
    own: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, change: list[str], words: str
) -> None:
    monkeypatch.setitem(train.PRESETS, "cpu", TINY)  # type: ignore[misc]
    other = weights.with_name("other.safetensors")
    export(other, dict(alive(seed=1).state_dict()), read_card(weights))
    names = {"OTHER": str(other), "SAME": str(weights)}
    common = ["--data", str(own), "--state", str(own / "s"), "--steps", "1", "--batch", "2", "--crop", "32"]
    assert train.main([*common, "--from", str(weights)]) == 0
    assert train.main([*common, "--from", str(weights), "--minutes", "0"]) == 0, "the same goes on"
    with pytest.raises(ValueError, match=words):
        train.main([*common, *(names.get(word, word) for word in change)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--batch", "3"], "was trained with batch 2"),
        (["--crop", "40"], "was trained with batch 2, crop 32"),
        (["--crop", "30"], "--crop 30 must be a multiple of 8 and at least 32"),
        (["--crop", "4000"], "--crop 4000 must fit the smallest stack, which is 96 px"),
        (["--minutes", "nan"], "--minutes nan must be a number from 0"),
        (["--minutes", "-1"], "--minutes -1 must be a number from 0"),
        (["--seed", "-1"], "--seed -1 must be 0 or more"),
        (["--threads", "-1"], "--threads -1 must be 0 \\(torch's own number\\) or more"),
        (["--export", "mine"], "--export mine must be a file whose name ends in .safetensors"),
        (["--state", "FILE"], "--state .*manifest.json is a file: name a folder"),
        (["--state", "FILE/deeper"], "manifest.json is a file: name a folder"),
        (["--device", "foo"], "device 'foo' is unknown; the devices are cpu, cuda, cuda:1, or auto"),
        (["--data", "/nowhere"], "there is no /nowhere/manifest.json"),
        (["--blind", "1.5"], "--blind 1.5 is a share of the windows: 0 to 1"),
        (["--blind", "nan"], "--blind nan is a share of the windows: 0 to 1"),
        (["--rate", "0"], "--rate 0 must be above 0 and at most 0.1"),
        (["--rate", "1"], "--rate 1 must be above 0 and at most 0.1"),
        (["--steps", "0"], "--steps 0 and --batch 2 must be at least 1"),
        (["--batch", "0"], "--steps 1 and --batch 0 must be at least 1"),
        (["--batch", "999999999"], "--batch 999999999 is more than 4096"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(
    own: Path, monkeypatch: pytest.MonkeyPatch, change: list[str], words: str
) -> None:
    monkeypatch.setitem(train.PRESETS, "cpu", TINY)  # type: ignore[misc]
    common = ["--data", str(own), "--state", str(own / "s"), "--steps", "1", "--batch", "2", "--crop", "32"]
    train.main([*common, "--minutes", "1"])
    change = [word.replace("FILE", str(own / "manifest.json")) for word in change]
    with pytest.raises(ValueError, match=words):
        train.main([*common, *change])


def test_the_shipped_range_of_voxel_sizes_is_what_its_stacks_cover(data_folder: Path) -> None:
    low, high = cards.voxel_range(data.load(data_folder))
    card = read_card(locate("default"))
    assert (low, high) == (pytest.approx(card.voxel_nm_min), pytest.approx(card.voxel_nm_max))


# ---- data -----------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    stacks = synthetic()
    a, b, c = (data.batch(stacks, seed=1, step=s, size=3, crop=32) for s in (5, 5, 6))
    assert np.array_equal(a.sections, b.sections) and np.array_equal(a.known, b.known)
    assert a.sections.shape != c.sections.shape or not np.array_equal(a.sections, c.sections)


def test_batches_have_clean_neighbours_and_cover_every_gap() -> None:
    stacks, gaps = synthetic(), set()
    for step in range(60):
        b = data.batch(stacks, seed=0, step=step, size=2, crop=32)
        first, last = b.targets
        gaps.add(last - first)
        assert b.known[:, :first].all() and b.known[:, last:].all()
        assert 1 <= first <= 2 and 1 <= b.sections.shape[1] - last <= 2
        assert b.sections.dtype == np.float32 and b.sections.min() >= -1 and b.sections.max() <= 1
    assert gaps == {1, 2, 3}


def test_random_damage_is_sometimes_partial() -> None:
    rng = np.random.default_rng(0)
    shares = [data.damage(1, 64, rng).mean() for _ in range(200)]
    assert 0.6 < np.mean(np.array(shares) == 0) < 0.9
    assert np.std([s for s in shares if s > 0]) > 0.1


def test_double_scale_halves_the_resolution_and_says_so() -> None:
    rng, sizes = np.random.default_rng(0), set()
    for _ in range(40):
        cut, size = data.window(synthetic()[0], 3, 48, rng)
        assert cut.shape == (3, 48, 48)
        sizes.add(size)
    assert sizes == {(47.5, 4.6, 4.6), (47.5, 9.2, 9.2)}


def test_isotropic_stacks_are_cut_every_fourth_slice() -> None:
    raw = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None], (64, 64, 64)).copy()
    stack = data.Stack(data.Part("fib", (0, 64), isotropic=True), raw, (10, 10, 10), "none")
    for seed in range(8):
        cut, size = data.window(stack, 3, 64, np.random.default_rng(seed))
        assert size == (40, 10, 10) and cut.shape == (3, 64, 64)


def test_no_test_part_of_the_manifest_is_trained_on(data_folder: Path) -> None:
    manifest = json.loads((data_folder / "manifest.json").read_text())
    for part in data.TRAINING:
        use = manifest[part.name]["use"]
        assert use.startswith("train")
        if part.name == "vnc_stack1":
            assert part.sections == (0, 14) and part.rows[1] == data.VALIDATION_ROWS[0]
    assert not {"fib25_val_z000_239", "pinky_sample2"} & {p.name for p in data.TRAINING}


def test_nothing_trained_is_nothing_to_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(train.PRESETS, "cpu", TINY)  # type: ignore[misc]
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "a.npz", raw=synthetic()[0].raw)
    (tmp_path / "data" / "manifest.json").write_text(
        json.dumps({"a": {"file": "a.npz", "voxel_zyx_nm": [47.5, 4.6, 4.6], "licence": "none"}})
    )
    out = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match="there is nothing to export: .*holds no training step; check --state"):
        train.main(["--data", str(tmp_path / "data"), "--state", str(tmp_path / "none"), "--crop", "32", "--minutes", "0",
                    "--export", str(out)])  # fmt: skip
    assert not out.exists()


# ---- validation -------------------------------------------------------------------------------------------------------


def watched(steps: int, patience: int = 12) -> Trainer:
    """A trainer with a validation stack, which looks every second step."""
    return Trainer(replace(settings(steps), validate=2, patience=patience), synthetic(), "cpu", synthetic(9))


def test_validation_scores_rise_with_training_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    trainer = watched(30)
    assert train.run(trainer, tmp_path / "state.safetensors", minutes=5)
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    scores = [line["blind_db"] for line in lines if "blind_db" in line]
    assert len(scores) == 15 and max(scores[5:]) > scores[0] + 0.5
    assert trainer.best_step == max(line["best_step"] for line in lines if "best_step" in line)
    assert trainer.result is trainer.best
    assert trainer.validation is not None
    again = trainer.validation.score(trainer.result, bf16=False)
    assert again.total == pytest.approx(trainer.best_score, abs=1e-6)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 15


def test_training_stops_when_the_score_stops_rising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = watched(1000, patience=3)
    scores = iter([1.0, 2.0, *[1.5] * 500])
    assert trainer.validation is not None
    monkeypatch.setattr(trainer.validation, "score", lambda *_, **__: Score(next(scores), 0.0))
    assert train.run(trainer, tmp_path / "state.safetensors", minutes=5)
    assert trainer.best_step == 4 and trainer.done == 4 + 3 * 2 + 1


def test_the_best_weights_survive_an_interruption(tmp_path: Path) -> None:
    first = watched(8)
    while first.done < 4:
        first.step()
        first.validate()
    first.save(tmp_path / "state.safetensors")
    second = watched(8)
    second.resume(tmp_path / "state.safetensors")
    assert second.best_step == first.best_step > 0 and second.best_score == first.best_score
    assert all(torch.equal(second.best[k], v) for k, v in first.best.items())


def test_without_validation_stacks_the_last_average_is_the_result() -> None:
    trainer = Trainer(settings(2), synthetic())
    trainer.step()
    assert trainer.validate() is None and trainer.result is trainer.average and not trainer.finished


def test_named_stacks_alone_are_trained_and_validated_on() -> None:
    manifest = {n: {"file": "x", "voxel_zyx_nm": [47, 4, 4]} for n in {p.name for p in data.TRAINING}}
    assert {p.name for p in data.parts_of(manifest, ["fib25_train1"])} == {"fib25_train1"}
    assert data.validation_of(manifest, ["fib25_train1"]) == []  # weights owe nothing to other data
    assert data.validation_of(manifest) == list(data.VALIDATION)
    with pytest.raises(ValueError, match="names no stack fib26; it names .*fib25_train1"):
        data.parts_of(manifest, ["fib26"])


def test_stacks_say_what_they_are_for() -> None:
    manifest = {n: {"file": n, "voxel_zyx_nm": [47, 4, 4], "use": n} for n in ("train", "validation", "test")}
    assert [p.name for p in data.parts_of(manifest)] == ["train"]
    assert [p.name for p in data.validation_of(manifest)] == ["validation"]


# ---- augmentation -----------------------------------------------------------------------------------------------------


def grid(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((3, 64, 64), np.float32)


def test_elastic_bends_all_sections_alike() -> None:
    """Equal sections stay equal but for a shift of a pixel or two now and then; about half of the windows bend."""
    same = np.repeat(grid()[:1], 3, 0)
    bent = [augment.elastic(same, np.random.default_rng(s)) for s in range(60)]
    changed = [b for b in bent if not np.array_equal(b, same)]
    assert 15 < len(changed) < 45
    assert sum(np.array_equal(b[0], b[2]) for b in changed) > len(changed) / 2
    assert all(b.shape == same.shape and b.dtype == np.float32 for b in bent)


def test_optics_blurs_some_and_adds_noise_to_some() -> None:
    detail = [np.abs(np.diff(augment.optics(grid(), np.random.default_rng(s)), axis=2)).mean() for s in range(100)]
    plain = np.abs(np.diff(grid(), axis=2)).mean()
    assert 5 < sum(d < 0.98 * plain for d in detail) < 40
    assert sum(abs(d - plain) < 1e-6 for d in detail) > 40
    out = augment.optics(grid(), np.random.default_rng(3))
    assert out.min() >= 0 and out.max() <= 1


def test_some_windows_have_brightness_steps_that_anyone_sees() -> None:
    flat = np.full((5, 32, 32), 0.5, np.float32)
    steps = [np.ptp(augment.contrast(flat, np.random.default_rng(s)).mean((1, 2))) for s in range(200)]
    assert 5 < sum(step > 0.08 for step in steps) < 60


def test_other_switches_may_begin_from_the_same_tensors_and_other_tensors_are_refused() -> None:
    parent = Trainer(settings(1), synthetic())
    weights = dict(parent.network.named_parameters())
    switched = Trainer(replace(settings(1), network=replace(TINY, aligned=not TINY.aligned)), synthetic())
    switched.begin(weights, "0" * 64)
    assert all(torch.equal(v, weights[k]) for k, v in switched.network.named_parameters())
    other = Trainer(replace(settings(1), network=replace(TINY, embedding=2 * TINY.embedding)), synthetic())
    with pytest.raises(ValueError, match="of another network than --preset: leave --preset out"):
        other.begin(weights, "0" * 64)
