"""Job: from a configuration to a plan, from a plan into the store, and from the store into a worker.

A worker is told the store and the plan's hash, nothing else; all that it needs lies in the store:
zmend/plans/<hash>.json and zmend/flags/<digest>.csv.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import flagfile, planfile
from pipeline.box import ZYX, Box
from pipeline.claim import said_by
from pipeline.config import Config
from pipeline.cost import Load
from pipeline.errors import ConfigError, InputError, PlanChangedError, RestorerError
from pipeline.files import Files
from pipeline.flags import Flag, Flags, address, mask_window, meant, upsample
from pipeline.foundation import create_output
from pipeline.inputs import Inputs
from pipeline.intensity import measure
from pipeline.lattice import Geometry
from pipeline.ledger import Ledger
from pipeline.merge import check_mergeable
from pipeline.plan import Fingerprint, Plan, make
from pipeline.planfile import plan_path, read_plan
from pipeline.quick import at_home
from pipeline.recipe import Recipe, digest, reseeded
from pipeline.restorer import Needs, Restorer, load, proven
from pipeline.selftest import CPU, OnDevice
from pipeline.sight import Job
from pipeline.site import Site
from pipeline.slabs import Slabs
from pipeline.store import (
    is_store,
    open_labels,
    open_overlay,
    open_uncertainty,
    overlay_grain,
    read_attrs,
    update_attrs,
)
from pipeline.volume import Volume
from pipeline.workload import Workload


@dataclass(frozen=True)
class Proposal:
    """A configuration that has been checked against the world: nothing is written yet."""

    config: Config
    source: Volume
    flags: Flags
    plan: Plan
    grain: ZYX  # of the overlay
    load: Load  # what the plan adds up to
    at_home: bool = False  # done without workers, since it is quick and nobody asked for any


def propose(config: Config, *, none_is_fine: bool = False) -> Proposal:
    """Open, check and plan. Reads metadata and flags; writes nothing. Raises InputError.

    none_is_fine: a flags file without flags is a plan without slabs, whose output is the source.
    """
    _refuse_overlap(config)
    _mask.cache_clear()  # masks grow, as volumes do
    source = Volume.open(config.volume.path, level=config.volume.level, voxel_nm=config.volume.voxel_size_nm)
    _check_intensity(config.recipe, source)
    if config.output.mode == "volume":
        check_mergeable(source, config.output.clone)
    recipe = config.recipe.model_copy(update={"batch": config.recipe.batch or _batch(config, source)})
    restorer, needs = load(recipe, source.voxel_nm)
    _refuse_weights(proven(restorer), recipe)
    recipe = recipe.model_copy(update={"intensity": _intensity(config, source, needs)})
    shapes = {"shape": source.shape, "voxel_nm": source.voxel_nm, "mask_shape": lambda uri: _mask(uri).shape}
    flags = flagfile.load(config.flags, **shapes, none_is_fine=none_is_fine)  # type: ignore[arg-type]
    grain = _kept_grain(config.output.path) or _grain(config, source)
    geometry = Geometry(source.shape, slab_cell(config.site, grain, source.shape), needs)
    work = _workload(geometry, flags, recipe, source, grain)
    plan = make(
        flags=flags,
        geometry=geometry,
        source=describe(source, config),
        flags_about={
            "path": config.flags,
            "digest": flags.digest,
            "count": len(flags),
            "copy_sha256": _copy_sha256(flags),
        },
        recipe=recipe.document(),
        recipe_digest=recipe.digest(needs.digest, source.voxel_nm, source.level),
        chunk=source.chunks,
        piece=source.piece_bytes,
        inputs=fingerprints(source),
        grain=source.grain,
        seen=work.add,
        merged=lambda: _all_bytes(source) if source.foreign else 2 * work.touched.voxels * source.dtype.itemsize,
    )
    levels = source.pyramid() if config.output.mode == "volume" else ()
    written = [(v.shape, v.chunks if v.foreign else v.grain) for v in levels]
    asked = work.load(levels=written, sections=config.certificate, anew=bool(source.foreign))
    site = at_home(config.site, config.output.path, asked, needs, recipe)
    settled = config.model_copy(update={"site": site})
    return Proposal(settled, source, flags, plan, grain, asked, at_home=site is not config.site)


def _all_bytes(source: Volume) -> int:
    """What a merge reads and writes of a source that is not Zarr: all of it, every level."""
    return sum(2 * math.prod(v.shape) * v.dtype.itemsize for v in source.pyramid())


def _workload(geometry: Geometry, flags: Flags, recipe: Recipe, source: Volume, grain: ZYX) -> Workload:
    grids = {"chunk": source.chunks, "cell": source.grain, "grain": grain}
    itemsize = source.dtype.itemsize
    return Workload(
        geometry, flags.runs(), batch=recipe.batch, **grids, itemsize=itemsize, draws=recipe.uncertainty
    )


def try_weights(proposal: Proposal, *, loaded: bool) -> None:
    """Hold the weights against their digest, before anything is made or changed for them. Raises RestorerError.

    loaded: whether those that somebody brought are loaded too, which takes seconds: once, before there is a store.
    """
    recipe = proposal.config.recipe
    restorer, _ = load(recipe.model_copy(update={"batch": 1}), proposal.source.voxel_nm)
    _refuse_weights(proven(restorer, load=loaded and recipe.weights.endswith(".safetensors")), recipe)


def _refuse_weights(why: str | None, recipe: Recipe) -> None:
    if why is not None:
        raise RestorerError(
            "the weights are refused",
            where=f"recipe.weights: {recipe.weights}",
            why=why,
            do="copy weights and card again from the same place, or export them again",
        )


def _refuse_overlap(config: Config) -> None:
    """The output must not lie in the source, nor the source in the output: the source is never written."""
    source, out = Files(config.volume.path), Files(config.output.path)
    if source.overlaps(out):
        raise InputError(
            "the output would be written into the source",
            where=out.uri,
            why=f"the volume is {source.uri}",
            do="give output.path a place of its own",
        )


def describe(source: Volume, config: Config) -> dict[str, Any]:
    """The source, as plans and records know it."""
    return {
        "uri": source.uri,
        "level": source.level,
        "shape": list(source.shape),
        "dtype": source.dtype.name,
        "itemsize": source.dtype.itemsize,
        "voxel_nm": source.voxel_nm,
        "fingerprint": source.fingerprint(),
        "missing_chunks": config.volume.missing_chunks,
    }


def fingerprints(source: Volume) -> Fingerprint:
    """What is cheap to know of the inputs of a slab: sizes and times of the chunks and of the masks under it."""
    of_source, of_masks = Inputs(source), dict[str, Inputs]()

    def of_mask(mask: str, box: Box) -> Iterator[str]:
        part, _ = _mask_box(mask, source.shape, box)
        if part.size:
            yield of_masks.setdefault(mask, Inputs(_mask(mask)))(part)

    def fingerprint(box: Box, flags: Sequence[Flag]) -> str:
        masks = sorted({f.mask for f in flags if f.mask})
        return digest([of_source(box), [found for mask in masks for found in of_mask(mask, box)]])

    return fingerprint


def slab_cell(site: Site, grain: ZYX, shape: ZYX) -> ZYX:
    """(sections, y, x) of one slab: what the site says, rounded up to whole chunks of the overlay.

    A chunk must have one writer; and the size of a slab changes no voxel, so it may be rounded without asking.
    """
    y, x = (min(s, s if site.slab_px == "whole" else site.slab_px) for s in shape[1:])
    return site.slab_sections, -(-y // grain[1]) * grain[1], -(-x // grain[2]) * grain[2]


def _kept_grain(out: str) -> ZYX | None:
    """The overlay's write grain in a store that is there."""
    return overlay_grain(out) if is_store(out) else None


