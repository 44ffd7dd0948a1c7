"""zmend.yaml: one file, six keys. Unknown keys are refused with the nearest known one."""

from __future__ import annotations

import difflib
import hashlib
import re
import reprlib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError
from pipeline.objects import bare
from pipeline.recipe import Recipe
from pipeline.site import ELSEWHERE, Site

MOST_CHARS = 1 << 16  # of a file; the reader takes a millisecond for each hundred


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VolumeConfig(_Part):
    """The source: an OME-Zarr image, a bare Zarr array, Neuroglancer precomputed or N5. It is never written."""

    path: str
    level: int = Field(0, ge=0)
    voxel_size_nm: tuple[float, float, float] | None = Field(None, description="(z, y, x); for arrays that do not say")
    missing_chunks: Literal["unknown", "background"] = Field(
        "unknown", description="unknown: an absent chunk is lost data; background: it is the fill value on purpose"
    )


class OutputConfig(_Part):
    """The mended OME-Zarr."""

    path: str
    mode: Literal["volume", "overlay"] = "volume"
    chunk_px: int = Field(1024, ge=16, description="lateral chunk edge of the overlay")
    shard_px: int | None = Field(None, ge=16, description="lateral shard edge of the overlay (zarr v3), or none")
    clone: Literal["auto", "link", "copy"] = Field("auto", description="how untouched chunks reach the output")


class Config(_Part):
    """One job: this volume, these flags, that output, by this recipe, on this site."""

    volume: VolumeConfig
    flags: str
    output: OutputConfig
    recipe: Recipe = Field(default_factory=lambda: Recipe.model_validate({}))
    site: Site = Field(default_factory=lambda: Site.model_validate({}))
    certificate: int = Field(2, ge=0, le=64, description="intact sections that the run is measured on; 0: none")


def load(path: str | Path, site: str | Path | None = None) -> Config:
    """Read a zmend.yaml. Relative paths in it are relative to the file. Raises ConfigError.

    site: a file with the keys of `site`, which win over those of the configuration.
    """
    path = Path(path)
    document = _read(path, "it needs volume, flags and output")
    here = _beside(check(document, str(path)), path.resolve().parent)
    return here if site is None else _elsewhere(here, document.get("site") or {}, Path(site))


