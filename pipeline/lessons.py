"""Lessons: what training learns from a volume: boxes of its intact sections. Nobody has to label anything.

    boxes to take, in order (columns) -> read, look, grey scale -> STATE/lessons/NAME.npz and manifest.json

A section of a box is intact where no flag touches it, no chunk under it is absent and it is not mostly one grey. The
lessons appear whole or not at all, and are bound to what they were taken from: training that resumes sees the same.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import flagfile
from pipeline.blend import to_unit
from pipeline.box import ZYX, Box
from pipeline.columns import DEPTH, EDGES, LEAST, U8, Intact, Mask, choose, kept, textured
from pipeline.errors import FlagError, InputError, UnfitError, VolumeError
from pipeline.files import Files
from pipeline.flags import Flags, address
from pipeline.intensity import measure
from pipeline.job import read_mask
from pipeline.ome import Voxel
from pipeline.plan import runs
from pipeline.recipe import digest
from pipeline.volume import Volume

SCHEMA = "zmend-lessons/1"
NOT_STATED = "the owner's own data; not stated"


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that decides which lessons are taken."""

    volume: str
    flags: str = ""  # "": nothing is known to be damaged
    level: int = 0
    voxel_nm: Voxel | None = None  # overrules what the volume says
    intensity: tuple[float, float] | None = None  # black and white, as in a recipe
    megavoxels: float = 256.0
    crop: int = 128  # pixels a side of a training window
    seed: int = 0
    licence: str = NOT_STATED

    def bound(self, source: Volume, flags: Flags) -> dict[str, Any]:
        """What lessons are bound to; the keys are words for people."""
        return {
            "volume": source.uri, "level": source.level, "shape, type or voxel size": source.fingerprint(),
            "flags": flags.digest, "intensity": self.intensity, "megavoxels": self.megavoxels, "crop": self.crop,
            "seed": self.seed, "licence": self.licence,
        }  # fmt: skip


# ---- taking them


@dataclass(slots=True)
class Tally:
    """What was seen on the way; the words of a failure are made of it."""

    longest: int = 0  # run of intact sections in a column
    blank: int = 0  # boxes that were mostly one grey
    voxels: int = 0  # taken


