"""The ablation: from stacks to tables in two tiny steps; what is done is not done again; nothing is mixed in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from model import ablation, data, scenes
from model.network import PRESETS, NetworkConfig
from model.sampler import Sampler
from model.trainer import Trainer
from model.variants import VARIANTS, Budget
from tests.model.tiny import TINY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stack called as the evaluation wants it: tissue that drifts, with dark lines as membranes; a tiny network."""
    monkeypatch.setitem(PRESETS, "cpu", TINY)
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.standard_normal((72, 140)), 4)
    stack = np.stack([np.roll(field, 2 * z, 1)[:64, :64] for z in range(20)])
    lines = np.abs(stack) < 0.01
    raw = np.clip(180 - 110 * lines + rng.normal(0, 8, stack.shape), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "vnc.npz", raw=raw, membranes=lines)
    entry = {"file": "vnc.npz", "voxel_zyx_nm": [47.5, 4.6, 4.6], "licence": "none", "sections": [0, 14]}
    (tmp_path / "manifest.json").write_text(json.dumps({"vnc_stack1": entry}))
    ablation._classifier.cache_clear()
    yield tmp_path
    ablation._classifier.cache_clear()


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--data", str(folder), "--out", str(folder / "out"), "--steps", "2", "--batch", "2", "--crop", "32",
            "--tasks", "vnc1", "fold", "vnc2", "--cases", "1", "--edge", "64", "--threads", "1", *more]  # fmt: skip


def test_from_stacks_to_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(arguments(folder, "--only", "x0", "eps", "no-bridge", "steps-2")) == 0
    report = json.loads((folder / "out" / "ablation.json").read_text())
    assert list(report["variants"]) == ["full", "match", "x0", "eps", "no-bridge", "steps-2"], "what others are compared with is always there"
    assert report["budget"]["steps"] == 2 and report["budget"]["seed"] == 0 and "--steps 2" in report["command"]
    for name, entry in report["variants"].items():
        assert list(entry["scores"]) == ["vnc1", "fold", "vnc2"]
        for each in entry["scores"].values():
            assert set(each) == ({"mean", "sample"} if VARIANTS[name].mean else {"sample"})
            for cells in each.values():
                assert list(cells) == list(ablation.COLUMNS)
                assert all(c["value"] is not None for c in cells.values())
                assert all((c["difference"] is None) == (name == "full") for c in cells.values())
    shared = [report["variants"][n]["weights"] for n in ("full", "no-bridge", "steps-2", "x0")]
    assert shared[0] == shared[1] == shared[2] != shared[3]
    text = (folder / "out" / "ablation.md").read_text()
    assert text in capsys.readouterr().out
    assert "interval holds 0 means nothing" in text and "## vnc1, posterior mean" in text and "## fold, sample" in text
    assert not list((folder / "out" / "variants").glob("*.state")) and not list((folder / "out").rglob("*.partial*"))


def test_what_is_there_is_not_done_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ablation.main(arguments(folder, "--only", "full"))
    first = json.loads((folder / "out" / "ablation.json").read_text())

    def never(*_: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(Trainer, "step", never)
    ablation.main(arguments(folder, "--only", "full", "steps-1"))
    again = json.loads((folder / "out" / "ablation.json").read_text())
    assert again["variants"]["full"] == first["variants"]["full"]
    monkeypatch.setattr(ablation, "score", never)
    ablation.main(arguments(folder, "--only", "full", "steps-1"))
    with pytest.raises(AssertionError, match="done again"):
        ablation.main(arguments(folder, "--only", "x0"))


def test_what_was_made_with_other_options_is_never_mixed_in(folder: Path) -> None:
    ablation.main(arguments(folder, "--only", "full"))
    for change in (("--steps", "3"), ("--seed", "1"), ("--batch", "1"), ("--edge", "48"), ("--tasks", "vnc1")):
        with pytest.raises(ValueError, match="give the same options, or another --out"):
            ablation.main(arguments(folder, "--only", "full", *change))


@pytest.mark.parametrize(("change", "words"), [(("--steps", "0"), "say how long"), (("--crop", "36"), "multiple of 8"), (("--crop", "640"), "fit the smallest")])
def test_what_cannot_be_run_is_refused_in_words(folder: Path, change: tuple[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ablation.main(arguments(folder, *change))


def test_an_interrupted_training_goes_on_where_it_was(folder: Path) -> None:
    stacks, budget, state = data.load(folder), Budget(6, None, size=2, crop=32), folder / "full.state"
    straight = Trainer(budget.settings(VARIANTS["full"]), stacks)
    ablation.train(straight, budget, state)
    assert straight.done == 6
    killed = Trainer(budget.settings(VARIANTS["full"]), stacks)
    ticks = iter([0.0, 50.0, 130.0])  # seconds; the save is due after the second step, then the clock dies
    with pytest.raises(StopIteration):
        ablation.train(killed, budget, state, clock=lambda: next(ticks))
    resumed = Trainer(budget.settings(VARIANTS["full"]), stacks)
    ablation.train(resumed, budget, state)
    assert resumed.done == 6 and resumed.seconds > 130
    assert all(np.array_equal(resumed.average[k], v) for k, v in straight.average.items())


def test_minutes_end_a_training_with_the_rate_come_down(folder: Path) -> None:
    budget = Budget(None, 5.0, size=1, crop=32)
    trainer = Trainer(budget.settings(VARIANTS["full"]), data.load(folder))
    ticks = count(step=30.0)
    ablation.train(trainer, budget, folder / "x.state", clock=lambda: float(next(ticks)))
    assert trainer.done == 10 == trainer.settings.steps
    assert trainer.rate() == 0


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_changes_something_that_exists(name: str) -> None:
    variant = VARIANTS[name]
    settings, sampler = Budget(1, None).settings(variant), replace(Sampler(), **variant.sampler)
    assert {f.name for f in fields(NetworkConfig)} >= set(variant.network)
    assert isinstance(sampler, Sampler)
    assert variant.trained == (settings != Budget(1, None).settings(VARIANTS["full"]))
    assert name == "full" or variant.trained or sampler != Sampler() or name == f"steps-{Sampler().steps}"


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = {("vnc1", "mean"): [rng.random((16, 3)) for _ in range(12)], ("vnc1", "sample"): [rng.random((2, 3))]}
    ablation.write_scores(tmp_path / "a.npz", scores, {"edge": 64})
    found = ablation.read_scores(tmp_path / "a.npz", {"edge": 64})
    assert set(found) == set(scores)
    assert all(np.array_equal(a, b) for k in scores for a, b in zip(found[k], scores[k], strict=True))


def test_a_better_method_scores_better_and_only_unknown_voxels_count(folder: Path) -> None:
    case = scenes.limit(scenes.load(folder, "fold"), 1, 64)[0]
    classifier = ablation._classifier(folder)
    perfect, wrong = ({("fold", "sample"): ablation.score(lambda _, t=t: t, [case], classifier)} for t in (case.truth + np.float32(0.01), 1 - case.truth))  # type: ignore[misc]
    cells = ablation.compare(wrong, perfect)["fold"]["sample"]
    assert cells["gain_db"]["value"] < 0 and cells["gain_db"]["difference"][1] < 0
    spoilt = np.where(case.unknown, case.truth + np.float32(0.01), np.float32(7))
    same = ablation.score(lambda _: spoilt, [case], classifier)
    assert np.array_equal(same[0], perfect["fold", "sample"][0])
