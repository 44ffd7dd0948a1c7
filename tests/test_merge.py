"""Merge: against a slow oracle, and whatever happens the source stays as it was."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import foundation
from pipeline.box import ZYX, Box
from pipeline.errors import MissingChunkError, VolumeError
from pipeline.foundation import create_output
from pipeline.journal import read_merge, source_manifest
from pipeline.merge import Merged, merge
from pipeline.pyramid import RANKS, labels_of, mean_under, rank_under
from pipeline.store import open_labels, open_merged, open_overlay, overlay_grain, read_attrs, update_attrs
from pipeline.volume import Volume
from tests.stores import KINDS, Kind, Voxels, kind, noise, serve, write_volume

SHAPE = (12, 34, 30)
STEPS = ((1, 2, 2), (2, 2, 2))
CHUNK = 16
some_kinds = pytest.mark.parametrize(
    "layout", [kind(n) for n in ("v2", "ome04", "ome05-sharded-u2")], ids=lambda k: k.name
)


def shrunk(shape: ZYX, step: ZYX) -> ZYX:
    z, y, x = (n // s for n, s in zip(shape, step, strict=True))  # as most pyramids are made: the odd voxel is dropped
    return z, y, x


@dataclass
class Scene:
    """A source, its output, and what was put into the overlay."""

    folder: Path
    layout: Kind
    levels: list[Voxels]
    made: Voxels
    labels: Voxels

    @property
    def out(self) -> str:
        return str(self.folder / "out.zarr")

    @property
    def source(self) -> Volume:
        return Volume.open(self.folder / "source")

    def create(self, mode: Any = "volume") -> None:
        """Make the output, or bring it up to the source."""
        create_output(self.out, self.source, mode=mode, chunk_yx=CHUNK, shard_yx=2 * CHUNK, extra={"mode": mode})

    def restore(self, box: Box, labels: Voxels, seed: int = 7) -> None:
        """Put restored sections into the overlay and the labels, as slabs do: whole chunks that hold labels."""
        here = box.within(Box.of(self.labels.shape))
        self.labels[here] = labels
        self.made[here] = noise(box.shape, self.levels[0].dtype.name, seed)
        overlay, marks = open_overlay(self.out), open_labels(self.out)
        for cell in box.cells(overlay.grain):
            whole = cell & Box.of(overlay.shape)
            part = whole.within(Box.of(overlay.shape))
            overlay.write(whole, self.made[part])
            marks.write(whole, self.labels[part])

    def forget(self, z: int) -> None:
        """Take one section's restoration back."""
        box = Box.of(self.labels.shape).with_z(z, z + 1)
        open_overlay(self.out).erase(box)
        open_labels(self.out).erase(box)
        self.labels[z] = 0

    def check(self, **how: Any) -> Merged:
        """Merge, and compare every level of image and labels with the oracle."""
        done = merge(self.source, self.out, **how)
        expected = oracle(self.levels, self.made, self.labels, STEPS)
        for i, (image, labels) in enumerate(expected):
            got = Volume.open(self.out, level=i)
            np.testing.assert_array_equal(got.read(Box.of(got.shape)), image, f"level {i}")
            np.testing.assert_array_equal(open_labels(self.out, i).read(Box.of(got.shape)), labels, f"labels {i}")
        return done


def oracle(levels: list[Voxels], made: Voxels, labels: Voxels, steps: Any) -> list[tuple[Voxels, Voxels]]:
    """The merge in its definition's own words, one voxel at a time."""
    found = [(np.where(np.isin(labels, (1, 2, 3, 5)), made, levels[0]), labels)]
    for source, step in zip(levels[1:], steps, strict=False):
        fine, marks = found[-1]
        image, coarse = source.copy(), np.zeros(source.shape, np.uint8)
        for at in product(*map(range, source.shape)):
            footprint = tuple(slice(i * s, i * s + s) for i, s in zip(at, step, strict=True))
            under = set(marks[footprint].ravel().tolist())
            coarse[at] = next((v for v in (5, 1, 2, 3, 4) if v in under), 0)
            if under & {1, 2, 3, 5}:
                total, count = int(fine[footprint].sum(dtype=np.int64)), fine[footprint].size
                image[at] = math.floor(Fraction(total, count) + Fraction(1, 2))
        found.append((image, coarse))
    return found


