"""Volume: what comes out of every layout, what is refused, and what is never mistaken for tissue."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.box import Box
from pipeline.errors import MisalignedWriteError, VolumeError
from pipeline.files import Files
from pipeline.volume import Volume
from tests.stores import KINDS, VOXEL_NM, Kind, kind, noise, serve, write_array, write_group, write_volume

SHAPE = (9, 50, 40)
every_kind = pytest.mark.parametrize("layout", KINDS, ids=lambda k: k.name)
formats = pytest.mark.parametrize(
    ("zarr_format", "shards"), [(2, None), (3, None), (3, (1, 32, 32))], ids=["v2", "v3", "v3-sharded"]
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One volume of every kind; tests only read them."""
    folder = tmp_path_factory.mktemp("stores")
    return {k.name: write_volume(folder / k.name, k, [noise(SHAPE, k.dtype)]) for k in KINDS}


def make(path: Path, zarr_format: Any = 3, shards: Any = None, shape: Any = (3, 50, 40), **more: Any) -> Volume:
    return Volume.create(
        path,
        **{"dtype": "uint8", "chunks": (1, 16, 16), "voxel_nm": VOXEL_NM, **more},
        shape=shape,
        shards=shards,
        zarr_format=zarr_format,
    )


# --- reading


@every_kind
def test_every_layout_comes_out_in_zyx(layout: Kind, stores: dict[str, str]) -> None:
    volume = Volume.open(stores[layout.name])
    want = noise(SHAPE, layout.dtype)
    got = volume.read(Box.of(SHAPE))
    assert volume.shape == SHAPE and volume.chunks == (4, 16, 16)
    assert volume.grain == ((8, 32, 32) if layout.sharded else (4, 16, 16))
    assert volume.zarr_format == layout.zarr_format
    assert volume.voxel_nm == (VOXEL_NM if layout.ome else None)
    assert got.dtype == volume.dtype == want.dtype and got.dtype.isnative and got.flags.c_contiguous
    np.testing.assert_array_equal(got, want)


@every_kind
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_box_is_the_same_as_slicing(layout: Kind, stores: dict[str, str], data: st.DataObject) -> None:
    cuts = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in SHAPE]
    box = Box(tuple(a for a, _ in cuts), tuple(b for _, b in cuts))
    want = noise(SHAPE, layout.dtype)[box.within(Box.of(SHAPE))]
    np.testing.assert_array_equal(Volume.open(stores[layout.name]).read(box), want)


@pytest.mark.parametrize("box", [Box((0, 0, 0), (10, 5, 5)), Box((-1, 0, 0), (2, 5, 5)), Box((2, 2, 2), (2, 5, 5))])
def test_a_box_that_leaves_the_volume_is_refused(box: Box, stores: dict[str, str]) -> None:
    volume = Volume.open(stores["v3"])
    for act in (volume.read, volume.absent, volume.inputs):
        with pytest.raises(VolumeError, match=r"leaves the volume|is empty"):
            act(box)


@pytest.mark.parametrize("name", ["ome04", "ome05"])
def test_levels_and_their_voxel_sizes(name: str, tmp_path: Path) -> None:
    fine, coarse = noise((8, 32, 32)), noise((8, 16, 16), seed=1)
    uri = write_volume(
        tmp_path / "v", kind(name), [fine, coarse], steps=[(1, 2, 2)], voxel_nm=(0.05, 0.004, 0.004), unit="micrometer"
    )
    volume = Volume.open(uri, level=1)
    assert volume.voxel_nm == pytest.approx((50, 8, 8)) and volume.level == 1
    np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), coarse)
    direct = Volume.open(f"{uri}/s1")
    assert direct.voxel_nm == volume.voxel_nm and direct.level == 1 and direct.fingerprint() == volume.fingerprint()
    assert [v.level for v in Volume.open(f"{uri}/s0").pyramid()] == [0, 1]
    with pytest.raises(VolumeError, match="no level 2") as caught:
        Volume.open(uri, level=2)
    assert "1 (path s1, 50 x 8 x 8 nm" in str(caught.value)
    with pytest.raises(VolumeError, match="no levels"):
        Volume.open(f"{uri}/s0", level=1)


