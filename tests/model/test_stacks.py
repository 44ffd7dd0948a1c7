"""A folder of stacks that somebody made by hand: every mistake is said in words, with its place and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import data
from model.stacks import StackError, read, read_manifest

GREY = np.random.default_rng(0).integers(0, 255, (8, 40, 40)).astype(np.uint8)
ENTRY: dict[str, Any] = {"file": "mine.npz", "voxel_zyx_nm": [45, 4.6, 4.6]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "mine.npz", raw=GREY)
    (tmp_path / "manifest.json").write_text(json.dumps({"mine": ENTRY}))
    return tmp_path


def test_a_good_folder_is_read(folder: Path) -> None:
    (stack,) = data.load(folder)
    assert np.array_equal(stack.raw, GREY) and stack.voxel_nm == (45, 4.6, 4.6) and stack.licence == "not stated"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "manifest.json is not JSON .*; it should look like"),
        ("[]", "must hold one object a stack, like"),
        ('{"mine": "mine.npz"}', "must hold one object a stack, like"),
        ('{"mine": {"file": "mine.npz"}}', "stack 'mine': says no voxel_zyx_nm; it should look like"),
        ('{"mine": {}}', "stack 'mine': says no file and no voxel_zyx_nm"),
        ('{"mine": {"file": "a", "voxel_zyx_nm": [45, 4.6]}}', r"voxel_zyx_nm \[45, 4.6\] must be three sizes in nm"),
        ('{"mine": {"file": "a", "voxel_zyx_nm": [45, 0, 4.6]}}', "must be three sizes in nm, z y x, above 0"),
        ('{"mine": {"file": "a", "voxel_zyx_nm": [NaN, 4.6, 4.6]}}', "must be three sizes in nm, z y x, above 0"),
        ('{"mine": {"file": "a", "voxel_zyx_nm": [45, 4, 4], "sections": [9, 3]}}', r"sections \[9, 3\] must be \[first, last \+ 1\]"),
        ("{}", "names no stack to train on: give each an entry"),
    ],
)
def test_a_manifest_is_refused_in_words(folder: Path, text: str, words: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(StackError, match=words):
        data.load(folder)


def saved(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)


def objects(path: Path) -> None:
    np.savez(path, raw=np.array([{"code": 1}], object), allow_pickle=True)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def flipped(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(whole)


def single(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, GREY)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "stack 'mine' lies in .*mine.npz, where there is no file"),
        (cut, "mine.npz cannot be read .*: it is damaged or no npz; copy or save it again"),
        (flipped, "mine.npz cannot be read .*CRC.*: it is damaged"),
        (lambda path: path.write_bytes(b"GIF89a"), "mine.npz cannot be read .*: it is damaged or no npz"),
        (objects, "mine.npz cannot be read .*allow_pickle.*: it is damaged or no npz"),
        (single, "mine.npz is not a stack: it is a single array, not an npz; save it with"),
        (saved(volume=GREY), r"it has no array 'raw' but \['volume'\]; save it with"),
        (saved(raw=np.full(GREY.shape, np.nan, np.float32)), r"raw is float32 \(8, 40, 40\), not uint8 .*NaN cannot be learnt from"),
        (saved(raw=GREY[0]), r"raw is uint8 \(40, 40\), not uint8 \(z, y, x\)"),
        (saved(raw=GREY[:0]), r"raw is uint8 \(0, 40, 40\)"),
        (saved(raw=np.full_like(GREY, 7)), "every voxel of raw is 7; there is nothing to learn in it"),
        (saved(raw=GREY, membranes=GREY[:3] > 9), r"membranes \(3, 40, 40\) are not of raw's shape"),
        (saved(raw=GREY[:6]), "stack 'mine' of .* has 6 sections to learn from, and training cuts windows of up to 7"),
    ],
)  # fmt: skip
def test_a_stack_is_refused_in_words(folder: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(folder / "mine.npz")
    with pytest.raises(StackError, match=words):
        data.load(folder)


def test_cubes_are_cut_along_every_axis_and_must_be_deep_enough_for_it(folder: Path) -> None:
    entry = {**ENTRY, "voxel_zyx_nm": [8, 8, 8]}
    (folder / "manifest.json").write_text(json.dumps({"mine": entry}))
    with pytest.raises(StackError, match="has 8 slices to learn from, and training cuts windows of up to 25"):
        data.load(folder)
    np.savez(folder / "mine.npz", raw=np.random.default_rng(0).integers(0, 255, (25, 60, 60)).astype(np.uint8))
    (stack,) = data.load(folder)
    assert stack.narrowest == 25, "every axis may lie in the plane"
    for step in range(40):
        data.batch([stack], seed=0, step=step, size=2, crop=24)


def test_the_manifest_of_the_real_stacks_is_good(data_folder: Path) -> None:
    for name, entry in read_manifest(data_folder).items():
        if name in ("vnc_stack1", "pinky_sample2", "isbi2012_test"):
            assert read(data_folder, name, entry)["raw"].ndim == 3
