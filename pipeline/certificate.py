"""Certificate: how well this very volume is restored. Intact sections are hidden, restored and compared with the truth.

    choose     sections near the damage, intact between intact ones, and tiles of them (arithmetic on flags)
    probes     of these tiles the ones that hold tissue
    measure    hide one tile's whole section, restore the tile as a slab does, compare with what was there
    summarise  the document zmend/certificate.json: every tile, the means, what it is bound to

It says how well *sections like these* come back; where tissue is torn it will be worse. `linear` stands beside every
number, since numbers alone mean little at 4 nm: an average scores well and has no detail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline import blend
from pipeline.box import ZYX, Box
from pipeline.cost import TILES
from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.flags import Flag, Flags, flagged
from pipeline.lattice import Geometry
from pipeline.plan import Slab
from pipeline.recipe import GREY_PER_COUNT, digest
from pipeline.restorer import Linear, Needs
from pipeline.sight import Job, look
from pipeline.slab import decide
from pipeline.volume import voxels_sha256

SCHEMA = "zmend-certificate/1"
NEAR = 50  # sections from the damage within which an intact one is looked for
TRIES = 16  # runs of damage that are tried, where those that spread over it have no intact section near
CANDIDATES = 32  # places in the damage's area, and as many in the whole section, that are thought of
ROUNDS = 8  # of replacing chosen sections that turn out to be no tissue
LOOKS = 16  # candidates of one section that are read
LEAST_PX = 32  # a narrower tile says nothing
BAND = (0.125, 0.5)  # cycles per pixel: texture and membranes' edges at 4 to 10 nm
NINETY = 1.6449  # standard deviations either side that hold 90 % of a normal distribution
GOLDEN = (0.7548776662466927, 0.5698402909980532)  # R2 sequence (Roberts 2018): points that spread over a square
SHOWN = {"psnr_gain_db": 3, "ncc": 4, "ssim": 4, "power": 4}  # metrics and decimals

Image: TypeAlias = NDArray[np.float64]
Json: TypeAlias = dict[str, Any]


# --- choosing


@dataclass(frozen=True, slots=True)
class Choice:
    """An intact section, and tiles of it that could be hidden: the best first, cut to the volume."""

    z: int
    tiles: tuple[Box, ...]


def choose(flags: Flags, shape: ZYX, needs: Needs, n: int, skip: frozenset[int] = frozenset()) -> tuple[Choice, ...]:
    """Up to n sections near the damage, spread over it: the nearest ones that are intact between intact ones.

    Intact is a section without a flag; failing that, one with tiles that no flag's box touches there or in the sections
    next to it; failing that, one where only masked flags do (`probes` looks at the masks). skip: sections not to take.
    """
    runs, found = flags.runs(), dict[int, Choice]()
    for run in (*_spread(runs, n), *_spread(runs, TRIES)):
        choice = _nearest(run, flags, shape, needs, skip | found.keys()) if len(found) < n else None
        if choice is not None:
            found[choice.z] = choice
    return tuple(found[z] for z in sorted(found))


def _spread(runs: Sequence[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """n runs (some twice, if there are fewer) from the middles of n equal parts of them."""
    return [runs[(2 * i + 1) * len(runs) // (2 * n)] for i in range(n)] if runs else []


def _nearest(run: tuple[int, int], flags: Flags, shape: ZYX, needs: Needs, taken: frozenset[int]) -> Choice | None:
    """The nearest section to a run of flagged ones, of the best kind of intact that there is."""
    area = _area([f for f in flags.touching(Box.of(shape).with_z(*run)) if f.restorable])
    second: dict[int, Choice] = {}  # by kind: 1 no boxes, 2 masks only
    for z in _outwards(run, shape[0]):
        if z in taken:
            continue
        near = [f for f in flags.touching(Box.of(shape).with_z(z - 1, z + 2)) if f.restorable]
        if not near:
            return Choice(z, tuple(_tiles(z, area, shape, needs)))
        if any(f.whole and not f.mask for f in near):
            continue
        for kind, seen in ((1, near), (2, [f for f in near if not f.mask])):
            if kind not in second:
                clear = [t for t in _tiles(z, area, shape, needs) if not _touched(t, seen, shape, needs)]
                second |= {kind: Choice(z, tuple(clear))} if clear else {}
    return second[min(second)] if second else None


def _outwards(run: tuple[int, int], depth: int) -> Iterator[int]:
    """Sections with neighbours on both sides: from a run of flagged ones outwards, the earlier of two first; then some
    of the run itself, of which each may be damaged in a few places only."""
    for away in range(1, NEAR + 1):
        yield from (z for z in (run[0] - away, run[1] - 1 + away) if 0 < z < depth - 1)
    length = run[1] - run[0]
    within = (run[0] + (2 * i + 1) * length // (2 * NEAR) for i in range(NEAR))
    yield from (z for z in dict.fromkeys(within) if 0 < z < depth - 1)


def _area(flags: Sequence[Flag]) -> tuple[ZYX, ZYX]:
    """The lateral extent of some flags."""
    starts, stops = np.array([f.box.start for f in flags]), np.array([f.box.stop for f in flags])
    (_, y0, x0), (_, y1, x1) = starts.min(0).tolist(), stops.max(0).tolist()
    return (0, y0, x0), (1, y1, x1)


def _tiles(z: int, area: tuple[ZYX, ZYX], shape: ZYX, needs: Needs) -> Iterator[Box]:
    """Distinct tiles of section z, cut to the volume: some spread over the area, then some over the whole section."""
    section, edge, least = Box((z, 0, 0), (z + 1, *shape[1:])), (1, needs.tile, needs.tile), min(LEAST_PX, needs.tile)
    seen: set[Box] = set()
    for (_, y0, x0), (_, y1, x1) in (area, ((0, 0, 0), (1, *shape[1:]))):
        for k in range(CANDIDATES):
            v, u = ((0.5 + (k + z) * g) % 1 for g in GOLDEN)  # other places in every section
            at = (z, y0 + int(v * (y1 - y0)), x0 + int(u * (x1 - x0)))
            tile = Box(at, (z + 1, at[1] + 1, at[2] + 1)).aligned(edge) & section
            if tile not in seen and min(tile.shape[1:]) >= least:
                seen.add(tile)
                yield tile


def _window(tile: Box, shape: ZYX, needs: Needs) -> Box:
    """What must be intact for a tile to be a fair test: what the restorer sees of the section and its neighbours."""
    return tile.grow(1, needs.halo, needs.halo) & Box.of(shape)


def _touched(tile: Box, flags: Iterable[Flag], shape: ZYX, needs: Needs) -> bool:
    window = _window(tile, shape, needs)
    return any((f.box & window).size for f in flags)


def probes(job: Job, n: int) -> tuple[list[Slab], str]:
    """Up to TILES tiles of up to n chosen sections, as slabs that are one tile each; if none, the reason why."""
    shape, looked = job.source.shape, dict[int, list[Slab]]()
    if not job.flags.runs():
        return [], "nothing is flagged, so nothing was restored"
    for _ in range(ROUNDS):  # sections that turn out to hold no tissue are replaced, within reason
        choices = choose(job.flags, shape, job.needs, n, frozenset(z for z, kept in looked.items() if not kept))
        looked |= {c.z: _fit(c, job) for c in choices if c.z not in looked}
        if all(looked[c.z] for c in choices):
            break
    if found := [slab for z in sorted(looked) for slab in looked[z]][: n * TILES]:
        return found, ""
    if min(shape[1:]) < LEAST_PX:
        return [], f"sections of {shape[1]} × {shape[2]} px are too small to measure on"
    if looked:
        return [], "the intact sections near the damage hold no tissue: absent chunks, background or masked damage"
    return [], f"no section within {NEAR} of the damage is intact between intact ones"


def _fit(choice: Choice, job: Job) -> list[Slab]:
    kept: list[Slab] = []
    for tile in choice.tiles[:LOOKS]:
        if len(kept) < TILES and _is_tissue(tile, job):
            kept.append(probe(tile, job))
    return kept


def _is_tissue(tile: Box, job: Job) -> bool:
    """Whether nothing in a tile's window is flagged or absent, and neither it nor its neighbours are background."""
    window = _window(tile, job.source.shape, job.needs)
    damage = [f for f in job.flags.touching(window) if f.restorable]
    if flagged(damage, window, job.read_mask).any() or job.source.absent(window):
        return False
    sections = job.source.read(tile.grow(1, 0, 0))
    return all(np.unique(s, return_counts=True)[1].max() <= tile.size // 2 for s in sections)


def probe(tile: Box, job: Job) -> Slab:
    """The slab that restores one tile of one section, and is never written."""
    geometry = Geometry(job.source.shape, (1, 1, 1), job.needs)
    read = geometry.read_box(tile, (tile.start[0], tile.stop[0]))
    return Slab("certificate-" + "-".join(map(str, tile.start)), tile, read)


def seconds(needs: Needs, n: int, draws: int) -> float:
    """Of one worker, at most: TILES whole tiles of n sections."""
    return needs.seconds(n * TILES * needs.tile**2, draws)


# --- measuring


def measure(slab: Slab, job: Job) -> Json:
    """Hide the section of a probe, restore its tile as a slab would be, and compare. Rounded: JSON-ready."""
    z, inside = slab.write.start[0], slab.write.within(slab.read)
    hidden = Flag(Box.of(job.source.shape).with_z(z, z + 1), "missing", whole=True)
    job = replace(job, flags=Flags.of([hidden, *(f for f in job.flags.touching(slab.read) if f.restorable)]))
    scene = look(slab, job)
    inputs = scene.inputs_sha256
    truth = _unit(scene.data[inside][0], job)
    around = [_unit(scene.data[(k, *inside[1:])], job) for k in (inside[0].start - 1, inside[0].stop)]
    scene.data[inside[0]] = 0  # hidden indeed: a restorer that peeks sees black
    ours = decide(scene, job)
    linear = decide(scene, replace(job, restorer=Linear(), recipe=_certain(job)))
    row: Json = {"z": z, "box": [list(slab.write.start[1:]), list(slab.write.stop[1:])], "inputs_sha256": inputs}
    if ours.left:
        return {**row, "why": ours.left[0]["why"]}
    row["made_sha256"] = hashlib.sha256(
        "".join(voxels_sha256(a) for a in (ours.sections, ours.counts)).encode()
    ).hexdigest()
    level = float(np.mean(around))
    row["restored"] = score(truth, _unit(ours.sections[0], job), level)
    row["linear"] = score(truth, _unit(linear.sections[0], job), level)
    if job.recipe.uncertainty:
        row["ensemble"] = calibration(truth, _unit(ours.sections[0], job), ours.counts[0])
    return row


def _certain(job: Job) -> Any:
    return job.recipe.model_copy(update={"uncertainty": 0, "refuse_above": None})


def _unit(section: NDArray[Any], job: Job) -> Image:
    return blend.to_unit(section, *job.intensity).astype(np.float64)


def score(truth: Image, made: Image, constant: float) -> Json:
    """How near `made` is to `truth`, both (Y, X) in [0, 1]; `constant`: the grey that knows no more than its level.

    psnr_gain_db: over that constant. ncc: Pearson's correlation. ssim: Wang et al. 2004, as scikit-image has it.
    power: of made over truth at 0.125 to 0.5 cycles per pixel; 1 is as much detail, 0.01 a blur.
    """
    from skimage.metrics import structural_similarity  # takes a while, and whoever only reads certificates needs it not

    found = {
        "psnr_gain_db": 10 * np.log10(_mse(truth, constant) / _mse(truth, made)),
        "ncc": _ncc(truth, made),
        "ssim": structural_similarity(truth, made, data_range=1.0),
        "power": _power(made) / max(_power(truth), 1e-12),
    }
    return {k: round(float(found[k]), decimals) for k, decimals in SHOWN.items()}


def _mse(truth: Image, made: Image | float) -> float:
    return max(float(np.mean((truth - made) ** 2)), 1e-10)  # 1e-10: far below half a grey level of 16 bits


def _ncc(truth: Image, made: Image) -> float:
    a, b = truth - truth.mean(), made - made.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-12 else 0.0


def _power(image: Image) -> float:
    """Power within BAND, under a Hann window, so that the tile's edges do not count as detail."""
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])[None, :]
    radius = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, image.shape), indexing="ij"))
    spectrum = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    return float(spectrum[(radius >= BAND[0]) & (radius <= BAND[1])].sum())