def test_the_image_wide_scale_counts(tmp_path: Path) -> None:
    uri = write_volume(tmp_path / "v", kind("ome05"), [noise(SHAPE)], voxel_nm=(1, 1, 1), wide=(40, 4, 5))
    assert Volume.open(uri).voxel_nm == (40, 4, 5)


def test_a_named_voxel_size_overrules_the_metadata(stores: dict[str, str]) -> None:
    assert Volume.open(stores["ome05"], voxel_nm=(30, 2, 2)).voxel_nm == (30, 2, 2)
    assert Volume.open(stores["v3"], voxel_nm=(30, 2, 2)).voxel_nm == (30, 2, 2)
    with pytest.raises(VolumeError, match="not a voxel size"):
        Volume.open(stores["v3"], voxel_nm=(30, 0, 2))


# --- absent chunks


@every_kind
def test_missing_chunk_is_never_mistaken_for_black_tissue(layout: Kind, tmp_path: Path) -> None:
    uri = write_volume(tmp_path / "v", layout, [np.zeros(SHAPE, layout.dtype)])
    whole = Box.of(SHAPE)
    volume = Volume.open(uri, writable=True)
    assert volume.absent(whole) == (), "black chunks are there"
    gone = Box((8, 32, 32), (9, 50, 40)) if layout.sharded else Box((4, 32, 16), (8, 48, 32))
    volume.erase(gone)
    holes = volume.absent(whole)
    assert sum(h.size for h in holes) == gone.size and all(h in gone for h in holes)
    assert not volume.read(gone).any(), "zarr reads a hole as black: hence `absent`"
    assert volume.absent(Box((0, 0, 0), (4, 16, 16))) == ()
    volume.write(gone, np.zeros(gone.shape, volume.dtype))
    assert volume.absent(whole) == (), "black that is written is there again"


@pytest.mark.parametrize("location", ["start", "end"])
def test_an_inner_chunk_that_a_shard_lacks_is_absent(location: str, tmp_path: Path) -> None:
    codec = zarr.codecs.ShardingCodec(chunk_shape=(4, 16, 16), index_location=location)
    array = zarr.create_array(
        str(tmp_path / "v"), shape=(8, 32, 48), dtype="uint8", chunks=(8, 32, 32), serializer=codec, compressors=None,
        config={"write_empty_chunks": False},
    )  # fmt: skip
    data = noise((8, 32, 48))
    data[4:, :16, 16:32] = 0
    array[...] = data
    volume = Volume.open(tmp_path / "v")
    assert volume.absent(Box.of(volume.shape)) == (Box((4, 0, 16), (8, 16, 32)),), (
        "and the part of the last shard beyond the edge is no hole"
    )
    assert volume.absent(Box((0, 0, 0), (4, 32, 48))) == ()
    shard = tmp_path / "v" / "c" / "0" / "0" / "0"
    raw = bytearray(shard.read_bytes())
    raw[3 if location == "start" else -9] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(VolumeError, match="index of a shard") as caught:
        volume.absent(Box.of(volume.shape))
    assert str(shard) in str(caught.value)


# --- writing


