"""Rates: what a calibration measured, kept as OUT.rates.json beside the output, with what it holds for.

A calibration holds for one restorer with its weights and batch, on one kind of site with so many threads a worker. What
does not fit is not used, and why is said. One that is shipped tells of which machine it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.cost import Load, Rates, cost
from pipeline.errors import ConfigError
from pipeline.files import split

SCHEMA = "zmend-rates/1"
SHIPPED = Path(__file__).with_name("rates.json")
FITS = {
    "restorer": "another restorer, weights or sampler",
    "batch": "another batch",
    "draws": "another number of draws",
    "kind": "another kind of site",
    "threads": "other threads a worker",
}
TIMES = ("worker_hours", "wall_s", "low_s", "high_s", "merge_s", "driver_s", "restorer_share")
ROUND = {"worker_hours": 4, "restorer_share": 3}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rates, and what they are of."""

    rates: Rates
    fits: Mapping[str, Any]  # the keys of FITS
    measured: str  # the day
    machine: str  # in words, without a host's name
    workers: int  # that measured at the same time

    def misfit(self, wanted: Mapping[str, Any]) -> str:
        """Why these rates do not hold for a job, or nothing. What is not in `wanted` may be anything."""
        return next((words for key, words in FITS.items() if key in wanted and self.fits.get(key) != wanted[key]), "")

    def dump(self) -> bytes:
        """JSON, for people too."""
        body = {"schema": SCHEMA, **asdict(self), "rates": asdict(self.rates), "fits": dict(self.fits)}
        return (json.dumps(body, indent=1) + "\n").encode()


def beside(out: str) -> str:
    """Where the calibration for an output is kept."""
    return f"{out}.rates.json"


def keep(out: str, calibration: Calibration) -> str:
    """Put it beside the output; returns where."""
    files, key = split(beside(out))
    files.put(key, calibration.dump())
    return files.at(key)


def find(out: str, wanted: Mapping[str, Any]) -> tuple[Calibration | None, str]:
    """The calibration beside an output, if it holds for a job; else None and why there is none to use."""
    files, key = split(beside(out))
    try:
        if (raw := files.read(key)) is None:
            return None, "nothing was measured here yet"
        found = parse(raw, files.at(key))
    except ConfigError as error:
        return None, f"{error.where}: {error.why}"
    except OSError as error:  # no run should end for want of a guess
        return None, f"{files.at(key)}: {error}"
    why = found.misfit(wanted)
    return (None, f"what was measured is of {why}") if why else (found, "")


def read(path: str | Path) -> Calibration:
    """A calibration from a file that somebody names. Raises ConfigError."""
    files, key = split(str(path))
    raw = files.read(key)
    if raw is None:
        do = "make one: zmend plan zmend.yaml --calibrate"
        raise ConfigError("there is no such file of rates", where=str(path), do=do)
    return parse(raw, str(path))


def shipped() -> Calibration:
    """What came with this release: of the machine that it names."""
    return read(SHIPPED)


def told(load: Load, found: Calibration | None, workers: int, *, gpu: bool) -> Json:
    """What a load costs, JSON-ready."""
    made = asdict(cost(load, found.rates if found else Rates({}), workers))
    times = {k: round(made[k], ROUND.get(k, 1)) if found else None for k in TIMES}
    of = {"measured": found.measured, "machine": found.machine} if found else {"measured": "", "machine": ""}
    return {**made, **times, **of, "gpu": gpu, "why": ""}


def parse(raw: bytes, where: str) -> Calibration:
    """From JSON. Raises ConfigError."""
    try:
        said = json.loads(raw)
        if not isinstance(said, dict):
            raise ValueError("it is no JSON object")
        if said["schema"] != SCHEMA:
            raise ValueError(f"its schema is {said['schema']!r}, not {SCHEMA}")
        rates, fits, measured, machine = Rates.of(said["rates"]), dict(said["fits"]), said["measured"], said["machine"]
        return Calibration(rates, fits, str(measured), str(machine), int(said["workers"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "these are no rates",
            where=where,
            why=f"it has no {error}" if isinstance(error, KeyError) else f"{error}",
            do="measure them again: zmend plan zmend.yaml --calibrate",
        ) from error