def _grain(config: Config, source: Volume) -> ZYX:
    """The overlay's write grain for a store that is still to be made."""
    out, edge = config.output, config.site.slab_px
    if out.shard_px and source.zarr_format == 3:
        return 1, out.shard_px, out.shard_px
    lateral = max(source.shape[1:])
    px = min(out.chunk_px, lateral, edge if isinstance(edge, int) else lateral)
    return 1, px, px


def _intensity(config: Config, source: Volume, needs: Needs) -> tuple[float, float] | None:
    """As configured; else, where it matters, as the store has it from an earlier run; else measured."""
    if config.recipe.intensity or source.dtype == np.uint8 or needs.scale_free:
        return config.recipe.intensity
    kept = read_attrs(config.output.path)["zmend"].get("intensity") if is_store(config.output.path) else None
    return tuple(kept) if kept else measure(source)


def _batch(config: Config, source: Volume) -> int:
    """As the store has it from an earlier run, so that nothing is done again; else as the restorer measures it here."""
    if is_store(config.output.path) and (kept := read_attrs(config.output.path)["zmend"].get("batch")):
        return int(kept)
    restorer, _ = load(config.recipe.model_copy(update={"batch": 1}), source.voxel_nm)
    measure = getattr(restorer, "best_batch", None)
    if measure and config.site.kind not in ("local", "cuda") and _without_gpu(restorer):
        raise ConfigError(
            "the best batch cannot be measured here",
            where="recipe.batch: 0",
            why="it is measured on the host that plans, which has no GPU, and the workers are on others",
            do="give a number; zmend plan tells it where a GPU is: srun --gres=gpu:1 zmend plan zmend.yaml",
        )
    return int(measure()) if measure else 1


