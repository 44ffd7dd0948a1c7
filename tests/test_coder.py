"""The quick way to read and write chunks, held against zarr's: the same voxels, the same bytes, the same refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc, Delta, GZip, Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from pipeline.box import Box
from pipeline.errors import VolumeError
from pipeline.shard import splice
from pipeline.volume import Volume
from tests.stores import noise

SHAPE, CHUNKS, SHARDS = (9, 50, 40), (4, 16, 16), (8, 32, 32)
V3, V2 = {"zarr_format": 3}, {"zarr_format": 2}
KINDS: dict[str, tuple[bool, bool, dict[str, Any]]] = {  # whether a coder reads it, writes it, and what it is
    "zstd": (True, True, {**V3, "compressors": ZstdCodec(level=1, checksum=True)}),
    "zarr's own": (True, True, V3),
    "plain": (True, True, {**V3, "compressors": None}),
    "crc32c": (True, True, {**V3, "compressors": [ZstdCodec(level=3), Crc32cCodec()]}),
    "blosc": (True, False, {**V3, "compressors": BloscCodec(cname="lz4", shuffle="bitshuffle")}),
    "gzip": (True, False, {**V3, "compressors": GzipCodec(level=1)}),
    "sharded": (True, True, {**V3, "shards": SHARDS, "compressors": [ZstdCodec(level=1), Crc32cCodec()]}),
    "big endian": (False, False, {**V3, "serializer": BytesCodec(endian="big")}),
    "transposed": (False, False, {**V3, "filters": TransposeCodec(order=(2, 1, 0))}),
    "v2 zstd": (True, True, {**V2, "compressors": Zstd(level=1)}),
    "v2 blosc": (True, False, {**V2, "compressors": Blosc()}),
    "v2 gzip": (True, False, {**V2, "compressors": GZip(level=1)}),
    "v2 plain": (True, True, {**V2, "compressors": None}),
    "v2 delta": (False, False, {**V2, "compressors": Zstd(level=1), "filters": [Delta("<u2")]}),
    "v2 Fortran": (False, False, {**V2, "compressors": Zstd(level=1), "order": "F"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An array of every kind, with a chunk, and of a shard an inner chunk, that are not there."""
    folder = tmp_path_factory.mktemp("arrays")
    for name, (_, _, kind) in KINDS.items():
        array = zarr.create_array(folder / name, shape=SHAPE, chunks=CHUNKS, dtype="uint16", fill_value=7, **kind)
        array[:, 16:] = noise(SHAPE, "uint16")[:, 16:]
    return {name: folder / name for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_it_is_known_what_a_coder_reads_and_writes(name: str, arrays: dict[str, Path]) -> None:
    coder = Volume.open(arrays[name])._coder
    assert (coder is not None, coder is not None and coder.writes) == KINDS[name][:2]


@pytest.mark.parametrize("name", [n for n, (reads, _, _) in KINDS.items() if reads])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_coder_reads_what_zarr_reads(name: str, arrays: dict[str, Path], data: st.DataObject) -> None:
    volume = Volume.open(arrays[name])
    spans = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in SHAPE]
    box = Box(*zip(*spans, strict=True))  # type: ignore[arg-type]
    there = zarr.open_array(arrays[name], mode="r")[tuple(slice(a, b) for a, b in spans)]
    assert np.array_equal(volume._decoded(box), there)


@pytest.mark.parametrize("name", [n for n, (_, writes, kind) in KINDS.items() if writes and "shards" not in kind])
def test_a_coder_writes_the_bytes_that_zarr_writes(name: str, tmp_path: Path) -> None:
    data, found = noise(SHAPE, "uint16"), []
    for way in ("ours", "zarr's"):
        zarr.create_array(tmp_path / way, shape=SHAPE, chunks=CHUNKS, dtype="uint16", fill_value=7, **KINDS[name][2])
        volume = Volume.open(tmp_path / way, writable=True)
        if way == "zarr's":
            volume._coder = None
        volume.write(Box.of(SHAPE), data)
        assert (volume._by_zarr(write=True)[0].written > 0) == (way == "zarr's"), "each went its own way"
        chunks = {p.relative_to(tmp_path / way): p.read_bytes() for p in (tmp_path / way).rglob("*") if p.is_file()}
        found.append(chunks)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["zstd", "crc32c", "gzip", "sharded", "v2 zstd"])
