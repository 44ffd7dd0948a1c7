"""Pack file: many records as one Parquet file. A row is columns for what differs from record to record, digests as
bytes, and one text with everything else, boxes told from the slab's corner: most slabs of a run share that text, and
it is stored once. A record that would not come back from that as it was is kept as its JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.ids import WIDTH

Json: TypeAlias = dict[str, Any]
Row: TypeAlias = dict[str, Any]

SCHEMA = "zmend-pack/1"
INTS = ("z", "y", "x", "first_ms", "second_ms")
LONGS = ("bytes_read", "bytes_written", "voxels_1", "voxels_2", "voxels_3", "voxels_4", "voxels_5")


APART = ("slab", "inputs_sha256", "seconds", "bytes_read", "bytes_written")  # of a record: columns of their own


def encode(record: Json) -> Row:
    """The row of a record."""
    row = _columns(record)
    return row if row is not None and decode(row) == record else {"slab": record["slab"], "rest": _text(record)}


def _columns(record: Json) -> Row | None:
    """Columns and the rest; None where the record is not like others."""
    rest = {k: v for k, v in record.items() if k not in APART}
    try:
        corner, voxels, chunks = record["write"][0], rest.pop("voxels"), rest.pop("chunks")
        rest |= told_from(record)
        return {
            "slab": record["slab"],
            "inputs": bytes.fromhex(record["inputs_sha256"]),
            "hashes": bytes.fromhex("".join(h for c in chunks for h in c[2:])),
            **dict(zip("zyx", corner, strict=True)),
            **{f"{k}_ms": round(s * 1000) for k, s in zip(("first", "second"), record["seconds"], strict=True)},
            **{k: record[k] for k in ("bytes_read", "bytes_written")},
            **{f"voxels_{k}": n for k, n in voxels.items()},
            "rest": _text(rest),
        }
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None


def told_from(record: Json) -> Json:
    """The boxes of a record, told from the corner of its write box, and of each chunk how many digests it has."""
    corner = record["write"][0]
    boxes = {k: _moved(record[k], corner, -1) for k in ("write", "read")}
    return {**boxes, "chunks": [[*_moved(c[:2], corner, -1), len(c) - 2] for c in record["chunks"]]}


def decode(row: Row) -> Json:
    """The record of a row."""
    if row.get("inputs") is None:  # none of the columns: it was not like others
        return json.loads(row["rest"])  # type: ignore[no-any-return]
    shared = common(row["rest"])
    corner = [row["z"], row["y"], row["x"]]
    hashes = row["hashes"].hex()
    chunks, at = [], 0
    for start, stop, count in shared["chunks"]:
        each = [hashes[64 * i : 64 * i + 64] for i in range(at, at + count)]
        chunks.append([*_moved([start, stop], corner, 1), *each])
        at += count
    return {
        **{k: _fresh(v) for k, v in shared.items() if k not in ("write", "read", "chunks")},
        "slab": row["slab"],
        "write": _moved(shared["write"], corner, 1),
        "read": _moved(shared["read"], corner, 1),
        "chunks": chunks,
        "inputs_sha256": row["inputs"].hex(),
        "seconds": [row["first_ms"] / 1000, row["second_ms"] / 1000],
        "bytes_read": row["bytes_read"],
        "bytes_written": row["bytes_written"],
        "voxels": {k[7:]: row[k] for k in LONGS[2:] if row.get(k) is not None},
    }


def _moved(box: Sequence[Sequence[int]], corner: Sequence[int], sign: int) -> list[list[int]]:
    z, y, x = (sign * c for c in corner)
    return [[a + z, b + y, c + x] for a, b, c in box]


def _fresh(value: Any) -> Any:
    """Not the cached one: a caller may change what it is given."""
    return json.loads(json.dumps(value)) if isinstance(value, list | dict) and value else type(value)(value)


def _text(document: Json) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=4096)
def common(text: str) -> Json:
    """What the records with this text share: one document, which nobody may change."""
    return json.loads(text)  # type: ignore[no-any-return]


def write(rows: Sequence[Row], withdrawn: Sequence[str], before: str) -> bytes:
    """The bytes of a pack. Rows are records; `withdrawn` are ids whose records are out of force from here on.

    before: sha256 of the pack before this one.
    """
    import pyarrow as pa
    from pyarrow import parquet

    ids = [bytes.fromhex(i) for i in (*(r["slab"] for r in rows), *withdrawn)]
    empty = [None] * len(withdrawn)
    columns = {
        "slab": pa.array(ids, pa.binary(WIDTH)),
        "withdrawn": pa.array([False] * len(rows) + [True] * len(withdrawn)),
        "inputs": pa.array([r.get("inputs") for r in rows] + empty, pa.binary(32)),
        "hashes": pa.array([r.get("hashes") for r in rows] + empty, pa.binary()),
        **{k: pa.array([r.get(k) for r in rows] + empty, pa.int32()) for k in INTS},
        **{k: pa.array([r.get(k) for r in rows] + empty, pa.int64()) for k in LONGS},
        "rest": pa.array([r["rest"] for r in rows] + empty, pa.string()),
    }
    about = {"zmend": json.dumps({"schema": SCHEMA, "previous": before})}
    sink = BytesIO()
    parquet.write_table(
        pa.table(columns).replace_schema_metadata(about),
        sink,
        compression="zstd",
        use_dictionary=["rest", *INTS[:3], *LONGS],
        write_statistics=False,
    )
    return sink.getvalue()


def table(raw: bytes, columns: Sequence[str] | None = None, texts: Sequence[str] = ()) -> Any:
    """The pyarrow Table of a pack; with the columns that are named, of which `texts` come as dictionaries."""
    import pyarrow as pa
    from pyarrow import parquet

    # parquet.read_table would make a dataset of it first, which takes four times as long.
    file = parquet.ParquetFile(pa.BufferReader(raw), read_dictionary=list(texts))
    return file.read(columns=columns and list(columns), use_threads=False)


def previous(raw: bytes) -> str:
    """sha256 of the pack before this one, as this one says."""
    from pyarrow import parquet

    about = parquet.read_schema(BytesIO(raw)).metadata
    return str(json.loads(about[b"zmend"])["previous"])


def read_ids(raw: bytes) -> tuple[NDArray[np.bytes_], NDArray[np.bool_]]:
    """(n,) S16 ids and (n,) whether the row withdraws, in the order of the rows."""
    found = table(raw, ["slab", "withdrawn"])
    return sixteens(found["slab"]), found["withdrawn"].to_numpy(zero_copy_only=False).astype(bool)


def sixteens(column: Any) -> NDArray[np.bytes_]:
    """(n,) S16 of a column of ids."""
    parts = ((memoryview(c.buffers()[1]), c.offset * WIDTH, len(c) * WIDTH) for c in column.chunks)
    return np.frombuffer(b"".join(buffer[start : start + size] for buffer, start, size in parts), f"S{WIDTH}")


def read_rows(raw: bytes) -> list[Row]:
    """All rows; those that withdraw have an id and nothing else."""
    rows: list[Row] = table(raw).to_pylist()
    return [{**r, "slab": r["slab"].hex()} for r in rows]
