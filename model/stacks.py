"""Stacks: a folder of npz files and the manifest.json that says what they are, read and checked.

    manifest.json   {"mine": {"file": "mine.npz", "voxel_zyx_nm": [45, 4.6, 4.6], "licence": "..."}}
    mine.npz        `raw`, uint8 (z, y, x); for evaluations perhaps `membranes`, bool of that shape

Nothing is ever unpickled. Whoever makes such a folder by hand makes mistakes: each is said with its place and remedy.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Entry = Mapping[str, Any]
Manifest = Mapping[str, Entry]
Triple = tuple[float, float, float]

EXAMPLE = '{"mine": {"file": "mine.npz", "voxel_zyx_nm": [45, 4.6, 4.6], "licence": "..."}}'


class StackError(ValueError):
    """A folder of stacks cannot be used; the message says where, why and what to do."""


def read_manifest(folder: Path) -> Manifest:
    """What manifest.json says, every entry checked for its form. Raises StackError."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise StackError(f"there is no {path}: --data names a folder with manifest.json and npz files")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise StackError(f"{path} is not JSON ({error}); it should look like {EXAMPLE}") from error
    if not isinstance(manifest, dict) or not all(isinstance(e, dict) for e in manifest.values()):
        raise StackError(f"{path} must hold one object a stack, like {EXAMPLE}")
    for name, entry in manifest.items():
        _check_entry(f"{path}, stack {name!r}", entry)
    return manifest


def _check_entry(where: str, entry: Entry) -> None:
    if missing := [key for key in ("file", "voxel_zyx_nm") if key not in entry]:
        raise StackError(f"{where}: says no {' and no '.join(missing)}; it should look like {EXAMPLE}")
    voxel = entry["voxel_zyx_nm"]
    if not (isinstance(voxel, list) and len(voxel) == 3 and all(_is_size(v) for v in voxel)):
        raise StackError(f"{where}: voxel_zyx_nm {voxel!r} must be three sizes in nm, z y x, above 0")
    span = entry.get("sections", [0, 1])
    if not (isinstance(span, list) and len(span) == 2 and all(type(v) is int for v in span) and 0 <= span[0] < span[1]):
        raise StackError(f"{where}: sections {span!r} must be [first, last + 1], counted from 0")


def _is_size(value: object) -> bool:
    return type(value) in (int, float) and 0 < float(value) < 1e6  # type: ignore[arg-type]  # nor NaN


def voxel_of(entry: Entry) -> Triple:
    z, y, x = entry["voxel_zyx_nm"]
    return float(z), float(y), float(x)


def read(folder: Path, name: str, entry: Entry) -> dict[str, Array]:
    """The arrays `raw` and, where it is there, `membranes` of a stack. Raises StackError."""
    path = folder / str(entry["file"])
    if not path.is_file():
        raise StackError(f"manifest.json says that stack {name!r} lies in {path}, where there is no file")
    try:
        with path.open("rb") as file:
            arrays = _arrays(path, np.load(file))  # allow_pickle is off: an array of objects is refused
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, StackError):
            raise
        raise StackError(f"{path} cannot be read ({error}): it is damaged or no npz; copy or save it again") from error
    _check(path, arrays)
    return arrays


def _arrays(path: Path, found: Any) -> dict[str, Array]:
    if not isinstance(found, np.lib.npyio.NpzFile):
        _refuse(path, "it is a single array, not an npz", "save it with np.savez(path, raw=array)")
    if "raw" not in found:
        _refuse(path, f"it has no array 'raw' but {found.files}", "save it with np.savez(path, raw=array)")
    return {key: found[key] for key in ("raw", "membranes") if key in found}


def _check(path: Path, arrays: Mapping[str, Array]) -> None:
    raw = arrays["raw"]
    if raw.dtype != np.uint8 or raw.ndim != 3 or not raw.size:
        _refuse(path, f"raw is {raw.dtype.name} {raw.shape}, not uint8 (z, y, x)",
                "scale its greys to 0 ... 255 (NaN cannot be learnt from) and save it again")  # fmt: skip
    if raw.min() == raw.max():
        _refuse(path, f"every voxel of raw is {raw.min()}", "there is nothing to learn in it; leave the stack out")
    drawn = arrays.get("membranes")
    if drawn is not None and drawn.shape != raw.shape:
        _refuse(path, f"membranes {drawn.shape} are not of raw's shape {raw.shape}", "leave them out or save them anew")


def _refuse(path: Path, why: str, do: str) -> NoReturn:
    raise StackError(f"{path} is not a stack: {why}; {do}")