def calibration(truth: Image, made: Image, counts: NDArray[np.uint8]) -> Json:
    """Whether the spread tells the error. (Y, X) each; truth and made in [0, 1], counts as stored.

    spread, error: root mean squares in grey levels of 0..255. coverage_90: share of voxels whose truth lies within
    restored ± 1.645 spread.
    """
    spread, error = counts * (GREY_PER_COUNT / 255), np.abs(truth - made)
    return {
        "spread": round(255 * float(np.sqrt(np.mean(spread**2))), 3),
        "error": round(255 * float(np.sqrt(np.mean(error**2))), 3),
        "coverage_90": round(float((error <= NINETY * spread).mean()), 4),
    }


# --- the document


def summarise(
    bound: Mapping[str, Any], asked: int, rows: Iterable[Json], why: str = "", *, failed: bool = False
) -> Json:
    """The certificate: means over the tiles that were restored, what it is bound to, and every tile.

    status: measured, none (there was nothing to measure on: `why`) or failed (`why`).
    """
    tiles = sorted(rows, key=lambda r: (r["z"], r["box"]))
    good = [r for r in tiles if "restored" in r]
    if tiles and not good:
        failed, why = True, f"no tile could be restored: {tiles[0]['why']}"
    body: Json = {"schema": SCHEMA, "bound": dict(bound), "asked": asked, "why": why}
    body["status"] = "failed" if failed else "measured" if good else "none"
    body["sections"] = sorted({r["z"] for r in good})
    body |= {who: _mean([r[who] for r in good]) for who in ("restored", "linear") if good}
    if good and "ensemble" in good[0]:
        body["ensemble"] = _pooled([r["ensemble"] for r in good])
    return json.loads(json.dumps({**body, "tiles": tiles}))  # type: ignore[no-any-return]  # as it is read back