@every_kind
def test_what_is_written_is_read_back_and_hashed(layout: Kind, tmp_path: Path) -> None:
    uri = write_volume(tmp_path / "v", layout, [noise(SHAPE, layout.dtype)])
    volume = Volume.open(uri, writable=True)
    box = Box((8, 32, 32), (9, 50, 40))
    new = noise(box.shape, layout.dtype, seed=5)
    done = volume.write(box, new)
    want = noise(SHAPE, layout.dtype)
    want[box.within(Box.of(SHAPE))] = new
    np.testing.assert_array_equal(Volume.open(uri).read(Box.of(SHAPE)), want)
    assert done.sha256 == hashlib.sha256(new.astype(new.dtype.newbyteorder("<")).tobytes()).hexdigest()
    keys = [s for cell, s in volume.objects() if volume.box(cell) in box]
    assert done.bytes == sum(s.size for s in keys) == volume.bytes_written
    assert volume.bytes_read >= done.bytes, "it was read back"


@every_kind
def test_one_chunk_one_writer(layout: Kind, tmp_path: Path) -> None:
    uri = write_volume(tmp_path / "v", layout, [noise(SHAPE, layout.dtype)])
    volume = Volume.open(uri, writable=True)
    z, y, x = volume.grain
    for box in (Box((0, 0, 0), (z - 1, y, x)), Box((0, 0, 1), (z, y, x)), Box((0, 0, 0), (z, y, 40 - 1))):
        with pytest.raises(MisalignedWriteError) as caught:
            volume.write(box, np.zeros(box.shape, volume.dtype))
        text = str(caught.value)
        assert f"a write to {box} covers part of chunk [0:{z}, 0:{y}, " in text
        assert "two writers on parts of one chunk lose each other's voxels" in text
        assert f"write the whole chunks {box.aligned(volume.grain) & Box.of(SHAPE)}" in text
        with pytest.raises(MisalignedWriteError):
            volume.erase(box)
    np.testing.assert_array_equal(volume.read(Box.of(SHAPE)), noise(SHAPE, layout.dtype))


def test_writes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    volume = make(tmp_path / "v")
    box = Box((0, 0, 0), (1, 16, 16))
    with pytest.raises(VolumeError, match="do not fit"):
        volume.write(box, np.zeros(box.shape, np.uint16))
    with pytest.raises(VolumeError, match="do not fit"):
        volume.write(box, np.zeros((1, 16, 15), np.uint8))
    with pytest.raises(VolumeError, match="read only"):
        Volume.open(tmp_path / "v").write(box, np.zeros(box.shape, np.uint8))
    with pytest.raises(VolumeError, match="something is there already"):
        make(tmp_path / "v")


def test_other_voxels_coming_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "v")
    box = Box((0, 0, 0), (1, 16, 16))
    monkeypatch.setattr(volume, "read", lambda b: np.ones(b.shape, np.uint8))
    with pytest.raises(VolumeError, match="other voxels came back"):
        volume.write(box, np.zeros(box.shape, np.uint8))


@pytest.mark.parametrize(("shards", "writer"), [(None, "pipeline.disk.Disk.lay"), ((1, 16, 16), "zarr.storage._local._put")])
def test_a_full_disk_is_an_oserror(shards: Any, writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "v", shards=shards)
    box = Box((0, 0, 0), (1, 16, 16))

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, full)
    with pytest.raises(OSError, match="No space left"):
        volume.write(box, noise(box.shape))


