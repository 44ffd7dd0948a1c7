"""A second verifier, written from docs/format.md with nothing of zmend: numpy, zarr, pyarrow, hashlib.

    python tests/independent.py mended.zarr

For stores and sources on a disk, sources that are sharded only without absent inner chunks. Of OME attributes and the
certificate it knows only that they are as they were sealed (older stores have no seal), of weights only those that a
path names. Out of its scope: what runs say of themselves, and records, plans and flags that are no longer in force.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import zarr
from pyarrow import parquet

DOCUMENTS = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
MADE, ORDER = (1, 2, 3, 5), (5, 1, 2, 3, 4, 0)
RANK = np.array([ORDER.index(v) if v in ORDER else 5 for v in range(256)], np.uint8)


def hexdigest(data) -> str:
    return sha256(data).hexdigest()


def digest(document) -> str:
    return hexdigest(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def cut(start, stop, origin=(0, 0, 0)):
    return tuple(map(slice, np.subtract(start, origin).tolist(), np.subtract(stop, origin).tolist()))


def document(folder: Path) -> dict:
    """A group's or array's metadata, its attributes under `attributes`, in either version of Zarr."""
    if (folder / "zarr.json").is_file():
        return json.loads((folder / "zarr.json").read_bytes())
    name = next(n for n in (".zarray", ".zgroup") if (folder / n).is_file())
    attributes = json.loads((folder / ".zattrs").read_bytes()) if (folder / ".zattrs").is_file() else {}
    return {**json.loads((folder / name).read_bytes()), "attributes": attributes}


class Array:
    """One Zarr array seen as (z, y, x)."""

    def __init__(self, folder: Path, names=None) -> None:
        self.folder, doc = folder, document(folder)
        self.array, three = zarr.open_array(str(folder), mode="r"), doc["zarr_format"] == 3
        names = names or doc.get("dimension_names") or doc["attributes"].get("_ARRAY_DIMENSIONS") or list("zyx")
        self.names, self.axes = names, [names.index(n) for n in "zyx"]
        self.rest = [i for i in range(len(names)) if i not in self.axes]
        self.shape = tuple(self.array.shape[i] for i in self.axes)
        grain = doc["chunk_grid"]["configuration"]["chunk_shape"] if three else doc["chunks"]
        self.grain = tuple(grain[i] for i in self.axes)
        encoding = doc["chunk_key_encoding"] if three else {"name": "v2"}
        self.prefix = ["c"] if encoding["name"] == "default" else []
        own = encoding.get("configuration", {}).get("separator", "/" if self.prefix else ".")
        self.separator = own if three else doc.get("dimension_separator", ".")

    def read(self, start=(0, 0, 0), stop=None):
        stored = [slice(0, 1)] * (len(self.axes) + len(self.rest))
        for axis, part in zip(self.axes, cut(start, stop or self.shape), strict=True):
            stored[axis] = part
        found = np.asarray(self.array[tuple(stored)]).transpose([*self.rest, *self.axes])
        return found.reshape(found.shape[len(self.rest) :]).astype(found.dtype.newbyteorder("<"), order="C")

    def chunks(self) -> dict:
        """(start, stop) of every chunk object that exists, by its key, folders walked in order of names."""
        names = sorted(p.relative_to(self.folder).parts for p in self.folder.rglob("*") if p.is_file())
        return {"/".join(n): box for n in names if (box := self.box("/".join(n).split(self.separator)))}

    def box(self, parts):
        index = parts[len(self.prefix) :]
        if parts != self.prefix + index or len(index) != len(self.names) or not all(i.isdigit() for i in index):
            return None
        start = tuple(int(index[a]) * g for a, g in zip(self.axes, self.grain, strict=True))
        return start, tuple(min(a + g, n) for a, g, n in zip(start, self.grain, self.shape, strict=True))


def absence(there, start, stop):
    """bool (z, y, x): voxels of chunks that do not exist. there: the boxes of those that do."""
    absent = np.ones(np.subtract(stop, start), bool)
    for lo, hi in there:
        absent[cut(np.clip(lo, start, stop), np.clip(hi, start, stop), start)] = False
    return absent


def levels(uri: str, level: int) -> list:
    """The arrays of the source from the mended level on, each with its voxel size (None: not known)."""
    folder, attributes = Path(uri), document(Path(uri))["attributes"]
    ome = attributes.get("ome", attributes)
    if "multiscales" not in ome:
        return [(Array(folder), None)]
    image = ome["multiscales"][0]
    names = [a["name"].lower() for a in image["axes"]]
    arrays = [(Array(folder / e["path"], names), e["coordinateTransformations"][0]) for e in image["datasets"][level:]]
    return [(array, [first["scale"][a] for a in array.axes]) for array, first in arrays]


def flags_of(rows, start, stop, shape):
    """uint8 (z, y, x): the flag of every voxel of a box."""
    out = np.zeros(np.subtract(stop, start), np.uint8)
    for row in sorted(rows, key=lambda r: r["class"] == "do_not_touch"):
        lo = np.clip([int(row[f"{a}_start"] or 0) for a in "zyx"], start, stop)
        hi = np.clip([int(row[f"{a}_stop"] or n) for a, n in zip("zyx", shape, strict=True)], start, stop)
        if (lo >= hi).any():
            continue
        window = out[cut(lo, hi, start)]
        here = mask(row["mask"], lo, hi, shape) if row["mask"] else np.ones(window.shape, bool)
        if row["class"] == "do_not_touch":
            window[here] = 0
        elif row["y_start"] == "" and not row["mask"]:
            window[here] = 1
        else:
            window[here & (window == 0)] = 2
    return out


def mask(uri, lo, hi, shape):
    uri, _, bit = uri.partition(" & ")
    uri, _, least_value = (part.strip() for part in uri.partition(">="))
    (array, _), *_ = levels(uri, 0)
    fits = [(n, m, -(-n // m)) for n, m in zip(shape, array.shape, strict=True)]
    factors = [next((f for f in (1 << (least - 1).bit_length(), least) if -(-n // f) == m), 1) for n, m, least in fits]
    factors[0] = 1 if factors[1:] == [1, 1] else factors[0]
    index = [np.arange(a, b) // f for a, b, f in zip(lo, hi, factors, strict=True)]
    values = array.read((0, 0, 0), [int(i[-1]) + 1 for i in index])[np.ix_(*index)]
    return (values & int(bit) if bit else values) >= int(least_value or 1)


def records_of(folder: Path, faults: list) -> dict:
    """Every record in force, by slab."""
    found, before = {}, "0" * 64
    for number, path in enumerate(sorted(folder.glob("[ps]*/*.parquet"), key=lambda p: p.name)):
        raw, name = path.read_bytes(), path.name[9:73]
        if path.parent.name == "packs" and hexdigest(raw) != name:
            faults.append(f"pack {path.name} is not what it is named after")
        elif path.parent.name == "packs":
            about = json.loads(parquet.read_schema(BytesIO(raw)).metadata[b"zmend"])
            broken = int(path.name[:8]) != number or about["previous"] != before
            faults += [f"pack {path.name} does not follow the one before it"] * broken
            for row in parquet.read_table(BytesIO(raw)).to_pylist():
                found.pop(row["slab"].hex(), None)
                found |= {} if row["withdrawn"] else {row["slab"].hex(): unpacked(row)}
        before = name
    for path in sorted(folder.glob("??/*.json")):
        record = json.loads(path.read_bytes())
        good = record.pop("digest", "") == digest(record) and record["slab"] == path.stem
        good &= path.read_bytes() == json.dumps({**record, "digest": digest(record)}, sort_keys=True).encode()
        faults += [] if good else [f"record {path.stem} does not hash to what it says"]
        found |= {path.stem: record} if good and path.stem not in found else {}
    return found


def unpacked(row) -> dict:
    rest = json.loads(row["rest"])
    if row["inputs"] is None:
        return rest
    corner, hashes, chunks = np.array([row[a] for a in "zyx"]), row["hashes"].hex(), []
    for start, stop, count in rest["chunks"]:
        boxes = (np.array([start, stop]) + corner).tolist()
        chunks.append([*boxes, *(hashes[64 * i : 64 * i + 64] for i in range(count))])
        hashes = hashes[64 * count :]
    voxels = {str(k): row[f"voxels_{k}"] for k in range(1, 6) if row[f"voxels_{k}"] is not None}
    boxes = {key: (np.array(rest[key]) + corner).tolist() for key in ("write", "read")}
    told = {"slab": row["slab"].hex(), "chunks": chunks, "inputs_sha256": row["inputs"].hex(), "voxels": voxels}
    return {**rest, **boxes, **told}


def verify(out: str) -> list:
    """What is wrong with a store; nothing where it is what its records say."""
    try:
        return examined(Path(out))
    except Exception as e:  # tampered files fail in any way there is
        return [f"cannot be read: {type(e).__name__}: {e}"]


def examined(root: Path) -> list:
    said, faults = document(root)["attributes"]["zmend"], []
    assert said["schema"] == "zmend-store/1"
    plan = json.loads((root / f"zmend/plans/{said['head']}.json").read_bytes())
    faults += unsealed(root) if "seal" in said or (root / "zmend/seal.json").exists() else []
    faults += unproven(Path(plan["recipe"]["weights"]))
    source = levels(plan["source"]["uri"], plan["source"]["level"])
    volume, unknown = source[0][0], plan["source"]["missing_chunks"] == "unknown"
    stripped = {k: {n: v for n, v in plan[k].items() if n not in ("uri", "path")} for k in ("source", "flags")}
    hashed = digest({k: v for k, v in {**plan, **stripped}.items() if k != "hash"})
    faults += ["the plan does not hash to its name"] * (not hashed == plan["hash"] == said["head"])
    text = (root / f"zmend/flags/{plan['flags']['digest']}.csv").read_bytes()
    faults += ["the flags are not those of the plan"] * (hexdigest(text) != plan["flags"]["copy_sha256"])
    rows = list(csv.DictReader(line for line in text.decode().splitlines() if not line.startswith("#")))
    arrays = [Array(root / "zmend/overlay"), Array(root / "labels/synthetic/0")]
    arrays += [Array(root / "zmend/uncertainty")] if plan["recipe"].get("uncertainty") else []
    faults += [f"{a.folder} has another shape than the source" for a in arrays if a.shape != volume.shape]
    records = records_of(root / "zmend/records", faults)
    there = list(volume.chunks().values())
    named = [set() for _ in arrays]
    for slab, *write, start, stop in plan["slabs"]:
        if slab not in records:
            faults.append(f"slab {slab} has no record")
            continue
        record = records[slab]
        due = {"slab": slab, "write": write, "read": [start, stop], "recipe": plan["recipe_digest"]}
        due |= {"seed": (plan["recipe"]["seed"] + record.get("attempt", 0)) % 2**63, "restorer": plan["restorer"]["name"], "weights": plan["restorer"]["digest"]}
        faults += [f"slab {slab} has another {k} than the plan" for k, v in due.items() if record[k] != v]
        absent = np.packbits(absence(there, start, stop) & unknown)
        parts = volume.read(start, stop), flags_of(rows, start, stop, volume.shape), absent
        seen = hexdigest(b"".join(part.tobytes() for part in parts))
        faults += [f"slab {slab} was made from other inputs"] * (seen != record["inputs_sha256"])
        faults += chunks_of(record, arrays, rows, plan["recipe"].get("refuse_above"), named)
    for array, known in zip(arrays, named, strict=True):
        faults += [f"{array.folder} {box} has no record" for box in array.chunks().values() if box not in known]
    if (root / "0").is_dir():
        faults += merged(root, source, arrays)
        manifest = "".join(f"{k}\t{s.st_size}\t{s.st_mtime_ns}\t\n" for k in volume.chunks() for s in [(volume.folder / k).stat()])
        noted = json.loads((root / "zmend/merge.json").read_bytes())["source_manifest"]
        faults += ["the source is not what was merged"] * (hexdigest(manifest.encode()) != noted)
    elif said["mode"] == "volume":
        faults.append("there is no merged volume")
    return faults


def unsealed(root: Path) -> list:
    """Documents that are not what they were when the store was sealed."""
    seal = json.loads(raw := (root / "zmend/seal.json").read_bytes())
    said = seal.pop("digest")
    sealed, folders = seal["documents"], [root, *(p for p in root.rglob("*") if p.is_dir() and "kept" not in p.relative_to(root).parts)]
    good = said == digest(seal) and raw == json.dumps({**seal, "digest": said}, indent=1).encode()
    names = {f"{f.relative_to(root)}/{n}".removeprefix("./") for f in folders for n in DOCUMENTS if (f / n).is_file()}
    wrong = [k for k in names | set(sealed) if sealed.get(k) != hexdigest((root / k).read_bytes())]
    return [f"{key} is not what was sealed" for key in wrong] + ["the seal is not what was written"] * (not good)


def unproven(weights: Path) -> list:
    """Weights that a path names, and that are not those of the card beside them."""
    if weights.suffix != ".safetensors":
        return []
    card = json.loads(weights.with_suffix(".json").read_bytes())
    return ["the weights are not those of their card"] * (hexdigest(weights.read_bytes()) != card["sha256"])


def chunks_of(record, arrays, rows, limit, named) -> list:
    """What is wrong with the chunks that a record tells of; adds them to `named`."""
    faults, sums, slab = [], Counter(), record["slab"]
    for start, stop, *digests in record["chunks"]:
        box = tuple(start), tuple(stop)
        faults += [f"chunk {box} has two records"] * (box in named[0])
        seen = [a.read(start, stop) for a in arrays[: len(digests)]]
        for known, array, digest in zip(named, seen, digests, strict=False):
            known.add(box)
            faults += [f"slab {slab}, chunk {box} is not what was written"] * (hexdigest(array.tobytes()) != digest)
        labels, spread = seen[1], seen[2] if len(seen) > 2 else np.zeros(seen[1].shape, np.uint8)
        made = np.isin(labels, MADE)
        wrong = ((labels > 0) & (flags_of(rows, start, stop, arrays[0].shape) == 0)) | ((spread > 0) & ~made)
        faults += [f"labels in {box} are not those of flags and spread"] * bool((wrong | (made & ((labels == 5) != (spread > (255 if limit is None else limit / 0.5))))).any())
        faults += [f"{box} has no spread"] * bool(len(digests) < len(arrays) and len(arrays) > 2 and made.any())
        sums.update(labels[labels > 0].tolist())
    return faults + [f"slab {slab} recorded other voxels"] * ({int(k): v for k, v in record["voxels"].items() if v} != dict(sums))


def merged(root: Path, source, arrays) -> list:
    """What is wrong with the merged volume and its coarser levels."""
    faults, due, labels, below = [], arrays[0].read(), arrays[1].read(), None
    mine = labels
    for number, (theirs, size) in enumerate(source):
        if number:
            mine = np.asarray(ORDER, np.uint8)[under(RANK[labels], np.rint(np.divide(size, source[0][1])).astype(int), theirs.shape, np.minimum)]
            step = np.rint(np.divide(size, source[number - 1][1])).astype(int)
            sizes = (below.astype(np.uint64), np.ones(below.shape, np.uint64))
            total, count = (under(v, step, theirs.shape, np.add) for v in sizes)
            due = (2 * total + count) // (2 * count)
            wrong = int((Array(root / f"labels/synthetic/{number}").read() != mine).sum())
            faults += [f"{wrong} labels of level {number} are not what is under them"] * bool(wrong)
        below = Array(root / str(number), theirs.names).read()
        wrong = int((below != np.where(np.isin(mine, MADE), due, theirs.read())).sum())
        faults += [f"{wrong} voxels of level {number} are not what they must be"] * bool(wrong)
    return faults


def under(fine, step, shape, combine):
    """What `combine` makes of the footprint of each voxel of a coarser level of that shape."""
    fine = fine[tuple(slice(0, n * s) for n, s in zip(shape, step, strict=True))]
    for axis, s in enumerate(step):
        fine = combine.reduceat(fine, np.arange(0, fine.shape[axis], s), axis)
    return fine


if __name__ == "__main__":
    found = verify(sys.argv[1])
    print("\n".join(found) or "verified")
    sys.exit(5 if found else 0)
