"""The networks that see damage: what they learn from, and that what is exported is what was trained."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from model import spotting, windows
from model.spotter import CLASSES, SIDES, Scout, Spotter, hints, novel, read
from model.wounds import WOUNDS, contamination, crack, fold

Z, Y, X = 8, 320, 320


def tissue(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    stack = [cv2.GaussianBlur(rng.standard_normal((Y, X)).astype(np.float32), (0, 0), 3) for _ in range(Z)]
    return np.clip(128 + 300 * np.stack(stack), 1, 254).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "mine.npz", raw=tissue())
    entry = {"file": "mine.npz", "voxel_zyx_nm": [45, 8, 8], "licence": "CC0"}
    (tmp_path / "manifest.json").write_text(json.dumps({"mine": entry}))
    return tmp_path


LESSONS = (windows.Lesson("mine", slice(0, Z), 1.0, bad=(3,)),)


@pytest.mark.parametrize("kind", WOUNDS)
def test_a_wound_changes_what_its_mask_says_and_depends_on_the_seed(kind: str) -> None:
    image = tissue()[0].astype(np.float32)
    for seed in range(12):
        out, mask = WOUNDS[kind](image.copy(), np.random.default_rng(seed))
        again, same = WOUNDS[kind](image.copy(), np.random.default_rng(seed))
        assert np.array_equal(out, again) and np.array_equal(mask, same)
        assert out.shape == mask.shape == image.shape and mask.dtype == bool and np.isfinite(out).all()
        changed = np.abs(out - image) > 25
        assert (changed & ~mask).sum() <= (0.1 if kind == "contrast" else 0.02) * mask.size, f"seed {seed}: {kind} touched what it does not own to"
    assert not np.array_equal(mask, WOUNDS[kind](image, np.random.default_rng(99))[1])


def test_folds_are_dark_and_cracks_have_no_tissue() -> None:
    image = np.full((192, 192), 140, np.float32) + np.random.default_rng(0).normal(0, 20, (192, 192)).astype(np.float32)
    darker = [np.median((out - image)[mask]) for out, mask in (fold(image, np.random.default_rng(s)) for s in range(20))]
    assert np.mean(darker) < -5
    spread = [out[mask & (np.abs(out - image) > 40)].std() for out, mask in (crack(image, np.random.default_rng(s)) for s in range(20))]
    assert np.nanmedian(spread) < 40
    assert any(mask.mean() > 0.02 for _, mask in (contamination(image, np.random.default_rng(s)) for s in range(5)))


def test_a_sample_is_a_function_of_its_seed_and_shows_no_bad_section(folder: Path) -> None:
    lessons = windows.load(folder, LESSONS)
    assert lessons[0].licence == "CC0" and lessons[0].nm == 8
    one, two = (windows.sample(lessons, np.random.default_rng([1, 2])) for _ in range(2))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    assert one[0].shape == (3, windows.EDGE, windows.EDGE) and np.abs(one[0]).max() <= windows.MOST_GREY
    seen = {int(c) for s in range(40) for c in np.unique(windows.sample(lessons, np.random.default_rng([3, s]))[1])}
    assert seen == set(range(len(CLASSES)))
    marked = windows.load(folder, LESSONS)[0]
    assert marked.raw is not None
    marked.raw[3] = 255  # the bad one: a neighbour it may be, the section itself never
    assert all(windows.window(marked, np.random.default_rng(s))[1].min() < 255 for s in range(60))


def test_novel_counts_what_no_neighbour_has() -> None:
    sections = torch.zeros(1, 3, 64, 64)
    sections[0, 1, 20:24, 20:24] = 5
    assert novel(sections).max() == 5 and novel(sections)[0, 0].argmax() == 5 * 16 + 5
    sections[0, 2, 24:28, 20:24] = 5  # a neighbour has it, one cell further on
    assert novel(sections)[:, (0, 1, 4, 5)].max() <= 0


def test_training_exports_what_opencv_reads_alike(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "LESSONS", LESSONS)
    monkeypatch.setattr(windows.load, "__defaults__", (LESSONS,))
    monkeypatch.setattr(spotting, "BATCH", 2)
    for out in ("a", "b"):
        spotting.main(["--data", str(folder), "--out", str(tmp_path / out), "--steps", "2"])
    said = json.loads((tmp_path / "a" / "spotting.json").read_text())
    assert said["sha256"] == json.loads((tmp_path / "b" / "spotting.json").read_text())["sha256"], "the same seed"
    assert said["data"] == [{"name": "mine", "sections": "0-7", "licence": "CC0"}] and "CC0" in said["licence"]
    before = (tmp_path / "b" / "scout.onnx").read_bytes()
    (tmp_path / "b" / "scout.onnx").unlink()
    spotting.main(["--data", str(folder), "--out", str(tmp_path / "b"), "--steps", "2", "--only", "scout"])
    assert (tmp_path / "b" / "scout.onnx").read_bytes() == before, "alone as beside the other"
    assert json.loads((tmp_path / "b" / "spotting.json").read_text())["sha256"] == said["sha256"]
    torch.manual_seed(4)
    for network, example in ((Spotter(), torch.randn(1, 3, 96, 128)), (Scout(), hints(torch.randn(1, 3, 96, 128)))):
        square = torch.zeros(1, 3, 4 * SIDES, 4 * SIDES)
        path = tmp_path / "one.onnx"
        spotting.export(network, square if isinstance(network, Spotter) else hints(square), path)
        reader = cv2.dnn.readNetFromONNX(str(path))
        reader.setInput(example.numpy())
        with torch.inference_mode():
            expected = network.eval()(example) if isinstance(network, Scout) else network.eval().apart(example)
            assert np.allclose(reader.forward(), expected.numpy(), atol=1e-4), "of another size, too"


def test_what_was_exported_is_trained_on_from_where_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    some = torch.randn(4, 3, 96, 96)
    for made, seen in ((Spotter, some), (Scout, hints(some))):
        network, again, path = made(), made(), tmp_path / "one.onnx"
        network(2 * seen + 1)  # its norms have seen something
        spotting.export(network, seen[:1], path)
        read(again, path, seen)
        with torch.inference_mode():
            assert again.training and torch.allclose(again.eval()(seen), network.eval()(seen), atol=1e-4)
    monkeypatch.setattr(windows.load, "__defaults__", (LESSONS,))
    monkeypatch.setattr(spotting, "BATCH", 2)
    asked = ["--data", str(folder), "--steps", "1", "--only", "scout"]
    for out, more in (("a", []), ("b", ["--from", str(tmp_path / "a"), "--rate", "0"])):
        (tmp_path / out).mkdir()
        (tmp_path / out / "spotting.json").write_text('{"training": {}}')
        spotting.main([*asked, "--out", str(tmp_path / out), *more])
    first, second = (json.loads((tmp_path / out / "spotting.json").read_text()) for out in ("a", "b"))
    assert second["training"]["scout"]["from"] == {**first["training"]["scout"], "sha256": first["sha256"]["scout.onnx"]}


def test_windows_are_shown_again_as_they_were(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    batch = spotting.batch
    monkeypatch.setattr(spotting, "batch", lambda lessons, seed, step: drawn.append(step) or batch(lessons, seed, step))
    monkeypatch.setattr(spotting, "BATCH", 2)
    lessons = windows.load(folder, LESSONS)
    twice = spotting.train(lessons, 4, 1, fresh=2)
    assert drawn == [0, 1]
    monkeypatch.setattr(spotting, "batch", lambda lessons, seed, step: batch(lessons, seed, step % 2))
    for name, network in spotting.train(lessons, 4, 1).items():
        for one, other in zip(network.parameters(), twice[name].parameters(), strict=True):
            assert torch.equal(one, other), name


def test_sheaths_are_dark_in_all_three_sections_and_no_wound() -> None:
    for seed in range(8):
        sections = [s.astype(np.float32) for s in tissue()[:3, :192, :192]]
        out = windows.sheathed(sections, np.random.default_rng(seed))
        dark = [np.where(o != s, o, 255).min() < np.median(s) - 20 for o, s in zip(out, sections, strict=True)]
        assert all(dark), f"seed {seed}"
        covered = [np.abs(o - s) > 20 for o, s in zip(out, sections, strict=True)]
        assert (covered[0] & covered[1]).sum() > 0.2 * covered[1].sum(), "nearly where it is in the next"


def test_tissue_that_greys_are_spread_wider_around_is_weaker() -> None:
    sections = [s.astype(np.float32) for s in tissue()[:3, :192, :192]]
    assert np.allclose(2 * windows.standard(sections, 2.0), windows.standard(sections), atol=1e-4)
