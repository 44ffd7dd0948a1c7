"""What of zarr is used: arrays, and the stores that it works through: a folder, a bucket, the web; counted, and blind
to what a write replaces."""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import zarr
from numcodecs import Zstd  # type: ignore[import-untyped]
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, WrapperStore

from pipeline.box import ZYX
from pipeline.files import Files
from pipeline.ome import ZYX_NAMES, Json

MOST_BYTES = 4 << 30  # of one PUT; S3 takes 5 GiB


def zarr_store(files: Files, *, writable: bool) -> Store:
    """The folder as zarr knows it, or the bucket that it is in."""
    if files.local is not None:
        return LocalStore(files.local, read_only=not writable)
    if files.bucket is not None:
        return _Whole(files.bucket.store, read_only=not writable)
    return FsspecStore.from_url(files.uri, storage_options={"use_listings_cache": False}, read_only=not writable)


def open_array(store: Store, files: Files, mode: Literal["r", "r+"], zarr_format: Literal[2, 3]) -> Any:
    """The array as zarr opens it. Raises whatever zarr does."""
    path = files.bucket.prefix if files.bucket is not None else ""
    array = zarr.open_array(store, path=path, mode=mode, zarr_format=zarr_format)
    # A black chunk is data and must not look absent. open_array(config=...) would ignore this, silently.
    return array.with_config({"write_empty_chunks": True})


def new_documents(
    *, shape: ZYX, dtype: np.dtype[Any], chunks: ZYX, shards: ZYX | None, zarr_format: Literal[2, 3], attributes: Json
) -> dict[str, bytes]:
    """The metadata of a new (z, y, x) array, by key."""
    documents: dict[str, Buffer] = {}
    zarr.create_array(
        MemoryStore(documents),  # zarr makes groups above an array in a bucket, too, and they are not asked for
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        compressors=ZstdCodec(level=1, checksum=True) if zarr_format == 3 else Zstd(level=1),
        filters=None,
        fill_value=0,
        zarr_format=zarr_format,
        chunk_key_encoding={"name": "default" if zarr_format == 3 else "v2", "separator": "/"},
        dimension_names=ZYX_NAMES if zarr_format == 3 else None,
        attributes=attributes,
    )
    return {key: document.to_bytes() for key, document in documents.items()}


class _Whole(ObjectStore[Any]):
    """A bucket in which every object is written by one PUT, which is whole or not at all and leaves no parts behind."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        from pipeline.bucket import repeated  # of the extra `remote`

        return await repeated(lambda: ObjectStore.get(self, key, prototype, byte_range))

    async def set(self, key: str, value: Buffer) -> None:
        from obstore import put_async

        from pipeline.bucket import repeated

        self._check_writable()
        await repeated(lambda: put_async(self.store, key, value.as_buffer_like(), chunk_size=MOST_BYTES))


class Counted(WrapperStore[Store]):
    """Counts the bytes that zarr moves. All its coroutines run on zarr's one loop thread: no lock is needed."""

    blind = False  # what there is must not matter: see Blind

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.read, self.written = 0, 0

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        self.read += 0 if found is None else len(found)
        return found

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        self.written += len(value)


class Blind(Counted):
    """What zarr writes through. Only whole chunks are written, so what was there before must never matter;
    zarr 3.1 would read the old shard first, for nothing, and could not replace a damaged one."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = None if self.blind else await super().get(key, prototype, byte_range)
        return found if found is None or key.rpartition("/")[2] != ".zarray" else _summed(found, prototype)


def _summed(document: Buffer, prototype: BufferPrototype) -> Buffer:
    """A document of Zarr v2 to write by: zstd with a checksum. It is not to be told in the store, for tensorstore and
    zarrs refuse an array whose compressor has the key `checksum`; a frame says itself that it has one, and all look."""
    doc = json.loads(document.to_bytes())
    if (doc.get("compressor") or {}).get("id") == "zstd":
        doc["compressor"]["checksum"] = True
    return prototype.buffer.from_bytes(json.dumps(doc).encode())