def test_damage_is_refused_in_zarrs_words(name: str, arrays: dict[str, Path], tmp_path: Path) -> None:
    volume, box = Volume.open(arrays[name]), Box((0, 16, 16), (4, 32, 32))
    file = arrays[name] / volume.keys(box)[0]
    raw = file.read_bytes()
    try:
        file.write_bytes(raw[: len(raw) // 2])
        with pytest.raises(VolumeError, match="cannot be decoded"):
            volume.read(box)
    finally:
        file.write_bytes(raw)


@pytest.mark.parametrize("at", ["start", "end"])
def test_a_graft_is_what_zarr_would_write(at: str, tmp_path: Path) -> None:
    """The same voxels from the same bytes as all of the shard written anew; only what is new was encoded."""
    data, sharding = noise(SHAPE, "uint16"), {"shape": SHARDS, "index_location": at}
    for name in ("source", "graft", "anew"):
        zarr.create_array(tmp_path / name, shape=SHAPE, chunks=CHUNKS, shards=sharding, dtype="uint16")
    source, graft, anew = (Volume.open(tmp_path / n, writable=True) for n in ("source", "graft", "anew"))
    source.write(Box.of(SHAPE), data)
    shard = source.box((0, 1, 1))  # cut by the edge of the volume
    chunk = Box((4, 32, 32), (8, 48, 40))
    new = noise(chunk.shape, "uint16") + np.uint16(3)
    data[chunk.within(Box.of(SHAPE))] = new
    size = graft.graft(shard, source, {chunk: new})
    anew.write(shard, data[shard.within(Box.of(SHAPE))])
    key = anew.keys(shard)[0]
    assert (tmp_path / "graft" / key).read_bytes() == (tmp_path / "anew" / key).read_bytes()
    assert size == (tmp_path / "graft" / key).stat().st_size
    assert np.array_equal(graft.read(shard), anew.read(shard))


def test_what_a_shard_lacks_a_graft_lacks(tmp_path: Path) -> None:
    for name in ("source", "graft"):
        zarr.create_array(tmp_path / name, shape=SHAPE, chunks=CHUNKS, shards=SHARDS, dtype="uint16")
    source, graft = (Volume.open(tmp_path / n, writable=True) for n in ("source", "graft"))
    shard, chunk = source.box((0, 0, 0)), Box((0, 16, 0), (4, 32, 16))
    assert graft.graft(shard, source, {chunk: noise(chunk.shape, "uint16")}) is not None
    assert len(graft.absent(shard)) == 7 and chunk not in graft.absent(shard)


def test_a_graft_is_refused_where_the_source_is_not_alike_or_damaged(tmp_path: Path) -> None:
    kinds = {"source": SHARDS, "graft": SHARDS, "other": (4, 32, 32)}
    for name, shards in kinds.items():
        zarr.create_array(tmp_path / name, shape=SHAPE, chunks=CHUNKS, shards=shards, dtype="uint16")
    source, graft, other = (Volume.open(tmp_path / n, writable=True) for n in kinds)
    source.write(Box.of(SHAPE), noise(SHAPE, "uint16"))
    shard = source.box((0, 0, 0))
    assert graft.graft(shard, other, {}) is None
    file = tmp_path / "source" / source.keys(shard)[0]
    raw = bytearray(file.read_bytes())
    raw[-30] ^= 1  # of the index
    file.write_bytes(raw)
    assert graft.graft(shard, source, {}) is None and not (tmp_path / "graft" / graft.keys(shard)[0]).exists()


def test_an_index_that_points_out_of_its_shard_is_no_index() -> None:
    whole = splice(b"", (1, 1, 2), {(0, 0, 0): b"abc"}, at="end", crc=False)
    assert whole is not None and whole[:3] == b"abc"
    lying = whole[:3] + np.array([0, 2**40, 2**64 - 1, 2**64 - 1], "<u8").tobytes()
    assert splice(lying, (1, 1, 2), {}, at="end", crc=False) is None