def scene(folder: Path, layout: Kind, *, mode: Any = "volume", shape: ZYX = SHAPE, chunks: ZYX = (4, 16, 16)) -> Scene:
    """A volume of noise (OME kinds: three levels, unrelated noise, so that kept voxels show) and its empty output."""
    shapes = [shape, shrunk(shape, STEPS[0]), shrunk(shrunk(shape, STEPS[0]), STEPS[1])][: 3 if layout.ome else 1]
    levels = [noise(s, layout.dtype, seed=i) for i, s in enumerate(shapes)]
    shards = (chunks[0] * 2, chunks[1] * 2, chunks[2] * 2)
    write_volume(folder / "source", layout, levels, steps=STEPS, chunks=chunks, shards=shards)
    made = Scene(folder, layout, levels, np.zeros(shape, levels[0].dtype), np.zeros(shape, np.uint8))
    made.create(mode)
    return made


def flagged(made: Scene) -> Scene:
    """A whole section, a repaired region with its feather and some uncertain voxels, and a section that was left."""
    whole = Box.of(made.labels.shape)
    made.restore(whole.with_z(3, 4), np.ones(whole.with_z(3, 4).shape, np.uint8))
    patch = np.zeros(whole.with_z(6, 7).shape, np.uint8)
    patch[0, 5:12, 20:31] = 3
    patch[0, 6:11, 21:30] = 2
    patch[0, 8:10, 24:27] = 5
    made.restore(whole.with_z(6, 7), patch)
    left = np.zeros(patch.shape, np.uint8)
    left[0, 17:, :] = 4
    made.restore(whole.with_z(9, 10), left)
    return made


def state(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file below a folder: content and time."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {
        str(p.relative_to(folder)): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files
    }


def contents(out: str) -> dict[str, str]:
    """Every file of an output but the journal, which holds times."""
    return {name: digest for name, (digest, _) in state(Path(out)).items() if name != "zmend/merge.json"}


# --- what comes out


@pytest.mark.parametrize("layout", KINDS, ids=lambda k: k.name)
def test_the_overlay_where_labelled_the_source_elsewhere(layout: Kind, tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, layout))
    told: list[tuple[int, int]] = []
    done = made.check(progress=lambda n, of: told.append((n, of)))
    assert done.voxels_changed == np.isin(made.labels, (1, 2, 3, 5)).sum()
    assert done.levels == len(made.levels) and done.chunks_rewritten > 0 and done.chunks_copied == 0
    assert told[-1][0] == told[-1][1] >= done.chunks_rewritten and told == sorted(told)


def test_z_never_shifts(tmp_path: Path) -> None:
    made = scene(tmp_path, kind("ome05"))
    sections = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None], SHAPE)
    Volume.open(tmp_path / "source", writable=True).write(Box.of(SHAPE), np.ascontiguousarray(sections))
    for z in (0, 5, 11):
        here = Box.of(SHAPE).with_z(z, z + 1)
        open_overlay(made.out).write(here, np.full(here.shape, 100 + z, np.uint8))
        open_labels(made.out).write(here, np.ones(here.shape, np.uint8))
    merge(made.source, made.out)
    for i, theirs in enumerate(made.source.pyramid()):
        assert Volume.open(made.out, level=i).shape == open_labels(made.out, i).shape == theirs.shape
    got = open_merged(made.out).read(Box.of(SHAPE))
    for z in range(12):
        assert set(got[z].ravel()) == {100 + z if z in (0, 5, 11) else z}