def _mean(rows: Sequence[Json]) -> Json:
    return {k: round(float(np.mean([r[k] for r in rows])), decimals) for k, decimals in SHOWN.items()}


def _pooled(rows: Sequence[Json]) -> Json:
    """Spread over skill, and coverage. `expected` says what they are for an ensemble that is right, which depends on
    what the restored voxels are: the ensemble's mean, or one sample, whose error is √2 times the spread."""
    spread, error = (float(np.sqrt(np.mean([r[k] ** 2 for r in rows]))) for k in ("spread", "error"))
    return {
        "spread_skill": round(spread / max(error, 1e-6), 4),
        "coverage_90": round(float(np.mean([r["coverage_90"] for r in rows])), 4),
        "expected": {"mean": [1.0, 0.9], "sample": [0.707, 0.755]},
    }


def alike(one: Any, other: Any) -> bool:
    """Whether two tiles' rows say the same: metrics to 0.002 (machines differ in how they sum), all else exactly."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 2e-3
    return bool(one == other)


KEY = "zmend/certificate.json"


def write(out: str, document: Json) -> None:
    """Replace the store's certificate: whole and durable, or not at all."""
    Files(out).keep(KEY, json.dumps({**document, "digest": digest(document)}, indent=1).encode())


def read(out: str) -> Json | None:
    """The store's certificate, or None. Raises VolumeError where it does not hash to what it says."""
    files = Files(out)
    raw, where = files.read(KEY), files.at(KEY)
    if raw is None:
        return None
    try:
        document: Json = json.loads(raw)
        said = document.pop("digest")
    except (ValueError, KeyError, AttributeError, TypeError) as e:
        raise _bad(where, f"{type(e).__name__}: {e}") from e
    if said != digest(document):
        raise _bad(where, "its content does not hash to what it says")
    return document