def take(request: Request, state: Path, on_event: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
    """The lessons under a training's state: found there, or taken now. Says where they are and what they hold.

    Raises InputError where nothing can be learnt from the volume, or the lessons there were taken otherwise.
    """
    source = Volume.open(request.volume, level=request.level, voxel_nm=request.voxel_nm)
    _check(source, request)
    flags = _flags(request.flags, source)
    bound = request.bound(source, flags)
    folder = state.absolute() / "lessons"
    if folder.exists():
        return _found(folder, bound, state)
    _check_room(folder, request, source)
    part = folder.with_name(".lessons.partial")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        _write(Files(str(part)), request, source, flags, bound, on_event)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _found(folder, bound, state)


def _flags(path: str, source: Volume) -> Flags:
    if not path:
        return Flags.of(())
    if not Path(path).exists():
        raise FlagError("there is no such flags file", where=path, do="check the path after --flags, or leave it out")

    def shape_of(uri: str) -> ZYX:
        return Volume.open(address(uri), mask=True).shape

    return flagfile.load(path, shape=source.shape, voxel_nm=source.voxel_nm, mask_shape=shape_of)


def _check(source: Volume, request: Request) -> None:
    """Refuse what cannot be learnt from before anything is read."""
    size, crop = source.voxel_nm, request.crop
    if size is None:
        raise VolumeError(
            "the voxel size is not known",
            where=source.uri,
            why="weights hold for the sizes that they were trained at, and the volume does not say its own",
            do="give it in nm, z y x: --voxel-size 45 4.6 4.6",
        )
    if size[0] == size[1] == size[2]:
        raise VolumeError(
            f"the voxels are cubes of {size[0]:g} nm",
            where=source.uri,
            why="serial sections are thicker than a pixel is wide; to training, cubes are FIB-SEM, to be cut across",
            do="if the volume says it wrongly: --voxel-size 45 4.6 4.6; for FIB-SEM make a folder for --data (--help)",
        )
    if min(source.shape[1:]) < crop:
        raise VolumeError(
            f"the volume is smaller than the crop of {crop} px",
            where=source.uri,
            why=f"its sections are {source.shape[1]} × {source.shape[2]} px",
            do=_smaller(min(source.shape[1:]) // 16 * 16),
        )
    low, high = request.intensity or (0, 1)
    if not 0 <= low < high <= np.iinfo(source.dtype).max:
        raise InputError(
            f"the intensity window {low:g} to {high:g} is not one of {source.dtype.name}",
            where="--intensity",
            why=f"its values lie between 0 and {np.iinfo(source.dtype).max}",
            do="give black, then white, or leave it out",
        )


def _smaller(fits: int) -> str:
    return f"give --crop {fits}" if fits >= 64 else "name a finer level (--level 0), or train on larger stacks: --data"


def _check_room(folder: Path, request: Request, source: Volume) -> None:
    need = int(min(request.megavoxels * 1e6, Box.of(source.shape).size))
    there = next(p for p in folder.parents if p.exists())
    free = shutil.disk_usage(there).free
    if free < need:
        raise UnfitError(
            f"there is no room for {need / 1e6:.0f} MB of lessons",
            where=str(there),
            why=f"{free / 1e6:.0f} MB are free",
            do="free some space, name a --state elsewhere, or take less: --megavoxels 64",
        )


def _write(
    out: Files,
    request: Request,
    source: Volume,
    flags: Flags,
    bound: dict[str, Any],
    on_event: Callable[[dict[str, Any]], None],
) -> None:
    """Every npz, then the manifest, then what they are bound to."""
    tally, files = Tally(), {}
    taken: dict[str, Box] = {}
    for box, raw in _lessons(request, source, flags, tally):
        name = "-".join([_stem(source.uri), *(f"{a}{n}" for a, n in zip("zyx", box.start, strict=True))])
        taken[name] = box
        files[f"{name}.npz"] = _put(out, f"{name}.npz", _npz(raw))
        on_event({"event": "lesson", "megavoxels": tally.voxels / 1e6, "of": request.megavoxels})
    if not taken:
        _refuse(source, flags, tally)
    manifest = _manifest(taken, source, request.licence)
    files["manifest.json"] = _put(out, "manifest.json", json.dumps(manifest, indent=1).encode())
    said = {"schema": SCHEMA, "digest": digest(bound), "made_of": bound, "sha256": files}
    _put(out, "made_of.json", json.dumps(said, indent=1).encode())


def _lessons(request: Request, source: Volume, flags: Flags, tally: Tally) -> Iterator[tuple[Box, U8]]:
    """Boxes and their greys (z, y, x) until the budget is met, or the volume is used up."""
    window = request.intensity or ((0.0, 255.0) if source.dtype == np.uint8 else measure(source))
    wanted = int(request.megavoxels * 1e6 / (DEPTH * EDGES[0] ** 2)) + 1
    intact = _intact(source, flags, tally)
    for box in choose(source.shape, request.crop, request.seed, wanted, intact):
        grey = np.rint(to_unit(source.read(box), *window) * np.float32(255)).astype(np.uint8)
        first, last = textured(grey)
        if last - first < LEAST:
            tally.blank += 1
            continue
        box, grey = box.with_z(box.start[0] + first, box.start[0] + last), grey[first:last]
        tally.voxels += box.size
        yield box, grey
        if tally.voxels >= request.megavoxels * 1e6:
            return


def _intact(source: Volume, flags: Flags, tally: Tally) -> Intact:
    """Of each section of a column: no flag of any class (and where it has a mask, no voxel of it) and no absent chunk
    touches it."""

    def ask(column: Box) -> Mask:
        good = np.ones(column.shape[0], bool)
        for flag in flags.touching(column):
            part = flag.box & column
            hurt = read_mask(flag.mask, source.shape, part).any((1, 2)) if flag.mask else True
            good[part.within(column)[0]] &= ~np.asarray(hurt)
        for hole in source.absent(column):
            good[(hole & column).within(column)[0]] = False
        tally.longest = max([tally.longest, *(b - a for a, b in runs(np.flatnonzero(good).tolist()))])
        return good

    return ask


def _refuse(source: Volume, flags: Flags, tally: Tally) -> None:
    if tally.longest >= LEAST:
        raise InputError(
            f"all {tally.blank} boxes of intact sections that were looked at are mostly one grey",
            where=source.uri,
            why="they are background, or the intensity window is far too wide",
            do="check the volume and --intensity BLACK WHITE, or train on your own stacks: --data",
        )
    raise InputError(
        f"no run of {LEAST} intact sections anywhere",
        where=source.uri,
        why=f"the longest run of {source.shape[0]} sections that no flag ({len(flags)} in the list) and no absent chunk"
        f" touches has {tally.longest}",
        do="where only a part is damaged flag a box or a mask, not whole sections; or train on other stacks: --data",
    )


def _manifest(taken: dict[str, Box], source: Volume, licence: str) -> dict[str, Any]:
    """What training reads: boxes in order of z, the last of them for validation."""
    names = sorted(taken, key=lambda name: taken[name])
    part = ["train"] * (len(names) - kept(len(names))) + ["validation"] * kept(len(names))
    return {
        name: {
            "file": f"{name}.npz", "voxel_zyx_nm": source.voxel_nm, "licence": licence, "use": use,
            "source": source.uri, "box": [taken[name].start, taken[name].stop],
        }
        for name, use in zip(names, part, strict=True)
    }  # fmt: skip


def _stem(uri: str) -> str:
    """The volume's name, as a file may be called."""
    return re.sub(r"[^\w.]+", "_", uri.rstrip("/").rsplit("/", 1)[-1].removesuffix(".zarr"))[:40] or "volume"


def _npz(raw: U8) -> bytes:
    file = io.BytesIO()
    np.savez(file, raw=raw)  # the date in it is always 1980: equal voxels, equal bytes
    return file.getvalue()


def _put(out: Files, name: str, data: bytes) -> str:
    out.put(name, data)
    return sha256(data).hexdigest()


# ---- finding them again


def _found(folder: Path, bound: dict[str, Any], state: Path) -> dict[str, Any]:
    """Lessons that are there, checked byte for byte. Raises InputError where they are others."""
    said = _made_of(folder)
    if said["digest"] != digest(bound):
        raise InputError(
            "the lessons there were taken otherwise",
            where=str(folder),
            why=f"changed since: {', '.join(_changes(said['made_of'], bound))}",
            do=f"give the same again, another --state, or go on with them: zmend train --data {folder} --state {state}",
        )
    if spoilt := [n for n, s in said["sha256"].items() if _sha256(folder / n) != s]:
        raise InputError(
            f"lesson {spoilt[0]} is not what was taken",
            where=str(folder),
            why="it was edited, cut short or removed",
            do=f"remove them, to be taken again: rm -r {folder}",
        )
    manifest = json.loads((folder / "manifest.json").read_bytes())
    voxels = sum(Box(*map(tuple, entry["box"])).size for entry in manifest.values())
    uses = [entry["use"] for entry in manifest.values()]
    return {"folder": str(folder), "boxes": len(uses), "validation": uses.count("validation"), "voxels": voxels}


def _made_of(folder: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads((folder / "made_of.json").read_bytes())
        if said["schema"] == SCHEMA:
            return said
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(
        "the folder is in the way of the lessons",
        where=str(folder),
        why="nothing in it says that zmend made it",
        do="name another --state, or move the folder away",
    )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Sequence[str]:
    now = json.loads(json.dumps(now))  # tuples are lists there
    return [key for key in now if before.get(key) != now[key]]


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