def test_chunks_64_deep(tmp_path: Path) -> None:
    made = scene(tmp_path, kind("v3"), shape=(70, 24, 20), chunks=(64, 16, 16))
    box = Box((65, 0, 0), (66, 24, 20))
    made.restore(box, np.ones(box.shape, np.uint8))
    assert made.check().chunks_rewritten == 4
    made.restore(box.with_z(2, 3), np.ones(box.shape, np.uint8))
    assert made.check().chunks_rewritten == 4, "those of the second chunk in depth are up to date"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_reductions_against_the_oracle(data: st.DataObject) -> None:
    step = tuple(data.draw(st.integers(1, 4)) for _ in range(3))
    fine = tuple(data.draw(st.integers(1, 9)) for _ in range(3))
    seed, dtype = data.draw(st.integers(0, 9)), data.draw(st.sampled_from(["uint8", "uint16"]))
    voxels, made = noise(fine, dtype, seed), noise(fine, dtype, seed + 1)
    labels = np.random.default_rng(seed).choice(np.array([0, 0, 0, 1, 2, 3, 4, 5], np.uint8), fine)
    coarse = tuple(-(-n // s) for n, s in zip(fine, step, strict=True))
    image, marks = oracle([voxels, np.zeros(coarse, dtype)], made, labels, [step])[1]
    merged = np.where(np.isin(labels, (1, 2, 3, 5)), made, voxels)
    ranks = rank_under(labels, Box.of(fine), step)
    np.testing.assert_array_equal(labels_of(ranks), marks)
    np.testing.assert_array_equal(np.where(ranks < RANKS, mean_under(merged, step), 0), image)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in fine)
    part = Box(start, tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, fine, strict=True)))
    alone = np.zeros(fine, np.uint8)
    alone[part.within(Box.of(fine))] = labels[part.within(Box.of(fine))]
    whole = rank_under(alone, Box.of(fine), step)
    over = tuple(slice(a // s, -(-b // s)) for a, b, s in zip(part.start, part.stop, step, strict=True))
    np.testing.assert_array_equal(rank_under(labels[part.within(Box.of(fine))], part, step), whole[over])


def test_an_odd_voxel_that_the_pyramid_drops_touches_nothing(tmp_path: Path) -> None:
    made = scene(tmp_path, kind("ome05"), shape=(5, 11, 15))
    edge = np.zeros((1, 11, 15), np.uint8)
    edge[:, 10, :] = edge[:, :, 14] = 1
    made.restore(Box((4, 0, 0), (5, 11, 15)), edge)
    made.check()


# --- what is not rewritten


@some_kinds
def test_only_touched_chunks_are_rewritten_and_once(layout: Kind, tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, layout))
    first = made.check()
    source, out = made.source, Volume.open(made.out)
    before = {cell: (Path(out.files.uri) / s.key).stat() for cell, s in out.objects()}
    theirs = {cell: (Path(source.files.uri) / s.key).stat().st_ino for cell, s in source.objects()}
    changed = np.isin(made.labels, (1, 2, 3, 5))
    for cell, stat in before.items():
        assert (stat.st_ino == theirs[cell]) != changed[out.box(cell).within(Box.of(SHAPE))].any()
    again = made.check()
    assert (again.chunks_rewritten, again.chunks_linked, again.chunks_copied, again.bytes_written) == (0, 0, 0, 0)
    assert before == {cell: (Path(out.files.uri) / s.key).stat() for cell, s in out.objects()}
    volumes = [*(Volume.open(made.out, level=i) for i in range(first.levels))]
    labels = [open_labels(made.out, i) for i in range(1, first.levels)]
    touched = sum(
        s.size for v in volumes for _, s in v.objects() if (Path(v.files.uri) / s.key).stat().st_nlink == 1
    ) + sum(s.size for v in labels for _, s in v.objects())
    assert first.bytes_written == touched


@some_kinds
def test_what_changes_in_the_overlay_changes_alone(layout: Kind, tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, layout))
    first = made.check()
    made.forget(3)
    back = made.check()
    assert back.chunks_linked > 0 and back.chunks_rewritten <= first.chunks_rewritten, "reverted chunks are links again"
    assert made.check().chunks_rewritten == 0
    made.restore(Box.of(SHAPE).with_z(6, 7), made.labels[6:7].copy(), seed=99)
    assert 0 < made.check().chunks_rewritten < first.chunks_rewritten
    made.forget(6)
    made.forget(9)
    assert made.check().chunks_rewritten == 0
    out, source = Volume.open(made.out), made.source
    assert [s for _, s in out.objects()] == [s for _, s in source.objects()], "all reverted: all links"
    assert not any(list(open_labels(made.out, i).present()) for i in range(len(made.levels)))


@pytest.mark.parametrize("clone", ["auto", "link", "copy"])
@some_kinds
def test_source_is_never_written(layout: Kind, clone: Any, tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, layout))
    before = state(tmp_path / "source")
    made.check(clone=clone)
    made.restore(Box.of(SHAPE).with_z(0, 2), np.ones((2, *SHAPE[1:]), np.uint8))  # over chunks that are links by now
    made.check(clone=clone)
    made.forget(3)
    made.check(clone=clone)
    assert state(tmp_path / "source") == before


