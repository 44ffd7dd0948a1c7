"""The shelf: slabs that share chunks of the source read them once, and nobody gets other voxels than without it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import numpy as np
import pytest

from pipeline.box import ZYX, Box
from pipeline.errors import VolumeError
from pipeline.flags import Flag, Flags
from pipeline.job import propose
from pipeline.lattice import Geometry
from pipeline.plan import cut
from pipeline.restorer import Needs
from pipeline.run import run
from pipeline.shelf import Shelf
from pipeline.slabs import Slab, Slabs
from pipeline.volume import Volume
from pipeline.walk import walk
from tests.jobs import Job, build, voxel_digest

SHAPE = (20, 300, 340)
NEEDS = Needs("x", "0", context=1, max_gap=3, tile=32, halo=16)
LAYOUTS: dict[str, tuple[ZYX, ZYX | None]] = {
    "1 deep": ((1, 64, 64), None),
    "8 deep": ((8, 64, 64), None),
    "wider than a slab": ((1, 128, 256), None),
    "shards": ((1, 32, 32), (8, 128, 128)),
}


def volume(folder: Path, layout: str) -> Volume:
    chunks, shards = LAYOUTS[layout]
    made = Volume.create(folder / "v.zarr", shape=SHAPE, dtype=np.uint8, chunks=chunks, shards=shards)
    made.write(Box.of(SHAPE), np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8))
    return Volume.open(folder / "v.zarr")


def pieces(*sections: int, edge: int = 96) -> list[tuple[Box, Box]]:
    """Read box and own box of every slab where these sections are flagged."""
    flags = Flags.of([Flag(Box.of(SHAPE).with_z(z, z + 1), "missing", whole=True) for z in sections])
    geometry = Geometry(SHAPE, (8, edge, edge), NEEDS)
    return [(p.read, geometry.own_box(p.write)) for p in cut(flags, geometry)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slabs_read_every_chunk_once_and_the_same_voxels(tmp_path: Path, layout: str) -> None:
    plain, shared = volume(tmp_path, layout), Volume.open(tmp_path / "v.zarr")
    shelf, slabs, once = Shelf(shared, 1 << 30), pieces(5), Volume.open(tmp_path / "v.zarr")
    for box, own in slabs:
        np.testing.assert_array_equal(shelf.read(box, own), plain.read(box))
    once.read(Box((4, 0, 0), (7, *SHAPE[1:])))
    index = (64 * 16 + 4) * 9 * len(slabs) if layout == "shards" else 0  # which every read looks at, of each shard
    assert shared.bytes_read <= once.bytes_read + index
    assert plain.bytes_read > 1.5 * shared.bytes_read, "else there would have been nothing to share"


def test_sections_that_lie_in_the_same_chunks_are_read_together(tmp_path: Path) -> None:
    plain, shared = volume(tmp_path, "8 deep"), Volume.open(tmp_path / "v.zarr")
    shelf, wanted = Shelf(shared, 1 << 30), {8, 9, 10, 13, 14, 15}
    for box, own in sorted(pieces(9, 14), key=lambda p: p[0].start[1:]):
        np.testing.assert_array_equal(shelf.read(box, own, wanted), plain.read(box))
    once = Volume.open(tmp_path / "v.zarr")
    once.read(Box((8, 0, 0), (16, *SHAPE[1:])))
    assert shared.bytes_read == once.bytes_read


def test_sections_that_see_the_same_one_read_it_once(tmp_path: Path) -> None:
    plain, shared = volume(tmp_path, "1 deep"), Volume.open(tmp_path / "v.zarr")
    shelf, once = Shelf(shared, 1 << 30), Volume.open(tmp_path / "v.zarr")
    for box, own in sorted(pieces(9, 11), key=lambda p: p[0].start[1:]):
        np.testing.assert_array_equal(shelf.read(box, own, {10, 11, 12} if box.start[0] == 8 else {8, 9, 10}), plain.read(box))
    once.read(Box((8, 0, 0), (13, *SHAPE[1:])))
    assert shared.bytes_read == once.bytes_read


def test_a_hint_that_says_too_little_costs_reading_and_no_voxel(tmp_path: Path) -> None:
    plain = volume(tmp_path, "8 deep")
    shelf = Shelf(Volume.open(tmp_path / "v.zarr"), 1 << 30)
    everything = Box.of(SHAPE)
    for box in (Box((9, 10, 10), (12, 200, 200)), Box((10, 0, 50), (16, 300, 300)), Box((3, 90, 0), (11, 91, 340))):
        for own in (Box((0, 0, 0), (1, 0, 0)), everything, Box((0, 64, 64), (1, 128, 256))):
            np.testing.assert_array_equal(shelf.read(box, own, {9}), plain.read(box))


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    plain = volume(tmp_path, "1 deep")
    shelf = Shelf(Volume.open(tmp_path / "v.zarr"), 100_000)
    most = 0
    for box, own in pieces(5):
        np.testing.assert_array_equal(shelf.read(box, own), plain.read(box))
        most = max(most, shelf.held)
    assert 50_000 < most <= 100_000
    assert shelf.held == sum(kept.voxels.nbytes for kept in shelf._kept.values())
    none = Shelf(Volume.open(tmp_path / "v.zarr"), 0)
    none.read(*pieces(5)[0])
    assert not none.held


class Slow(Volume):
    """A volume whose first reads begin together."""

    barrier: Barrier

    def read(self, box: Box) -> np.ndarray:
        with suppress(BrokenBarrierError):  # there was one for the first two
            self.barrier.wait(10)
        return super().read(box)


def test_two_threads_that_want_the_same_chunk_read_it_once(tmp_path: Path) -> None:
    plain = volume(tmp_path, "1 deep")
    slow = Slow(str(tmp_path / "v.zarr"), 0, None, False, False)
    slow.barrier = Barrier(2)
    shelf, nobody = Shelf(slow, 1 << 30), Box((0, 0, 0), (1, 0, 0))
    boxes = [Box((5, 0, 0), (6, 100, 340)), Box((5, 40, 0), (6, 250, 340))]  # the second row of chunks is both's

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda box: shelf.read(box, nobody), boxes))
    for box, voxels in zip(boxes, found, strict=True):
        np.testing.assert_array_equal(voxels, plain.read(box))
    once = Volume.open(tmp_path / "v.zarr")
    once.read(Box((5, 0, 0), (6, 250, 340)))
    assert slow.bytes_read == once.bytes_read


def test_who_waits_for_a_read_that_fails_reads_itself(tmp_path: Path) -> None:
    plain, nobody = volume(tmp_path, "1 deep"), Box((0, 0, 0), (1, 0, 0))
    (tmp_path / "v.zarr/c/5/0/0").write_bytes(b"rot")
    shelf = Shelf(Volume.open(tmp_path / "v.zarr"), 1 << 30)
    with pytest.raises(VolumeError, match="cannot be decoded"):
        shelf.read(Box((5, 0, 0), (6, 128, 128)), nobody)
    assert not shelf._coming, "nobody is left to wait for ever"
    box = Box((5, 64, 0), (6, 300, 340))
    np.testing.assert_array_equal(shelf.read(box, nobody), plain.read(box))


def test_a_chunk_that_arrives_during_a_run_is_read_when_it_is_there(tmp_path: Path) -> None:
    """Of what was absent nothing is kept: zeros on a shelf would be taken for tissue as soon as the chunk is there."""
    plain, nobody = volume(tmp_path, "1 deep"), Box((0, 0, 0), (1, 0, 0))
    late, aside = tmp_path / "v.zarr/c/5/0/0", tmp_path / "late"
    late.rename(aside)
    shelf, box = Shelf(Volume.open(tmp_path / "v.zarr"), 1 << 30), Box((5, 0, 0), (6, 128, 128))
    assert not shelf.read(box, nobody)[0, :64, :64].any()
    aside.rename(late)
    np.testing.assert_array_equal(shelf.read(box, nobody), plain.read(box))


def test_deep_reads_are_parted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, nobody = volume(tmp_path, "1 deep"), Box((0, 0, 0), (1, 0, 0))
    monkeypatch.setattr("pipeline.shelf.READING", 1)
    asked: list[int] = []

    class Told(Volume):
        def read(self, box: Box) -> np.ndarray:
            asked.append(box.size)
            return super().read(box)

    box = Box((0, 0, 0), (9, 100, 100))
    found = Shelf(Told(str(tmp_path / "v.zarr"), 0, None, False, False), 1 << 30).read(box, nobody)
    np.testing.assert_array_equal(found, plain.read(box))
    assert max(asked) <= 64 * 64


# --- in a run


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return build(tmp_path_factory.mktemp("shelf"), chunks=(4, 64, 64))


def read_by(job: Job, out: str, monkeypatch: pytest.MonkeyPatch, room: int) -> int:
    """Bytes that a run reads of the source."""
    opened: list[Volume] = []
    plain = Shelf.__init__

    def noting(shelf: Shelf, volume: Volume, limit: int) -> None:
        opened.append(volume)
        plain(shelf, volume, min(limit, room))

    monkeypatch.setattr(Shelf, "__init__", noting)
    run(propose(job.load(out, site={"slab_px": 64}, certificate=0)))
    monkeypatch.undo()
    return sum({id(v): v.bytes_read for v in opened}.values())


def test_a_run_shares_what_its_slabs_read_and_makes_the_same_store(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = read_by(job, "plain.zarr", monkeypatch, 0)
    shared = read_by(job, "shared.zarr", monkeypatch, 1 << 30)
    once, made = Volume.open(job.raw), propose(job.load("plan.zarr", site={"slab_px": 64}))
    for chunk in {c for slab in made.plan.slabs for c in slab.read.cells(once.chunks)}:
        once.read(chunk & Box.of(once.shape))
    assert plain > 2 * shared
    assert shared <= 1.02 * once.bytes_read
    assert voxel_digest(job.folder / "plain.zarr") == voxel_digest(job.folder / "shared.zarr")


def test_what_one_run_has_read_the_next_reads_again(job: Job) -> None:
    """In one process: a shelf that outlived its run would call a changed source unchanged."""
    job.run("again.zarr", certificate=0)
    source = Volume.open(job.raw, writable=True)
    whole = Box.of(source.shape)
    before = source.read(whole)
    try:
        source.write(whole, np.where(before > 0, 255 - before, before).astype(np.uint8))
        done = job.run("again.zarr", certificate=0)
        fresh = job.run("fresh.zarr", certificate=0)
    finally:
        source.write(whole, before)
    assert done["slabs"] == fresh["slabs"]
    assert voxel_digest(job.folder / "again.zarr") == voxel_digest(job.folder / "fresh.zarr")


# --- the order of slabs


def slabs_of(shape: ZYX, sections: list[int], edge: int) -> Slabs:
    flags = Flags.of([Flag(Box.of(shape).with_z(z, z + 1), "missing", whole=True) for z in sections])
    found = cut(flags, Geometry(shape, (8, edge, edge), NEEDS))
    return Slabs.of(Slab(f"{n:032x}", p.write, p.read) for n, p in enumerate(found))


def test_slabs_walk_in_bands_through_sections_that_share_chunks() -> None:
    slabs = slabs_of((64, 256, 1024), [3, 5, 40], 64)
    row = 2 * 64 * 3 * 64  # bytes that a slab leaves to the one below: two chunks high, three sections, its width
    walked = walk(slabs, (32, 64, 64), 1, 2 * 4 * row)  # room, half of it for rows: of four slabs
    near = walk(slabs_of((64, 256, 1024), [3, 5, 40], 64), (1, 64, 64), 1, 2 * 4 * row)
    assert [s.write for s in near] == [s.write for s in walked], "both 3 and 5 see 4"
    far = walk(slabs_of((64, 256, 1024), [3, 6, 40], 64), (1, 64, 64), 1, 2 * 4 * row)
    assert [s.write.start[0] for s in far] == sorted(s.write.start[0] for s in far)
    assert sorted(walked.ids.tolist()) == sorted(slabs.ids.tolist())
    order = [(s.write.start[0] // 32, s.write.start[2] // 256, *s.write.start[1:], s.write.start[0]) for s in walked]
    assert order == sorted(order)
    assert walk(slabs, (32, 64, 64), 1, 0) == slabs
    assert [s.id for s in walk(slabs[:1], (1, 64, 64), 1, 1000)] == [slabs[0].id]