@formats
def test_one_flipped_bit_is_an_error(zarr_format: int, shards: Any, tmp_path: Path) -> None:
    volume = make(tmp_path / "v", zarr_format, shards)
    box = volume.box((1, 0, 0))
    good = volume.write(box, noise(box.shape))
    file = tmp_path / "v" / volume.key((1, 0, 0))
    raw = file.read_bytes()
    for at in (*range(0, len(raw), max(1, len(raw) // 24)), len(raw) - 1):
        broken = bytearray(raw)
        broken[at] ^= 1 << (at % 8)
        file.write_bytes(broken)
        with pytest.raises(VolumeError, match="cannot be decoded") as caught:
            volume.read(Box((1, 0, 0), (2, 50, 40)))
        assert str(file) in str(caught.value)
    file.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(VolumeError, match="cannot be decoded"):
        volume.read(box)
    assert volume.write(box, noise(box.shape)) == good, "a damaged chunk (shard) can be written again"


@formats
def test_erase_resize_and_what_is_present(zarr_format: int, shards: Any, tmp_path: Path) -> None:
    volume = make(tmp_path / "v", zarr_format, shards)
    box = Box((2, 0, 0), (3, 50, 40))
    volume.write(box, noise(box.shape))
    assert sum(b.size for b in volume.present()) == box.size
    volume.erase(box)
    volume.erase(box)
    assert not list(volume.present())
    identity, print_ = volume.identity(), volume.fingerprint()
    volume.resize((5, 50, 40))
    assert volume.shape == Volume.open(tmp_path / "v").shape == (5, 50, 40)
    assert volume.identity() == identity and volume.fingerprint() != print_
    volume.write(Box((4, 0, 0), (5, 50, 40)), noise(box.shape))
    for shape in ((4, 50, 40), (6, 51, 40)):
        with pytest.raises(VolumeError, match="cannot resize"):
            volume.resize(shape)


@formats
def test_created_arrays_say_what_they_are(zarr_format: int, shards: Any, tmp_path: Path) -> None:
    make(tmp_path / "v", zarr_format, shards, dtype="uint16")
    array = zarr.open_array(str(tmp_path / "v"), mode="r")
    names = array.metadata.dimension_names if zarr_format == 3 else array.attrs["_ARRAY_DIMENSIONS"]
    assert tuple(names) == ("z", "y", "x") and array.fill_value == 0
    assert Volume.open(tmp_path / "v").voxel_nm == VOXEL_NM
    doc = (tmp_path / "v" / ("zarr.json" if zarr_format == 3 else ".zarray")).read_text()
    assert ('"checksum": true' in doc) == (zarr_format == 3), "tensorstore refuses it in Zarr v2: see Blind"


@pytest.mark.parametrize(
    "wrong", [{"dtype": "float32"}, {"shards": (1, 24, 24)}, {"shards": (1, 32, 32), "zarr_format": 2}]
)
def test_arrays_that_cannot_be_made_leave_nothing(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"not supported|do not go with"):
        make(tmp_path / "v", **wrong)
    assert not (tmp_path / "v").exists()


# --- sharing


def test_a_pickle_carries_the_address_only(stores: dict[str, str]) -> None:
    volume = Volume.open(stores["ome05"], voxel_nm=(1, 2, 3))
    raw = pickle.dumps(volume)
    again = pickle.loads(raw)
    assert len(raw) < 1000 and again.voxel_nm == (1, 2, 3) and again.uri == volume.uri
    np.testing.assert_array_equal(again.read(Box.of(SHAPE)), volume.read(Box.of(SHAPE)))


def test_a_relative_address_survives_a_change_of_folder(
    stores: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = Path(stores["v3"])
    monkeypatch.chdir(home.parent)
    raw = pickle.dumps(Volume.open(home.name))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(raw).shape == SHAPE


def test_threads_share_one_volume(tmp_path: Path) -> None:
    volume = make(tmp_path / "v", shape=(16, 50, 40))
    data = noise((16, 50, 40))
    with ThreadPoolExecutor(8) as pool:
        boxes = [Box((z, 0, 0), (z + 1, 50, 40)) for z in range(16)]
        list(pool.map(lambda b: volume.write(b, data[b.within(Box.of(volume.shape))]), boxes))
        back = list(pool.map(volume.read, boxes))
    np.testing.assert_array_equal(np.concatenate(back), data)
    assert volume.bytes_written == sum(s.size for _, s in volume.objects())


def test_inputs_change_with_the_objects_under_the_box_alone(tmp_path: Path) -> None:
    volume = make(tmp_path / "v")
    here, there = Box((0, 0, 0), (1, 16, 16)), Box((1, 0, 0), (2, 16, 16))
    empty = volume.inputs(here)
    volume.write(here, noise(here.shape))
    written = volume.inputs(here)
    assert written != empty
    volume.write(there, noise(here.shape))
    assert volume.inputs(here) == written and volume.inputs(Box((0, 3, 3), (1, 4, 4))) == written
    volume.write(here, noise(here.shape, seed=1))
    assert volume.inputs(here) != written


def test_the_fingerprint_is_of_the_metadata(tmp_path: Path, stores: dict[str, str]) -> None:
    volume = make(tmp_path / "a")
    before = volume.fingerprint()
    volume.write(Box((0, 0, 0), (1, 16, 16)), noise((1, 16, 16)))
    assert volume.fingerprint() == before == make(tmp_path / "b").fingerprint()
    assert before != make(tmp_path / "c", chunks=(1, 8, 8)).fingerprint()
    assert before != Volume.open(tmp_path / "a", voxel_nm=(1, 2, 3)).fingerprint()


# --- other stores


@pytest.mark.parametrize("name", ["ome04-tczyx-u2", "ome05", "v3"])
def test_the_web(name: str, tmp_path: Path) -> None:
    data = noise((4, 32, 32), kind(name).dtype)
    write_volume(tmp_path / "v", kind(name), [data])
    with serve(tmp_path) as address:
        volume = Volume.open(f"{address}/v")
        box = Box.of(volume.shape)
        np.testing.assert_array_equal(volume.read(box), data)
        before = volume.inputs(box)
        local = Volume.open(tmp_path / "v", writable=True)
        local.erase(Box((0, 0, 16), (4, 16, 32)))
        assert volume.absent(box) == local.absent(box) == (Box((0, 0, 16), (4, 16, 32)),)
        assert volume.inputs(box) != before
        assert [c for c, _ in volume.objects()] == [c for c, _ in local.objects()]
        with pytest.raises(VolumeError, match="web is read-only"):
            Volume.open(f"{address}/v", writable=True)
        with pytest.raises(VolumeError, match="no Zarr volume here"):
            Volume.open(f"{address}/w")
    with pytest.raises(OSError, match="no answer"):
        volume.absent(box)  # a server that is down is not a volume full of holes
    with pytest.raises(OSError):
        volume.read(box)


def test_shards_behind_a_server_without_ranges(stores: dict[str, str]) -> None:
    home = Path(stores["v3-sharded"])
    with serve(home.parent) as address:  # Python's own server sends whole files whatever part is asked for
        volume = Volume.open(f"{address}/{home.name}")
        assert volume.absent(Box.of(SHAPE)) == ()
        with pytest.raises(VolumeError, match="the server ignores byte ranges"):
            volume.read(Box.of(SHAPE))


@formats
def test_memory(zarr_format: int, shards: Any) -> None:
    uri = f"memory://volume-{zarr_format}-{shards is not None}/v"
    volume = make(uri, zarr_format, shards)  # type: ignore[arg-type]
    box = Box((1, 0, 0), (2, 50, 40))
    done = volume.write(box, noise(box.shape))
    again = Volume.open(uri)
    np.testing.assert_array_equal(again.read(box), noise(box.shape))
    assert done.bytes == sum(s.size for _, s in again.objects()) > 0
    assert sum(h.size for h in again.absent(Box.of(volume.shape))) == 2 * box.size
    volume.erase(box)
    assert not list(volume.present())
    volume.resize((4, 50, 40))
    assert Volume.open(uri).shape == (4, 50, 40)


def test_file_addresses_are_paths(stores: dict[str, str]) -> None:
    assert Volume.open(f"file://{stores['v3']}").uri == stores["v3"]


def test_addresses_that_this_machine_cannot_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*args: object, **kwargs: object) -> None:
        raise ImportError("Install gcsfs to access Google Cloud Storage")

    with pytest.raises(VolumeError, match="not known"):
        Volume.open("nothing://a/b")
    monkeypatch.setattr(fsspec, "url_to_fs", lacking)
    with pytest.raises(VolumeError, match="cannot open such addresses"):
        Volume.open("gs://bucket/v")
    monkeypatch.delitem(sys.modules, "pipeline.bucket", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(VolumeError, match="cannot open such addresses") as e:
        Volume.open("s3://bucket/v")
    assert "zmend[remote]" in e.value.do


def test_an_address_that_holds_a_password_is_refused_and_not_repeated() -> None:
    for uri in ("s3://AKIA1:topsecret@bucket/v", "http://me:topsecret@host/v"):
        with pytest.raises(VolumeError, match="must not hold a password") as e:
            Volume.open(uri)
        assert "topsecret" not in str(e.value)
        assert "AWS_SECRET_ACCESS_KEY" in e.value.do


# --- what is no volume


def test_what_is_no_volume_is_named(tmp_path: Path) -> None:
    (tmp_path / "stack.tif").write_bytes(b"II*\0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder" / "notes").mkdir(parents=True)
    write_volume(tmp_path / "folder" / "raw", kind("v3"), [noise(SHAPE)])
    write_array(tmp_path / "group" / "a", kind("v3"), noise(SHAPE), (4, 16, 16), (8, 32, 32))
    (tmp_path / "group" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "zarr.json").write_text("{")
    for name, words in {
        "nothing": "there is no Zarr volume here",
        "stack.tif": "this is a file, not a Zarr volume",
        "empty": "this folder is empty",
        "folder": r"not Zarr[\s\S]*name one of these inside it: raw",
        "group": r"no multiscales[\s\S]*name one of its arrays: a \[9, 50, 40\]",
        "garbage": "metadata is not JSON",
    }.items():
        with pytest.raises(VolumeError, match=words) as caught:
            Volume.open(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "dims", "words"),
    [
        ((4, 8, 8), "int32", ("z", "y", "x"), "voxels of type int32 are not supported"),
        ((4, 8, 8), "float32", ("z", "y", "x"), "voxels of type float32"),
        ((2, 4, 8, 8), "uint8", ("c", "z", "y", "x"), "axis c is longer than 1"),
        ((1, 4, 8, 8), "uint8", None, "cannot tell z, y and x apart"),
        ((8, 8), "uint8", ("y", "x"), "cannot tell z, y and x apart"),
        ((4, 8, 8), "uint8", ("i", "j", "k"), "cannot tell z, y and x apart in axes i, j, k"),
    ],
)
def test_arrays_that_are_not_supported(shape: Any, dtype: str, dims: Any, words: str, tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "v"), shape=shape, dtype=dtype, chunks=shape, dimension_names=dims)
    with pytest.raises(VolumeError, match=words) as caught:
        Volume.open(tmp_path / "v")
    assert str(tmp_path / "v") in str(caught.value)


def test_sharding_that_hides_its_index_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "v", kind("v3-sharded"), [noise(SHAPE)])
    doc = json.loads((tmp_path / "v" / "zarr.json").read_text())
    doc["codecs"].append({"name": "crc32c"})
    (tmp_path / "v" / "zarr.json").write_text(json.dumps(doc))
    with pytest.raises(VolumeError, match="this kind of sharding is not supported"):
        Volume.open(tmp_path / "v")


def test_a_level_that_the_group_lists_but_lacks(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    axes = [{"name": n, "type": "space"} for n in "zyx"]
    write_group(tmp_path / "v", kind("ome05"), {"axes": axes, "datasets": [{"path": "s0"}]})
    with pytest.raises(VolumeError, match="level 0 is not there"):
        Volume.open(tmp_path / "v")


def test_put_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(str(tmp_path))
    files.put("a/b", b"one")
    monkeypatch.setattr(Path, "replace", lambda *a: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        files.put("a/b", b"two")
    assert files.read("a/b") == b"one" and [s.key for s in files.walk()] == ["a/b"]
