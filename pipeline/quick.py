"""Quick: whether a job is a matter of seconds, so that it is done in the driver's own process: to start a worker takes
some seconds more, most of them imports. Bigger jobs get workers: one that dies takes no driver with it.
"""

from __future__ import annotations

from typing import Any

from pipeline import rates
from pipeline.cost import Load, cost
from pipeline.recipe import Recipe
from pipeline.restorer import LIGHT, Needs
from pipeline.site import Site

QUICK_S = 10.0  # that a job may take to be one
BYTE_S = 2e-8  # on a slow core, of each byte that is read or seen: to hash, restore as a mean, write, read back


def at_home(site: Site, out: str, load: Load, needs: Needs, recipe: Recipe) -> Site:
    """The site, without workers where nobody asked for any and the job is quick."""
    if site.kind != "local" or "workers" in site.model_fields_set:
        return site
    foreseen = _seconds(out, load, needs, recipe)
    return site.model_copy(update={"workers": 0}) if foreseen is not None and foreseen <= QUICK_S else site


def _seconds(out: str, load: Load, needs: Needs, recipe: Recipe) -> float | None:
    """Of one process, as far as one can say: by what was measured beside the output, or by the restorer's own word."""
    wanted: dict[str, Any] = {"restorer": needs.digest, "batch": recipe.batch, "draws": recipe.uncertainty}
    found, _ = rates.find(out, wanted)
    if found is not None:
        return cost(load, found.rates, 0).wall_s
    if not needs.mpx_s and recipe.restorer not in LIGHT:
        return None  # somebody's own, of which nobody knows how long it takes
    tiles = sum(gap * n for gap, n in load.calls.items()) * max(1, recipe.batch) + load.probe_calls
    restoring = needs.seconds(tiles * needs.tile**2, recipe.uncertainty)
    return restoring + (load.read_bytes + load.seen_bytes + load.merge_bytes) * BYTE_S