def test_copies_keep_the_time_and_are_made_once(tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, kind("ome05")))
    done = made.check(clone="copy")
    assert done.chunks_copied > 0 and done.chunks_linked == 0
    assert made.check(clone="copy").chunks_copied == 0
    assert made.check(clone="auto").chunks_linked == 0, "what is there and the same stays"
    assert all(p.stat().st_nlink == 1 for p in Path(made.out).rglob("*") if p.is_file())


def test_without_links_auto_copies_and_link_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = flagged(scene(tmp_path, kind("v3")))

    def refuse(*args: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(VolumeError, match=r"cannot be hard-linked[\s\S]*clone: auto or copy"):
        merge(made.source, made.out, clone="link")
    assert made.check(clone="auto").chunks_copied > 0


def test_symlinked_chunks_are_followed(tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, kind("v2")))
    for file in [p for p in (tmp_path / "source").rglob("*") if p.is_file() and not p.name.startswith(".")]:
        real = tmp_path / "annex" / hashlib.sha256(str(file).encode()).hexdigest()
        real.parent.mkdir(exist_ok=True)
        file.rename(real)
        file.symlink_to(os.path.relpath(real, file.parent))
    made.check()
    assert not any(p.is_symlink() for p in Path(made.out).rglob("*"))
    assert made.check().chunks_linked == 0