def _bad(where: str, why: str) -> VolumeError:
    return VolumeError("the certificate cannot be trusted", where=where, why=why, do="run again: it is made anew")


def is_current(out: str, bound: Mapping[str, Any], asked: int | None = None) -> bool:
    """Whether the store's certificate is bound to this plan; with `asked`, also of that size, and not a failure."""
    try:
        found = read(out)
    except VolumeError:
        return False
    if found is None or found["bound"] != dict(bound):
        return False
    return asked is None or (found["asked"] == asked and found["status"] != "failed")


def forget(out: str) -> None:
    """Remove the certificate."""
    Files(out).delete(KEY)


def brief(out: str) -> Json | None:
    """The certificate without its tiles; None where there is none."""
    try:
        found = read(out)
    except VolumeError as e:
        return {"status": "failed", "why": f"{e.what}: {e.why}"}
    keep = ("status", "why", "sections", "restored", "linear", "ensemble")
    return found and {k: found[k] for k in keep if k in found} | {"tiles": len(found["tiles"])}


def sentence(said: Json | None) -> str:
    """A certificate, or what is brief of it, as people read it."""
    if said is None:
        return "none"
    if said["status"] != "measured":
        return f"{'failed' if said['status'] == 'failed' else 'nothing to measure on'}: {said['why']}"
    ours, theirs = said["restored"], said["linear"]
    tiles = said["tiles"] if isinstance(said["tiles"], int) else len(said["tiles"])
    parts = [f"{_count(len(said['sections']), 'intact section')} restored ({_count(tiles, 'tile')}): "]
    parts += [", ".join(f"{name} {_short(ours[k])} (linear {_short(theirs[k])})" for k, name in NAMES.items())]
    parts += [f", {ours['psnr_gain_db']:+.1f} dB over constant grey (linear {theirs['psnr_gain_db']:+.1f})"]
    if "ensemble" in said:
        e = said["ensemble"]
        parts += [f"; spread/skill {_short(e['spread_skill'])}, 90 % interval holds {e['coverage_90']:.0%}"]
    return "".join(parts)


NAMES = {"ncc": "NCC", "ssim": "SSIM", "power": "power"}


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