def _without_gpu(restorer: Restorer) -> bool:
    """Whether a restorer that could use a GPU finds none here."""
    try:
        return isinstance(restorer, OnDevice) and restorer.device() == CPU
    except ImportError:  # not even torch
        return True


def _check_intensity(recipe: Recipe, source: Volume) -> None:
    if recipe.intensity is None:
        return
    low, high = recipe.intensity
    info = np.iinfo(source.dtype)
    if not info.min <= low < high <= info.max:
        raise ConfigError(
            f"the intensity window {low:g} to {high:g} is not one of {source.dtype.name}",
            where="recipe.intensity",
            why=f"its values lie between {info.min} and {info.max}",
            do="give [black, white] with black < white, or leave it out",
        )


def make_store(proposal: Proposal) -> None:
    """Make the store, if there is none: whole, or not at all. One that is there is not touched before it is locked."""
    if is_store(proposal.config.output.path):
        said_by(proposal.config.output.path)  # else nothing of it is to be touched
    else:
        _create(proposal)


def _create(proposal: Proposal) -> None:
    create_beside(proposal, proposal.config.output.path)


def create_beside(proposal: Proposal, path: str) -> None:
    """Make a store of the proposal's kind at some place. One that is there is held against it."""
    out = proposal.config.output
    create_output(
        path,
        proposal.source,
        mode=out.mode,
        chunk_yx=min(out.chunk_px, proposal.grain[1]),
        shard_yx=out.shard_px,
        extra={"mode": out.mode, "intensity": proposal.plan.header["recipe"]["intensity"]},
        spread=proposal.config.recipe.uncertainty > 0,
    )


def install(proposal: Proposal) -> None:
    """Check the store, extend it where the source has grown, and put the plan and the flags into it. Needs its lock."""
    config, plan = proposal.config, proposal.plan
    _create(proposal)
    if not config.recipe.batch:
        update_attrs(config.output.path, zmend={"batch": plan.header["recipe"]["batch"]})
    zmend = Files(config.output.path) / "zmend"
    zmend.keep(f"flags/{proposal.flags.digest}.csv", flags_text(proposal.flags).encode())
    planfile.put(config.output.path, plan)


def empty(plan: Plan) -> Plan:
    """A plan like this one, for which nothing is flagged: what was in force before the first run."""
    nothing = Flags.of([])
    flags = {"path": "", "digest": nothing.digest, "count": 0, "copy_sha256": _copy_sha256(nothing)}
    totals = dict.fromkeys(plan.header["totals"], 0)
    return Plan({**plan.header, "flags": flags, "totals": totals, "not_restorable": []}, Slabs.of(()))


def of_source(plan: Plan) -> Plan:
    """The same slabs of the source as it is now: it may have got more sections since the plan was made."""
    about = plan.header["source"]
    now = Volume.open(about["uri"], level=about["level"], voxel_nm=about["voxel_nm"])
    if now.fingerprint() == about["fingerprint"]:
        return plan
    grown = {**about, "shape": list(now.shape), "fingerprint": now.fingerprint()}
    return Plan({**plan.header, "source": grown}, plan.slabs)


def keep_plan(out: str, plan: Plan) -> None:
    """Put a plan into the store, and the flags of one that has none. Changes nothing that is in force."""
    zmend = Files(out) / "zmend"
    if not plan.header["flags"]["count"]:
        zmend.keep(f"flags/{plan.header['flags']['digest']}.csv", flags_text(Flags.of([])).encode())
    planfile.put(out, plan)


def flags_text(flags: Flags) -> str:
    """The flags as the store keeps them: in order, masks by address."""
    return flagfile.dump([_row(f) for f in flags])


def _copy_sha256(flags: Flags) -> str:
    return sha256(flags_text(flags).encode()).hexdigest()


def read_flags(out: str, plan: Plan, shape: ZYX) -> Flags:
    """The flags that a plan was made from, as the store keeps them. Raises PlanChangedError where they were edited."""
    about = plan.header["flags"]
    files, key = Files(out) / "zmend/flags", f"{about['digest']}.csv"
    if sha256(files.read(key) or b"").hexdigest() != about["copy_sha256"]:
        raise PlanChangedError(
            "the store's copy of the flags is not what was planned",
            where=files.at(key),
            why="it was deleted or edited",
            do="run again with the flags that you mean: the copy is made anew",
        )
    return flagfile.load(files.at(key), shape=shape, none_is_fine=True)


