"""Volume: one Zarr array with axes and voxel size, read in any box and written in whole chunks only.

With zarrstore, which it writes through, the only module that knows zarr: it takes half a second to import, and comes
with the first array. On a disk, chunks of the common codecs are read and written by `coder`; zarr has the others, and
everything that fails.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.box import ZYX, Box
from pipeline.coder import Room, coder_of, index_of
from pipeline.errors import MisalignedWriteError, VolumeError
from pipeline.failpoint import reach
from pipeline.files import Files, in_words
from pipeline.lanes import Budget
from pipeline.locate import layout_of, locate, node_at
from pipeline.objects import Stored
from pipeline.ome import ZYX_NAMES, Image, Json, Voxel, nm_text
from pipeline.precomputed import ShardedLayout, present
from pipeline.shard import present_in, splice
from pipeline.tensors import open_voxels
from pipeline.threads import each
from pipeline.unpack import TooMuchError

Voxels = NDArray[Any]  # uint8 or uint16, (z, y, x)
IN_HAND = 10  # chunks that zarr reads at the same time: its setting async.concurrency
FOLDERS = 500  # of chunks, whose names are understood at once: one by one a million takes twice as long
_SOUND = set[str]()  # documents of arrays in which zarr found nothing wrong, in this process
DAMAGE = (gzip.BadGzipFile,)  # an OSError that is no trouble with the disk or the network


@dataclass(frozen=True, slots=True)
class Written:
    """One write, verified by reading it back."""

    bytes: int  # of the chunk objects in the store
    sha256: str  # of the voxels as read back: C order, little-endian


class Volume:
    """One array of grey values. Boxes, shapes and arrays are (z, y, x), whatever the order in the store.

    Threads may share a Volume: reads anywhere, writes to different chunks. A pickle carries the address only.
    A read or write that fails for a reason that may pass (disk, network) raises OSError; all else VolumeError.
    """

    uri: str  # of the array, or of the group if it was opened by its group
    level: int  # which level of its image this is; 0 for an array alone
    shape: ZYX
    dtype: np.dtype[Any]  # uint8 or uint16
    chunks: ZYX  # what is decoded at a time
    grain: ZYX  # what one writer owns: the shard of a sharded array, else the chunk
    voxel_nm: Voxel | None
    zarr_format: Literal[2, 3]
    fill_value: int
    foreign: str  # precomputed | n5, which are read only; Zarr, if empty

    @classmethod
    def open(
        cls,
        uri: str | Path,
        *,
        level: int = 0,
        voxel_nm: Sequence[float] | None = None,
        writable: bool = False,
        mask: bool = False,
    ) -> Volume:
        """Open a level of an OME-Zarr image (0.4, 0.5), an array inside one, or an array alone (Zarr v2, v3, sharded);
        or a level of a Neuroglancer precomputed or N5 volume, to read.

        `uri` is a local path or an fsspec URL (http:// is read-only). `voxel_nm` (z, y, x) overrules the metadata.
        A volume is uint8 or uint16; with `mask` it may be bool or any integer.
        Raises VolumeError: nothing there, no Zarr, no such level, axes or voxels of a kind that is not supported.
        """
        return cls(str(uri), level, voxel_nm, writable, mask)

    @classmethod
    def create(
        cls,
        uri: str | Path,
        *,
        shape: ZYX,
        dtype: DTypeLike,
        chunks: ZYX,
        shards: ZYX | None = None,
        voxel_nm: Voxel | None = None,
        zarr_format: Literal[2, 3] = 3,
        about: Json | None = None,
    ) -> Volume:
        """Write the metadata of a new (z, y, x) array, all voxels absent, and open it to write.

        `about`: what else the attribute `zmend` of the array says.

        Chunks are zstd level 1 with a checksum: zarr's default codecs do not notice a flipped bit. Zarr v2: see Blind.
        Raises VolumeError where something is there already, or where shape, chunks, shards and type do not go together.
        """
        files = Files(str(uri))
        if node_at(files) is not None:
            raise VolumeError("something is there already", where=files.uri, do="name another place, or remove it")
        _check_new(files, np.dtype(dtype), chunks, shards, zarr_format)
        attributes: Json = {} if zarr_format == 3 else {"_ARRAY_DIMENSIONS": list(ZYX_NAMES)}
        ours = ({} if voxel_nm is None else {"voxel_nm": list(voxel_nm)}) | (about or {})
        from pipeline.zarrstore import new_documents

        array: Json = {"shape": shape, "dtype": np.dtype(dtype), "chunks": chunks, "shards": shards}
        array |= {"zarr_format": zarr_format, "attributes": attributes | ({"zmend": ours} if ours else {})}
        for key, document in new_documents(**array).items():
            files.put(key, document)
        return cls.open(files.uri, voxel_nm=voxel_nm, writable=True)

    def __init__(self, uri: str, level: int, voxel_nm: Sequence[float] | None, writable: bool, mask: bool) -> None:
        asked = Files(uri)
        self._asked = (asked.uri, level, None if voxel_nm is None else tuple(voxel_nm), writable, mask)
        self._is_mask = mask
        self._place = locate(asked, level)
        self.uri, self.level, self.files, self.writable = asked.uri, self._place.level, self._place.files, writable
        self.foreign = self._place.foreign
        self.voxel_nm = self._place.voxel_nm if voxel_nm is None else _checked(voxel_nm)
        self._describe()
        if writable and self.files.web:
            raise VolumeError("the web is read-only", where=self.uri, do="write to a local path or an object store")
        if writable and self.foreign:
            raise VolumeError(f"{self.foreign} volumes are only read", where=self.uri, do="write to a Zarr array")
        self._connect()

    @property
    def _quick(self) -> bool:
        """Whether a coder may read and write: objects elsewhere are fetched by zarr, many at a time."""
        return self.files.local is not None and not self.foreign

    def _describe(self) -> None:
        self.layout = layout = layout_of(self._place, mask=self._is_mask)
        self._order = [*(d for d in layout.dims if d not in ZYX_NAMES), *ZYX_NAMES]
        self.shape, self.chunks, self.grain = map(self._zyx, (layout.shape, layout.chunks, layout.grain))
        self.dtype, self.fill_value, self.zarr_format = np.dtype(layout.dtype), layout.fill_value, layout.zarr_format

    def _connect(self) -> None:
        self._coder = None
        self._moved, self._moving = [0, 0], Lock()  # bytes that the coder has read and written
        self._room: Room = lambda _: nullcontext()
        self._opened, self._opening = dict[bool, tuple[Any, Any]](), Lock()
        if self.foreign:
            voxels = open_voxels(self.foreign, self.files, self.root, self.level)
            self._opened[False] = voxels, voxels
            return
        document = json.dumps(self._place.doc, sort_keys=True)
        if not self._quick or document not in _SOUND:  # a run opens the same few arrays again and again
            self._by_zarr(write=False)
            _SOUND.add(document)
        if self._quick:
            self._coder = coder_of(self._place.doc, self.layout)

    def _by_zarr(self, *, write: bool) -> tuple[Any, Any]:
        """The store and the array as zarr opens them, to read or to write; once somebody asks for them."""
        with self._opening:
            if write not in self._opened:
                from pipeline.zarrstore import Blind, Counted, zarr_store

                store = (Blind if write else Counted)(zarr_store(self.files, writable=write))
                self._opened[write] = self._open(store, "r+" if write else "r")
                store.blind = write  # from now on: what it has read is the document
            return self._opened[write]

    def __reduce__(self) -> tuple[object, ...]:
        return Volume, self._asked

    def __repr__(self) -> str:
        return f"<Volume {self.uri} level {self.level} {self.shape} {self.dtype} {nm_text(self.voxel_nm)}>"

    def _open(self, store: Any, mode: Literal["r", "r+"]) -> tuple[Any, Any]:
        from pipeline.zarrstore import open_array

        try:
            array = open_array(store, self.files, mode, self.layout.zarr_format)
        except (ValueError, TypeError, KeyError) as error:
            do = "restore the array's own document, or write the volume anew with codecs that zarr knows"
            raise VolumeError("zarr cannot open the array", where=self.files.uri, why=str(error), do=do) from error
        store.read = 0  # metadata is not voxels
        return store, array

    # --- geometry: (z, y, x) here, stored axis order there

    def _zyx(self, stored: Sequence[int]) -> ZYX:
        z, y, x = (stored[self.layout.dims.index(n)] for n in ZYX_NAMES)
        return z, y, x

    def _stored(self, zyx: Sequence[int], other: int = 0) -> tuple[int, ...]:
        named = dict(zip(ZYX_NAMES, zyx, strict=True))
        return tuple(named.get(d, other) for d in self.layout.dims)

    def _slices(self, box: Box) -> tuple[slice, ...]:
        return tuple(map(slice, self._stored(box.start), self._stored(box.stop, 1)))

    def cell(self, key: str) -> ZYX | None:
        """The grain cell (z, y, x index) that object `key` holds, or None where it is no chunk of this array."""
        index = self.layout.index(key)
        return None if index is None else self._zyx(index)

    def key(self, cell: ZYX) -> str:
        """Name of the object that holds grain cell `cell` (z, y, x index), relative to `files`."""
        return self.layout.key(self._stored(cell))

    def keys(self, box: Box) -> list[str]:
        """Names of the objects under a box, relative to `files`."""
        return [self.key(c) for c in self._cells(box)]

    def box(self, cell: ZYX) -> Box:
        """The voxels of a grain cell, cut to the volume."""
        start = tuple(i * g for i, g in zip(cell, self.grain, strict=True))
        return Box(start, tuple(s + g for s, g in zip(start, self.grain, strict=True))) & Box.of(self.shape)  # type: ignore[arg-type]

    def _cells(self, box: Box) -> list[ZYX]:
        return [index_of(c, self.grain) for c in box.cells(self.grain)]

    def _check_inside(self, box: Box) -> None:
        if not box.size or box not in Box.of(self.shape):
            raise VolumeError(
                f"box {box} leaves the volume" if box.size else f"box {box} is empty",
                where=self.uri,
                why=f"the volume is {self.shape} (z, y, x); zarr would clip the box without a word",
                do="check coordinates and level: are they of another level of the pyramid?",
            )

    # --- reading

    def read(self, box: Box) -> Voxels:
        """The voxels of a box: (z, y, x), C-contiguous. Absent chunks read as the fill value: see `absent`.

        Raises VolumeError: the box leaves the volume, or a chunk cannot be decoded (it is named).
        """
        self._check_inside(box)
        try:
            return self._read(box)
        except Exception as error:  # codecs and file systems raise whatever they like; all of it is passed on
            self._failed(box, error)

    def _read(self, box: Box) -> Voxels:
        if self._coder is not None:
            try:
                return self._decoded(box)
            except TooMuchError:
                raise
            except Exception:  # whatever it is: zarr reads what this could not, or says what is wrong with it
                pass
        with self._room(self.piece_bytes):
            _, array = self._by_zarr(write=False)
            stored = np.asarray(array[self._slices(box)])
        axes = [self.layout.dims.index(d) for d in self._order]
        return np.ascontiguousarray(stored.transpose(axes).reshape(box.shape), dtype=self.dtype)

    def bound(self, room: Budget) -> None:
        """From now on, let what is decoded at the same time take so many bytes; a larger piece goes alone."""
        self._room = room.hold

    @property
    def piece_bytes(self) -> int:
        """What one thread takes while it decodes, beside the voxels that it returns: a chunk as it is stored, and its
        voxels; of what is not read by a coder so many as zarr has in hand."""
        chunk = math.prod(self.chunks) * self.dtype.itemsize
        return self._coder.piece_bytes if self._coder is not None else 2 * chunk * IN_HAND

    def _decoded(self, box: Box) -> Voxels:
        assert self._coder is not None
        voxels = np.empty(box.shape, self.dtype)
        self._count(self._coder.read(self.files, self.key, box, voxels, self._room), 0)
        return voxels

    def _count(self, read: int, written: int) -> None:
        with self._moving:
            self._moved[0] += read
            self._moved[1] += written

    def _failed(self, box: Box, error: Exception) -> NoReturn:
        error = in_words(error, self.files.uri)
        if isinstance(error, (OSError, MemoryError, VolumeError)) and not isinstance(error, DAMAGE):
            raise error
        for chunk in box.cells(self.chunks):
            try:
                self._read(chunk & Box.of(self.shape))
            except Exception as cause:
                raise VolumeError(
                    f"chunk {chunk & Box.of(self.shape)} cannot be decoded",
                    where=f"{self.files.uri}/{self.key(index_of(chunk, self.grain))}",
                    why=f"the object is damaged or cut short{self._ranges()} ({type(cause).__name__}: {cause})",
                    do="fetch or write this object again; a chunk of zmend's own is made again once it is deleted",
                ) from cause
        raise VolumeError(f"box {box} cannot be read", where=self.uri, why=repr(error)) from error

    def _ranges(self) -> str:
        shards_on_the_web = self.files.web and self.layout.index_at is not None
        return ", or the server ignores byte ranges, which shards need" if shards_on_the_web else ""

    def absent(self, box: Box) -> tuple[Box, ...]:
        """The chunks that touch a box and do not exist, cut to the volume: they read as fill value, not as tissue.

        Inner chunks that an existing shard lacks count. Looks objects and shard indices up; decodes nothing.
        """
        self._check_inside(box)
        cells = self._cells(box)
        found = zip(cells, self.files.stats([self.key(c) for c in cells]), strict=True)
        return tuple(sorted(chunk for c, stored in found for chunk in self._holes(c, stored, box)))

    def _holes(self, cell: ZYX, stored: Stored | None, box: Box) -> Iterator[Box]:
        if stored is not None and self.layout.index_at is None:
            return
        chunks = list((self.box(cell) & box).cells(self.chunks))
        there = [False] * len(chunks) if stored is None else self._in_shard(stored, chunks)
        yield from (c & Box.of(self.shape) for c, is_there in zip(chunks, there, strict=True) if not is_there)

    def _in_shard(self, shard: Stored, chunks: Sequence[Box]) -> list[bool]:
        """Which of these inner chunks a shard has."""
        places = [self._stored(index_of(c, self.chunks)) for c in chunks]
        if isinstance(self.layout, ShardedLayout):
            return present(self.files, shard, self.layout, places)
        counts = tuple(g // c for g, c in zip(self.layout.grain, self.layout.chunks, strict=True))
        here = present_in(self.files, shard, counts, at=str(self.layout.index_at), crc=self.layout.index_crc)
        return [bool(here[tuple(i % n for i, n in zip(place, counts, strict=True))]) for place in places]

    def objects(self) -> Iterator[tuple[ZYX, Stored]]:
        """Every chunk object (shard) that exists, with its grain cell, in one order always."""
        if not self.files.web:
            walked = ((self.cell(s.key), s) for s in self.files.walk())
            yield from ((cell, s) for cell, s in walked if cell is not None)
            return
        for row in Box.of(self.shape).cells((self.grain[0], self.grain[1], self.shape[2])):
            cells = self._cells(row & Box.of(self.shape))  # the web cannot list: ask for each
            found = zip(cells, self.files.stats([self.key(c) for c in cells]), strict=True)
            yield from ((cell, s) for cell, s in found if s is not None)

    def cells(self, *, sweep: bool = False) -> NDArray[np.int64]:
        """(n, 3) the grain cells (z, y, x index) of all chunk objects (shards) that exist, in no order.

        sweep: what killed writers left half-made among them is removed on the way; for the holder of the store's lock.
        """
        if self.files.web:
            return np.array([cell for cell, _ in self.objects()], np.int64).reshape(-1, 3)
        found = [np.empty((0, len(self.layout.dims)), np.int64)]
        folders = self.files.folders(self.key((0, 0, 0)).count("/"))
        while some := list(islice(folders, FOLDERS)):
            found.append(self.layout.indices(some))
            if sweep and len(found[-1]) < sum(len(names) for _, names in some):
                for folder, names in some:
                    self._sweep(folder, names)
        return np.concatenate(found)[:, [self.layout.dims.index(d) for d in ZYX_NAMES]]

    def _sweep(self, folder: str, names: Sequence[str]) -> None:
        """On a disk; nothing is removed through a link."""
        here, half_made = self.files.local, [name for name in names if name.endswith(".partial")]
        if half_made and here is not None and (here / folder).resolve() == here.resolve() / folder:
            for name in half_made:
                self.files.delete(folder + name)

    def present(self) -> Iterator[Box]:
        """The boxes of the chunk objects (shards) that exist, cut to the volume."""
        return (self.box(cell) for cell, _ in self.objects())

    def inputs(self, box: Box) -> str:
        """sha256 of names, sizes and ages (ETag where there is one) of the objects under a box; reads no data."""
        self._check_inside(box)
        keys = [self.key(c) for c in self._cells(box)]
        return sha256([[k, list(s) if s else "absent"] for k, s in zip(keys, self.files.stats(keys), strict=True)])

    def fingerprint(self) -> str:
        """sha256 of what the volume is: shape, chunks, data type, codecs, axes, voxel size. Not of data or place."""
        return sha256([self._about(self._place.doc), self.layout.dims, self.voxel_nm])

    def identity(self) -> str:
        """The fingerprint without the number of sections, which may grow."""
        shape = [n if d != "z" else 0 for d, n in zip(self.layout.dims, self.layout.shape, strict=True)]
        return sha256([self._about({**self._place.doc, "shape": shape}), self.layout.dims, self.voxel_nm])

    @staticmethod
    def _about(doc: Json) -> Json:
        return {k: v for k, v in doc.items() if k not in ("attributes", "consolidated_metadata")}

    @property
    def image(self) -> Image | None:
        """The OME image that this array is a level of."""
        return self._place.image

    @property
    def root(self) -> Files:
        """The group whose image this array is a level of; the array itself if it stands alone."""
        return self._place.group or self.files

    def pyramid(self) -> tuple[Volume, ...]:
        """This level and the coarser ones of its image, opened to read."""
        coarser = range(self.level + 1, len(self.image.levels) if self.image else 0)
        return (self, *(Volume.open(self.root.uri, level=i) for i in coarser))

    # --- writing

    def write(self, box: Box, data: Voxels) -> Written:
        """Write whole chunks; read them back, compare, make them durable. Raises as `lay` does."""
        size = self.lay(box, data)
        self.settle([box])
        return Written(size, voxels_sha256(data))  # as it was read back

    def lay(self, box: Box, data: Voxels) -> int:
        """Write whole chunks; read them back and compare. Durable only after `settle`: many together take a fraction
        of the time. Returns the bytes of the chunk objects in the store.

        Raises MisalignedWriteError where the box covers part of a chunk (shard); VolumeError where data are not of the
        box's shape and the volume's type, the volume is not writable, or other voxels come back.
        """
        self._check_write(box)
        if data.dtype != self.dtype or data.shape != box.shape:
            raise VolumeError(
                f"data of {data.dtype} {data.shape} do not fit box {box} of {self.dtype} {box.shape}", where=self.uri
            )
        reach("write", str(box))
        try:
            self._put(box, data)
        except Exception as error:
            raise in_words(error, self.files.uri, "write") from error
        reach("readback", str(box))
        self._check_back(np.array_equal(self.read(box), data), box)
        return sum(s.size for s in self.files.stats(self.keys(box)) if s)

    def graft(self, box: Box, base: Volume, changed: Mapping[Box, Voxels]) -> int | None:
        """`lay` one shard: what `base` stores there, but with these chunks (boxes of whole chunks, cut to the volume).

        The others are taken over as they are encoded: a section of a shard 64 deep costs one chunk to encode, not 64.
        None, and nothing is done, where that is not possible: no shards, codecs that only zarr knows, or a base that
        is laid out otherwise or cannot be understood. Raises as `lay`.
        """
        self._check_write(box)
        coder, like = self._coder, base._coder
        if coder is None or like is None or not coder.writes or coder.index_at is None or coder.form != like.form:
            return None
        key = self.key(index_of(box, self.grain))
        before = base.files.read(base.key(index_of(box, base.grain))) or b""
        parts = {coder.inner(chunk): coder.encode(voxels) for chunk, voxels in changed.items()}
        made = splice(before, coder.counts, parts, at=coder.index_at, crc=coder.index_crc)
        base._count(len(before), 0)
        if made is None:
            return None
        reach("write", str(box))
        self.files.lay(key, made)
        self._count(0, len(made))
        reach("readback", str(box))
        back = self.files.read(key)
        self._count(len(back or b""), 0)
        self._check_back(back == made, box)
        return len(made)

    def settle(self, boxes: Sequence[Box]) -> None:
        """Make what was laid durable: it survives a power cut. Raises OSError."""
        if keys := [key for box in boxes for key in self.keys(box)]:
            here = self.files.local
            reach("fsync", str(boxes[0]), [here / k for k in keys] if here is not None else ())
            self.files.sync(keys)

    def _put(self, box: Box, data: Voxels) -> None:
        coder, whole = self._coder, box.aligned_in(self.grain, self.shape)
        if coder is None or not coder.writes or coder.index_at is not None or not whole:
            axes = [self._order.index(d) for d in self.layout.dims]
            extra = (1,) * (len(axes) - 3)
            _, array = self._by_zarr(write=True)
            array[self._slices(box)] = data.reshape(extra + data.shape).transpose(axes)
            return

        def one(cell: Box) -> None:
            raw = coder.encode(data[(cell & box).within(box)])
            self.files.lay(self.key(index_of(cell, self.grain)), raw)
            self._count(0, len(raw))

        each(one, list(box.cells(self.chunks)))

    def _check_back(self, same: bool, box: Box) -> None:
        if not same:
            raise VolumeError(
                f"other voxels came back from box {box} than were written",
                where=self.uri,
                why="something else writes to these chunks, or the disk or its driver is faulty",
                do="let one process at a time write to a store; check the disk",
            )

    def erase(self, box: Box) -> None:
        """Delete whole chunks: they are absent then. Raises as `write` does."""
        self._check_write(box)
        for key in self.keys(box):
            self.files.delete(key)

    def _check_write(self, box: Box) -> None:
        self._check_inside(box)
        if not self.writable:
            raise VolumeError("the volume is open to be read only", where=self.uri, do="open it with writable=True")
        if not box.aligned_in(self.grain, self.shape):
            whole = box.aligned(self.grain) & Box.of(self.shape)
            cut = next(c for c in map(self.box, self._cells(box)) if c not in box)
            raise MisalignedWriteError(
                f"a write to {box} covers part of chunk {cut}",
                where=f"{self.uri}, chunks of one writer {self.grain}",
                why="two writers on parts of one chunk lose each other's voxels, without an error (zarr-python#3682)",
                do=f"write the whole chunks {whole}",
            )

    def resize(self, shape: ZYX, *, fewer: bool = False) -> None:
        """Give the volume more sections; metadata only. Raises VolumeError for any other change of shape.

        fewer: it may also lose sections; their chunks are the caller's to erase, first.
        """
        if (shape[0] < self.shape[0] and not fewer) or shape[1:] != self.shape[1:] or not self.writable:
            raise VolumeError(
                f"cannot resize {self.shape} to {shape}",
                where=self.uri,
                why="a volume may only get more sections" if self.writable else "it is open to be read only",
                do="make a new volume",
            )
        doc = {**self._place.doc, "shape": list(self._stored(shape, 1))}
        self.files.put("zarr.json" if self.zarr_format == 3 else ".zarray", json.dumps(doc, indent=2).encode())
        self._place = replace(self._place, doc=doc)
        self._describe()
        self._connect()

    @property
    def bytes_read(self) -> int:
        """Stored bytes of chunks read through this object so far, those that `write` reads back included."""
        return self._moved[0] + (int(self._opened[False][0].read) if False in self._opened else 0)

    @property
    def bytes_written(self) -> int:
        """Stored bytes of chunks written through this object so far."""
        return self._moved[1] + (int(self._opened[True][0].written) if True in self._opened else 0)


def _check_new(files: Files, dtype: np.dtype[Any], chunks: ZYX, shards: ZYX | None, zarr_format: int) -> None:
    if dtype not in (np.uint8, np.uint16):
        raise VolumeError(f"voxels of type {dtype} are not supported", where=files.uri, do="use uint8 or uint16")
    if shards is not None and (zarr_format == 2 or any(s % c for s, c in zip(shards, chunks, strict=True))):
        raise VolumeError(
            f"shards {shards} do not go with chunks {chunks} in Zarr v{zarr_format}",
            where=files.uri,
            why="a shard is whole chunks, and Zarr v2 has none",
            do="use multiples of the chunks, and Zarr v3",
        )


def _checked(voxel_nm: Sequence[float]) -> Voxel:
    if len(voxel_nm) != 3 or not all(math.isfinite(v) and v > 0 for v in voxel_nm):
        what, do = f"voxel_nm {tuple(voxel_nm)} is not a voxel size", "give three positive numbers: z, y, x in nm"
        raise VolumeError(what, where="volume.voxel_size_nm", do=do)
    z, y, x = map(float, voxel_nm)
    return z, y, x


def sha256(value: object) -> str:
    """Of a JSON-like value, canonically written."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def voxels_sha256(voxels: Voxels) -> str:
    """Of voxels in C order, little-endian: what `Written.sha256` and records hold."""
    return hashlib.sha256(np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<")).data).hexdigest()