def _read(path: Path, needs: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > MOST_CHARS:
            raise ValueError(f"{len(text):,} characters are more than a configuration has")
        document = yaml.safe_load(text)
    except OSError as e:
        raise ConfigError(
            "the configuration cannot be read",
            where=str(path),
            why=e.strerror or str(e),
            do="give the path of a zmend.yaml; the README shows one to start from",
        ) from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # not UTF-8, numbers without end, brackets without end
        raise ConfigError(
            "the configuration is not YAML",
            where=str(path),
            why=" ".join(str(e).split()),
            do="indent with spaces, and quote values with ':' or '#' in them",
        ) from e
    if not isinstance(document, dict):
        raise ConfigError("the configuration holds no keys", where=str(path), do=needs)
    return document


def load_site(path: str | Path, out: str) -> Site:
    """Read a site's file on its own, for an output. Raises ConfigError."""
    config = check({"volume": {"path": "."}, "flags": ".", "output": {"path": out}})
    return _elsewhere(config, {}, Path(path)).site


def _elsewhere(config: Config, keys: dict[str, Any], path: Path) -> Config:
    """The configuration with a site of its own, from a file."""
    wanted = _read(path, "it needs the keys of a site: kind, workers")
    kept = {k: v for k, v in keys.items() if "kind" not in wanted or k not in ELSEWHERE}
    asked = {**kept, **wanted}
    probe = {"volume": {"path": "."}, "flags": ".", "output": {"path": "."}, "site": asked}  # only the site is judged
    site = _placed(check(probe, str(path)).site, config.output.path, path.resolve().parent)
    return config.model_copy(update={"site": site})


def check(document: dict[str, Any], name: str = "zmend.yaml") -> Config:
    """Validate a configuration that is already a dict. Raises ConfigError."""
    try:
        return Config.model_validate(document)
    except ValidationError as e:
        # A misspelt key also makes its right spelling missing: say the first, which tells more.
        errors: list[dict[str, Any]] = [{**error, "loc": _keys_of(error["loc"])} for error in e.errors()]
        first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
        where, others = f"{name}, {'.'.join(first['loc'])}", len({error["loc"] for error in errors}) - 1
        more = f" (and {others} more)" if others else ""
        # Not from e: its text, which a traceback would show, has all of the value in it
        raise ConfigError(*_what(first, more), where=where, do=_remedy(first)) from None


KIND = re.compile(r"constrained-|literal\[|function-|tuple\[|list\[|dict\[")


def _keys_of(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Where an error is, as people wrote it: without which of the kinds that a value may be of was tried."""
    return tuple(str(part) for part in loc if not KIND.match(str(part)))


def _what(error: Any, more: str) -> tuple[str]:
    key = str(error["loc"][-1]) if error["loc"] else "?"
    if error["type"] == "extra_forbidden":
        return (f"unknown key '{key}'{more}",)
    if error["type"] == "missing":
        return (f"key '{key}' is missing{more}",)
    if isinstance(error["input"], dict) and error["type"] == "zmend":  # it is about several keys together
        return (f"{error['msg']}{more}",)
    return (f"'{key}' is {_short(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}{more}",)


def _short(value: Any) -> str:
    """A value as people typed it, cut where it is long: a few lines of YAML may stand for gigabytes."""
    cut = reprlib.Repr()
    cut.maxlevel, cut.maxstring, cut.maxother = 2, 80, 80
    return cut.repr(value)


def _remedy(error: Any) -> str:
    parts = [str(p) for p in error["loc"]]
    if error["type"] == "zmend":  # our own validators bring their remedy
        return str(error["ctx"]["do"])
    if "voxel_size_nm" in parts or "intensity" in parts:
        return "give numbers in brackets: voxel_size_nm: [z, y, x], intensity: [black, white]"
    known = _keys(parts[:-1])
    if error["type"] == "extra_forbidden":
        if homes := _homes(parts[-1]):
            return f"'{parts[-1]}' belongs {' or '.join(homes)}"
        near = difflib.get_close_matches(parts[-1], known, n=1)
        return f"did you mean '{near[0]}'?" if near else f"known keys here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"add '{parts[-1]}:'; keys here: {', '.join(known)}"
    return "mend the value; `zmend plan --help` shows a working configuration"


def _homes(key: str) -> list[str]:
    """Where a key is known, in words."""
    top = _keys([])
    return [f"under '{part}'" for part in top if key in _keys([part])] + ["at the top level"] * (key in top)


def _keys(parents: list[str]) -> list[str]:
    """The keys that are known under a path such as ['recipe']."""
    model: Any = Config
    for p in parents:
        field = model.model_fields.get(p) if hasattr(model, "model_fields") else None
        model = field.annotation if field else None
    return sorted(getattr(model, "model_fields", {}))


def _beside(config: Config, folder: Path) -> Config:
    def at(p: str) -> str:
        p = bare(p)
        local = Path(p.removeprefix("file://")).expanduser()
        return p if "://" in p.removeprefix("file://") else str(folder / local)  # an absolute one stays itself

    weights = config.recipe.weights
    recipe = config.recipe.model_copy(update={"weights": at(weights) if weights.endswith(".safetensors") else weights})
    return config.model_copy(
        update={
            "volume": config.volume.model_copy(update={"path": at(config.volume.path)}),
            "flags": at(config.flags),
            "output": config.output.model_copy(update={"path": at(config.output.path)}),
            "recipe": recipe,
            "site": _placed(config.site, at(config.output.path), folder),
        }
    )


def _placed(site: Site, out: str, folder: Path) -> Site:
    """The site with its paths whole. Its jobs are named after the output: the next run finds those of a killed one."""
    paths = {k: str(folder / v) for k in ("scheduler_file", "tls", "folder") if (v := getattr(site, k)) is not None}
    if site.kind == "slurm":
        if "://" in out and site.folder is None:
            raise ConfigError(
                "site.folder is missing",
                why="the logs and certificates of jobs cannot lie beside an output in an object store",
                do="name a folder that every node sees: site: {folder: /scratch/me/zmend}",
            )
        paths.setdefault("folder", f"{out}.jobs")
        paths["name"] = site.name or f"zmend-{hashlib.sha256(out.encode()).hexdigest()[:8]}"
    return site.model_copy(update=paths)
