"""zmend plan: what would be done, and what it costs."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.root import as_json, config_of, say
from pipeline.errors import UsageError

MOST_VOXELS = 10**17  # a hundred petabytes: on paper every slab is counted


@click.command()
@click.argument("config", required=False)
@click.option("--out", help="Where to write the plan file. Default: CONFIG with .plan.json for .yaml.")
@click.option("--shape", help="Plan on paper: Z,Y,X of a volume that need not exist.")
@click.option(
    "--flagged",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="Share of sections that are flagged, on paper.",
)
@click.option(
    "--slab", type=click.IntRange(min=256), default=8192, show_default=True, help="Lateral slab edge, px, on paper."
)
@click.option("--calibrate", is_flag=True, help="Measure on this site first, and keep that for later plans.")
@click.option("--rates", metavar="FILE", help="What was measured, on paper. Default: what came with this release.")
@click.option(
    "--workers", type=click.IntRange(1), default=1000, show_default=True, help="Workers of the site, on paper."
)
@click.option(
    "--pace",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Mpx restored a second by one GPU, on paper.",
)
@click.option("--explain", is_flag=True, help="Say of each slab why a run would do it, or would not.")
@click.option("--site", metavar="FILE", help="Plan for this site instead of the configuration's (deploy/site-*.yaml).")
@as_json
def plan(
    config: str | None, out: str | None, shape: str | None, flagged: float, slab: int, calibrate: bool,
    rates: str | None, workers: int, pace: float, explain: bool, site: str | None, as_json: bool,
) -> None:
    """Say what would be done and what it would cost. Writes a plan file, nothing else.

    \b
    zmend plan zmend.yaml
    zmend plan zmend.yaml --explain              what is done already, what is not, and why
    zmend plan zmend.yaml --calibrate            hours and minutes, from what is measured here and now
    zmend plan --shape 25000,200000,200000 --flagged 0.02
    \b
    zmend.yaml:
      volume: {path: raw.zarr, level: 0}
      flags: flags.csv
      output: {path: mended.zarr, mode: volume}
      recipe: {restorer: diffusion, weights: default, steps: 4, seed: 7}
      site: {kind: local, workers: 2}
    """
    if (config is None) == (shape is None):
        raise UsageError("give a configuration or --shape, one of the two", do="zmend plan zmend.yaml")
    if rates and config:
        raise UsageError("--rates is of plans on paper", why="a configuration's site is measured", do="--calibrate")
    if calibrate and shape:
        raise UsageError("--calibrate needs a configuration", why="on paper nothing can be measured", do="--rates FILE")
    from pipeline import show

    if shape is not None:
        from pipeline.paper import paper_plan
        from pipeline.rates import read, shipped

        found = paper_plan(shape_of(shape), flagged, slab, pace, workers, read(rates) if rates else shipped())
        say(found, as_json, show.paper)
        return
    assert config is not None
    from pathlib import Path

    from pipeline.job import propose
    from pipeline.planfile import dump

    made = propose(config_of(config, site))
    target = Path(out or Path(config).with_suffix(".plan.json"))
    if target.exists() and '"zmend-plan/' not in target.read_text(errors="replace")[:4096]:
        raise UsageError(f"{target} is there and is no plan", why="it would be lost", do="name another file with --out")
    target.write_bytes(dump(made.plan))
    if calibrate:
        _measure(made, as_json)
    document = planned(made, str(target))
    if explain:
        from pipeline.explain import explain as reasons

        document["explain"] = reasons(made)
    say(document, as_json, show.plan)


def _measure(made: Any, quiet: bool) -> None:
    """Measure the site, and keep that."""
    from pipeline import show
    from pipeline.calibrate import calibrate
    from pipeline.rates import keep

    with show.Progress(quiet=quiet) as progress:
        keep(made.config.output.path, calibrate(made, progress))


def planned(made: Any, file: str) -> dict[str, Any]:
    """A proposal's plan, and what lies beside it, for people."""
    from pipeline.certificate import seconds
    from pipeline.forecast import forecast, memory
    from pipeline.restorer import Needs

    header, asked = made.plan.header, made.config
    extra = seconds(Needs(**header["restorer"]), asked.certificate, asked.recipe.uncertainty)
    said = {"certificate_seconds": round(extra), "cost": forecast(made), "memory": memory(made)}
    return {"plan": made.plan.hash, "file": file, **said, **header}


def shape_of(text: str) -> tuple[int, int, int]:
    try:
        z, y, x = (int(v) for v in text.split(","))
    except ValueError as e:
        raise UsageError(f"--shape '{text}' is not three integers", do="for example --shape 25000,200000,200000") from e
    if min(z, y, x) < 1:
        raise UsageError(f"--shape '{text}' has an axis below 1", do="for example --shape 25000,200000,200000")
    if z * y * x > MOST_VOXELS:
        raise UsageError(
            f"--shape '{text}' has more than {MOST_VOXELS:,} voxels",
            why="every slab is counted, and so many take hours",
            do="for example --shape 25000,200000,200000",
        )
    return z, y, x