@some_kinds
def test_absent_chunks_stay_absent_unless_touched(layout: Kind, tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, layout))
    made.check()
    source = Volume.open(tmp_path / "source", writable=True)
    z = source.grain[0]
    for box in (source.box((0, 0, 0)), source.box((8 // z, 0, 0))):  # touched, and (unless sharded) not
        source.erase(box)
        made.levels[0][box.within(Box.of(SHAPE))] = 0
    made.check()
    out = Volume.open(made.out)
    touched = [
        (c & Box.of(SHAPE), bool((made.labels[(c & Box.of(SHAPE)).within(Box.of(SHAPE))] % 4).any()))
        for b in map(source.box, [(0, 0, 0), (8 // z, 0, 0)])
        for c in b.cells(source.chunks)
    ]
    for chunk, written in touched:  # of a shard those inner chunks alone that hold a restored voxel
        assert bool(out.absent(chunk)) != written
    assert touched[0][1]


# --- killed, grown, changed


@some_kinds
def test_a_merge_that_is_killed_anywhere_ends_with_the_same_bytes(
    layout: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = flagged(scene(tmp_path, layout))
    made.check()
    want = contents(made.out)
    source_before = state(tmp_path / "source")

    class Killed(BaseException):
        pass

    left = [0]
    lay, graft, replace = Volume.lay, Volume.graft, Path.replace

    def dying(act: Any) -> Any:
        def maybe(*args: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return act(*args)

        return maybe

    for budget in (0, 3, 12):
        fresh = Scene(tmp_path / str(budget), layout, made.levels, made.made, made.labels)
        fresh.folder.mkdir()
        (fresh.folder / "source").symlink_to(tmp_path / "source")
        fresh.create()
        for z in (3, 6, 9):
            fresh.restore(Box.of(SHAPE).with_z(z, z + 1), made.labels[z : z + 1].copy())
        with monkeypatch.context() as patch:
            patch.setattr(Volume, "lay", dying(lay))
            patch.setattr(Volume, "graft", dying(graft))
            patch.setattr(Path, "replace", dying(replace))
            left[0] = budget
            with pytest.raises(Killed):
                merge(fresh.source, fresh.out)
        orphan = Path(fresh.out) / "0" / "x.partial"
        orphan.write_bytes(b"half")
        assert read_merge(fresh.out) is None, "it does not claim to be merged"
        fresh.check()
        got = contents(fresh.out)
        attributes = {"zarr.json", ".zattrs"}  # they name the source, which here goes by another path
        assert {k: v for k, v in got.items() if k not in attributes} == {
            k: v for k, v in want.items() if k not in attributes
        }
    assert state(tmp_path / "source") == source_before


CHILD = """
import sys
from pipeline.merge import merge
from pipeline.volume import Volume
merge(Volume.open(sys.argv[1]), sys.argv[2], threads=2, progress=lambda done, of: print(done, flush=True))
"""


def test_sigkill_and_again(tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, kind("ome05")))
    for line in (1, 4):
        command = [sys.executable, "-c", CHILD, str(tmp_path / "source"), made.out]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as child:
            assert child.stdout is not None
            for _ in range(line):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
        assert read_merge(made.out) is None
    made.check()
    killed = contents(made.out)
    for file in [p for p in Path(made.out).rglob("*") if p.is_file() and p.parent.name != "zmend"]:
        if file.name not in ("zarr.json",) and "labels/synthetic/0" not in str(file) and "overlay" not in str(file):
            file.unlink()
    (Path(made.out) / "zmend" / "merge.json").unlink()
    made.check()
    assert contents(made.out) == killed


@some_kinds
def test_a_source_that_has_grown(layout: Kind, tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, layout))
    made.check()
    grown = scene(tmp_path / "later", layout, shape=(20, *SHAPE[1:]))
    (tmp_path / "source").rename(tmp_path / "old")
    (tmp_path / "later" / "source").rename(tmp_path / "source")
    made.create()
    more = np.zeros((8, *SHAPE[1:]), np.uint8)
    made.levels, made.labels = grown.levels, np.concatenate([made.labels, more])
    made.made = np.concatenate([made.made, more.astype(made.made.dtype)])
    last = Box.of(made.labels.shape).with_z(19, 20)
    made.restore(last, np.ones(last.shape, np.uint8))
    made.check()
    assert made.check().chunks_rewritten == 0
    (tmp_path / "source").rename(tmp_path / "grown")
    (tmp_path / "old").rename(tmp_path / "source")
    with pytest.raises(VolumeError, match="it had 20"):
        merge(made.source, made.out)


def test_the_manifest_tells_that_the_source_changed(tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, kind("v3")))
    assert read_merge(made.out) is None
    made.check()
    noted = read_merge(made.out)
    assert noted is not None and noted["source_manifest"] == source_manifest(made.source)
    linked = next(p for p in (Path(made.out) / "0" / "c").rglob("*") if p.is_file() and p.stat().st_nlink == 2)
    with linked.open("r+b") as file:  # what some writers do to a hard link
        file.write(b"\0")
    assert noted["source_manifest"] != source_manifest(made.source)


def test_labels_without_their_overlay_stop_the_merge_before_any_chunk(tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, kind("ome05")))
    overlay = open_overlay(made.out)
    overlay.erase(overlay.box((3, 0, 0)))
    before = state(Path(made.out))
    with pytest.raises(MissingChunkError, match=r"labels tell of restored voxels in \[3:4"):
        merge(made.source, made.out)
    assert state(Path(made.out)) == before


def test_levels_that_are_no_whole_multiples_are_refused(tmp_path: Path) -> None:
    levels = [noise((8, 40, 40)), noise((8, 27, 27))]
    write_volume(tmp_path / "source", kind("ome05"), levels, steps=[(1, 1, 1)])
    source = Volume.open(tmp_path / "source")
    create_output(str(tmp_path / "o"), source, mode="overlay", chunk_yx=16, shard_yx=None, extra={})
    with pytest.raises(VolumeError, match="level 1 is not level 0 by whole factors"):
        merge(source, str(tmp_path / "o"))


# --- remote sources


@pytest.mark.parametrize("layout", [kind("ome04"), kind("v3")], ids=lambda k: k.name)
def test_a_source_on_the_web_is_copied(layout: Kind, tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, layout))
    made.source.pyramid()
    with serve(tmp_path) as address:
        remote, out = Volume.open(f"{address}/source"), str(tmp_path / "remote.zarr")
        create_output(out, remote, mode="volume", chunk_yx=CHUNK, shard_yx=2 * CHUNK, extra={})
        other = Scene(tmp_path, layout, made.levels, made.made.copy(), made.labels.copy())
        for z in (3, 6, 9):
            for path in ("zmend/overlay", "labels/synthetic/0"):
                theirs, ours = (Volume.open(f"{o}/{path}", writable=True) for o in (made.out, out))
                box = Box.of(SHAPE).with_z(z, z + 1)
                ours.write(box, theirs.read(box))
        done = merge(remote, out)
        assert done.chunks_copied > 0 and done.chunks_linked == 0
        assert merge(remote, out).chunks_copied == 0
        merged = oracle(other.levels, other.made, other.labels, STEPS)
        for i, (image, _) in enumerate(merged):
            got = Volume.open(out, level=i)
            np.testing.assert_array_equal(got.read(Box.of(got.shape)), image)


def test_a_source_in_memory_is_copied(tmp_path: Path) -> None:
    made = scene(tmp_path, kind("ome05"))
    fsspec.filesystem("memory").put(str(tmp_path / "source"), "/merge-source", recursive=True)
    remote, out = Volume.open("memory://merge-source"), str(tmp_path / "remote.zarr")
    create_output(out, remote, mode="volume", chunk_yx=CHUNK, shard_yx=None, extra={})
    assert merge(remote, out).chunks_copied > 0
    assert merge(remote, out).chunks_copied == 0
    np.testing.assert_array_equal(open_merged(out).read(Box.of(SHAPE)), made.levels[0])


# --- the store itself


def test_an_overlay_store_is_merged_later(tmp_path: Path) -> None:
    made = flagged(scene(tmp_path, kind("ome05"), mode="overlay"))
    with pytest.raises(VolumeError, match="no merged volume"):
        open_merged(made.out)
    made.check()
    made.create("overlay")
    made.check()


def test_attributes_are_replaced_whole(tmp_path: Path) -> None:
    for name in ("ome04", "ome05"):
        made = scene(tmp_path / name, kind(name))
        before = read_attrs(made.out)
        update_attrs(made.out, zmend={"head": "abc"})
        assert read_attrs(made.out) == before | {"zmend": before["zmend"] | {"head": "abc"}}
        made.create()
        assert read_attrs(made.out)["zmend"]["head"] == "abc" and read_attrs(made.out)["zmend"]["schema"]
    assert overlay_grain(made.out) == (1, 32, 32) and overlay_grain(str(tmp_path / "none")) is None
    with pytest.raises(VolumeError, match="no zmend store here"):
        read_attrs(str(tmp_path / "none"))


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    made = scene(tmp_path, kind("ome05"))
    other = write_volume(tmp_path / "other", kind("ome05"), made.levels, steps=STEPS, chunks=(4, 16, 16))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")

    def create(out: Any, source: Volume = made.source, **more: Any) -> None:
        create_output(str(out), source, **{"mode": "volume", "chunk_yx": 16, "shard_yx": 32, "extra": {}, **more})

    for act, words in (
        (lambda: create("memory://out"), "outputs go to a folder or to an S3 bucket"),
        (lambda: create(tmp_path / "source" / "out"), "the output lies in the source"),
        (lambda: create(tmp_path / "source"), "the output lies in the source"),
        (lambda: create(tmp_path), "the output lies in the source"),
        (lambda: create(tmp_path / "source" / "o", Volume.open(tmp_path / "source" / "s1")), "the output lies in"),
        (lambda: create(tmp_path / "notes"), "no zmend store is there already"),
        (lambda: create(made.out, Volume.open(other)), "belongs to another source: uri differ"),
        (lambda: create(made.out, Volume.open(tmp_path / "source", level=1)), "belongs to another source: level"),
        (lambda: create(made.out, Volume.open(tmp_path / "source", voxel_nm=(1, 2, 3))), "voxel size differ"),
        (lambda: create(made.out, chunk_yx=32), "asked for"),
        (lambda: create(tmp_path / "new", shard_yx=40), r"not whole chunks of 16 px[\s\S]*make them 48 px"),
        (lambda: merge(made.source, str(tmp_path / "notes")), "no zmend store is there already"),
    ):
        with pytest.raises(VolumeError, match=words):
            act()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "other", "out.zarr", "source"]


def test_a_store_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scene(tmp_path, kind("v3"))
    with monkeypatch.context() as patch:
        patch.setattr(foundation, "_put_arrays", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            create_output(str(tmp_path / "new"), made.source, mode="volume", chunk_yx=16, shard_yx=None, extra={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.zarr", "source"]
    with ThreadPoolExecutor(6) as pool:  # who loses the race checks the winner's store
        how: Any = {"mode": "volume", "chunk_yx": 16, "shard_yx": None, "extra": {}}
        every = [pool.submit(create_output, str(tmp_path / "new"), made.source, **how) for _ in range(6)]
        assert [f.result() for f in every] == [None] * 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "out.zarr", "source"]