def changes(before: Plan, now: Plan) -> list[str]:
    """What differs between a reviewed plan and the present one, in words."""
    named = {"volume": ("source", "fingerprint"), "flags": ("flags", "digest")}
    found = [name for name, (k, f) in named.items() if before.header[k][f] != now.header[k][f]]
    if before.header["restorer"] != now.header["restorer"]:
        found.append("weights or restorer")
    then, new = before.header["recipe"], now.header["recipe"]
    found += [f"recipe.{k}" for k in {**then, **new} if then.get(k) != new.get(k)]
    if not found and not np.array_equal(before.slabs.ids, now.slabs.ids):
        same_cut = np.array_equal(before.slabs.boxes[:, :6], now.slabs.boxes[:, :6])
        found.append("chunks of the volume or of a mask" if same_cut else "slab size")
    return found


def _row(flag: Flag) -> dict[str, object]:
    box = flag.box
    lateral = (
        {}
        if flag.whole
        else {"y_start": box.start[1], "y_stop": box.stop[1], "x_start": box.start[2], "x_stop": box.stop[2]}
    )
    return {
        "z_start": box.start[0],
        "z_stop": box.stop[0],
        "class": flag.kind,
        **lateral,
        "mask": flag.mask,
        "source": flag.source,
        "note": flag.note,
    }


@lru_cache(maxsize=2)
def open_job(out: str, plan_hash: str, threads: int = 0, attempt: int = 0, *, spread: bool = True) -> Job:
    """Open everything that a worker needs; kept for the life of the process.

    attempt: at slabs that were rejected so often; their seed is another. spread: whether that is opened, if the recipe
    draws one.
    """
    _mask.cache_clear()
    plan = read_plan(plan_path(out, plan_hash), slabs=False)
    about = plan.header["source"]
    voxel_nm = tuple(about["voxel_nm"]) if about["voxel_nm"] else None
    source = Volume.open(about["uri"], level=about["level"], voxel_nm=voxel_nm)
    recipe = recipe_of(plan, attempt)
    restorer, needs = load(recipe, source.voxel_nm, threads=threads)
    _same_restorer(needs, plan)
    flags = read_flags(out, plan, source.shape)
    return Job(
        source=source,
        overlay=open_overlay(out),
        labels=open_labels(out),
        uncertainty=open_uncertainty(out) if spread and recipe.uncertainty else None,
        ledger=Ledger(out),
        flags=flags,
        read_mask=lambda uri, box: read_mask(uri, source.shape, box),
        restorer=restorer,
        needs=needs,
        recipe=recipe,
        bound=bound(plan, attempt),
        absent_is_unknown=about["missing_chunks"] == "unknown",
    )


def made_as(record: Mapping[str, Any], bound: Mapping[str, Any]) -> bool:
    """Whether a record was made as the plan in force makes its slabs: recipe, weights, and the seed of its attempt."""
    seed = reseeded(bound["seed"], record.get("attempt", 0))
    return record["seed"] == seed and all(record[k] == bound[k] for k in ("recipe", "weights", "restorer"))


def recipe_of(plan: Plan, attempt: int = 0) -> Recipe:
    """The recipe of a plan's slabs at some attempt."""
    recipe = Recipe.model_validate(plan.header["recipe"])
    return recipe.model_copy(update={"seed": reseeded(recipe.seed, attempt)})


def bound(plan: Plan, attempt: int = 0) -> dict[str, Any]:
    """What every record, and the certificate, says of where it comes from; a first attempt is left out."""
    return {
        "plan": plan.hash,
        "recipe": plan.header["recipe_digest"],
        "restorer": plan.header["restorer"]["name"],
        "weights": plan.header["restorer"]["digest"],
        "flags": plan.header["flags"]["digest"],
        "seed": reseeded(plan.header["recipe"]["seed"], attempt),
        **({"attempt": attempt} if attempt else {}),
    }


def _same_restorer(needs: Needs, plan: Plan) -> None:
    if needs.digest != plan.header["restorer"]["digest"]:
        raise PlanChangedError(
            "the weights here are not the weights of the plan",
            where=needs.name,
            why=f"plan {plan.header['restorer']['digest'][:12]}, here {needs.digest[:12]}",
            do="install the same version of zmend and weights on every node",
        )


@lru_cache(maxsize=64)
def _mask(uri: str) -> Volume:
    return Volume.open(address(uri), mask=True)


def _mask_box(uri: str, shape: ZYX, box: Box) -> tuple[Box, ZYX]:
    return mask_window(_mask(uri).shape, shape, box)


def read_mask(uri: str, shape: ZYX, box: Box) -> NDArray[np.bool_]:
    """The mask over `box`, (z, y, x) bool, a coarser mask repeated to full resolution."""
    coarse, factors = _mask_box(uri, shape, box)
    return upsample(meant(uri, _mask(uri).read(coarse)), factors, box)
