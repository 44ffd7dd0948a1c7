"""Cases: what is hidden is hidden, the truth is the stack's, test sections are where they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model import data, scenes
from tests.model.phantoms import case, folder, volume


@pytest.mark.parametrize("gap", [1, 2, 3])
@pytest.mark.parametrize("first", [1, 2])
def test_missing_sections_are_hidden_and_nothing_else(gap: int, first: int) -> None:
    stack = volume(depth=8)
    c = scenes.without(stack, first, gap)
    assert c.targets == (min(first, 2), min(first, 2) + gap) and c.gap == gap
    low = c.origin[0]
    assert not c.known[slice(*c.targets)].any() and (c.sections[~c.known] == 0.5).all()
    whole = c.sections.copy()
    whole[slice(*c.targets)] = c.truth
    assert np.array_equal(whole, stack.raw[low : low + len(whole)])
    assert np.array_equal(c.pair[0], stack.raw[first - 1]) and np.array_equal(c.pair[1], stack.raw[first + gap])
    assert c.membranes is not None and c.labels is not None and c.beside is not None
    assert np.array_equal(c.labels == 0, c.membranes)
    assert c.places == pytest.approx([(j + 1) / (gap + 1) for j in range(gap)])


@pytest.mark.parametrize("kind", scenes.PARTIAL)
def test_partial_damage_hides_the_mask_and_keeps_the_rest(kind: str) -> None:
    whole = case()
    c = scenes.damaged(whole, kind, 5)
    z = c.targets[0]
    assert 0 < c.unknown.mean() < 1
    assert np.array_equal(c.sections[z][c.known[z]], c.truth[0][c.known[z]])
    assert (c.sections[z][~c.known[z]] == 0.5).all()
    assert np.array_equal(np.delete(c.sections, z, 0), np.delete(whole.sections, z, 0))
    assert np.array_equal(c.complete(c.truth), c.truth)
    assert np.array_equal(c.known, scenes.damaged(whole, kind, 5).known)
    assert not np.array_equal(c.known, scenes.damaged(whole, kind, 6).known)


def test_what_a_method_gets_holds_no_answer() -> None:
    c = case().withheld()
    assert np.isnan(c.truth).all() and c.membranes is None and c.labels is None and c.beside is None


def test_a_look_at_the_middle_is_a_cut_of_everything() -> None:
    c = case()
    cut = scenes.middle(c, 32)
    assert cut.origin == (c.origin[0], 16, 16)
    assert np.array_equal(cut.truth, c.truth[:, 16:48, 16:48]) and cut.sections.shape[1:] == cut.known.shape[1:] == (32, 32)
    assert cut.labels is not None and cut.beside is not None and cut.labels.shape[1:] == cut.beside.shape[1:] == (32, 32)
    assert len(scenes.limit([c, c, c], 2, 32)) == 2


@pytest.mark.parametrize("task", [*scenes.TASKS, "validation"])
def test_every_task_can_be_cut_from_a_data_folder(task: str, tmp_path: Path) -> None:
    cases = scenes.load(folder(tmp_path), task)
    assert cases and all(c.unknown.any() for c in cases)
    assert len({c.name for c in cases}) == len(cases)


def test_vnc_gaps_lie_in_the_test_sections(tmp_path: Path) -> None:
    here = folder(tmp_path)
    for gap in (1, 2, 3):
        cases = scenes.load(here, f"vnc{gap}")
        spans = [(c.origin[0] + c.targets[0], c.origin[0] + c.targets[1]) for c in cases]
        assert spans == [(z, z + gap) for z in range(14, 20 - gap)]


def test_validation_rows_are_those_that_training_leaves_out_and_no_test_section(tmp_path: Path) -> None:
    cases = scenes.load(folder(tmp_path), "validation")
    assert {c.origin[1] for c in cases} == {data.VALIDATION_ROWS[0]}
    assert all(c.truth.shape[1] == data.VALIDATION_ROWS[1] - data.VALIDATION_ROWS[0] for c in cases)
    assert max(c.origin[0] + c.targets[1] for c in cases) <= 14


def test_the_classifier_sees_no_validation_row_and_no_test_section(tmp_path: Path) -> None:
    images, _ = scenes.training_sections(folder(tmp_path))
    assert len(images) == 7 and images[0].shape[0] == data.VALIDATION_ROWS[0]


def test_fib_sections_are_four_slices_apart(tmp_path: Path) -> None:
    here = folder(tmp_path)
    raw = scenes.read(here, "fib25_val_z000_239").raw
    cases = scenes.load(here, "fib25")
    for c in cases:
        z = c.origin[0]
        assert np.array_equal(c.pair[0], raw[z - 4]) and np.array_equal(c.truth[0], raw[z]) and np.array_equal(c.pair[1], raw[z + 4])
        assert c.voxel_nm == (40, 10, 10) and c.membranes is None


def test_the_real_stacks_give_the_sections_that_the_tables_name(data_folder: Path) -> None:
    assert next(c.name for c in scenes.load(data_folder, "vnc2")) == "vnc_stack1 z 14-15"
    assert {c.truth.shape for c in scenes.load(data_folder, "fib25")} == {(1, 512, 512)}


def test_a_folder_without_the_stack_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no .*/manifest.json"):
        scenes.load(tmp_path, "vnc1")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="made for the stack vnc_stack1, which .* does not name"):
        scenes.load(tmp_path, "vnc1")


@pytest.mark.parametrize(
    ("shape", "task", "words"),
    [
        ((19, 64, 64), "vnc1", "vnc_stack1 of .* has 19 sections; the evaluation looks at 20 or more"),
        ((20, 64, 64), "validation", "vnc_stack1 has 64 rows; validation looks at rows 832 to 1023"),
        ((20, 64, 64), "pinky", "made for the stack pinky_sample2"),
    ],
)
def test_stacks_too_small_for_a_task_are_refused(tmp_path: Path, shape: tuple[int, int, int], task: str, words: str) -> None:
    np.savez(tmp_path / "v.npz", raw=np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8))
    (tmp_path / "manifest.json").write_text('{"vnc_stack1": {"file": "v.npz", "voxel_zyx_nm": [47.5, 4.6, 4.6]}}')
    with pytest.raises(ValueError, match=words):
        scenes.load(tmp_path, task)
