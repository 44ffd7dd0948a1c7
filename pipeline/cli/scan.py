"""zmend scan: flags that nobody had to write."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.root import as_json, interrupts, say
from pipeline.errors import UsageError


@click.command()
@click.argument("volume")
@click.option("--out", default="flags.csv", show_default=True, help="The flags file to write, or to renew.")
@click.option("--masks", help="Zarr array of the masks to write. Default: OUT with .masks.zarr for .csv.")
@click.option("--level", type=click.IntRange(0), help="Level of the pyramid to look at. Default: one of about 8 nm.")
@click.option("--voxel-nm", metavar="Z,Y,X", help="Voxel size of a volume that does not say its own.")
@click.option("--sensitivity", default="medium", show_default=True, help="low, medium, high, or a number (1: medium).")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes; to 2 GB: this one.")
@click.option("--site", metavar="FILE", help="Look on this site instead (deploy/site-*.yaml).")
@as_json
def scan(
    volume: str, out: str, masks: str | None, level: int | None, voxel_nm: str | None, sensitivity: str, workers: int,
    site: str | None, as_json: bool,
) -> None:
    """Find missing and damaged sections by themselves. Writes a flags file to look through, and masks; nothing else.

    \b
    zmend scan raw.zarr --out flags.csv
    zmend scan raw.zarr --out flags.csv --sensitivity high --workers 8
    zmend scan raw.zarr --voxel-nm 45,4.6,4.6        an array that does not say its voxel size

    Each flag says what it is, how sure it is (a score, 1 is at the threshold) and why. Read it before you run.
    Again, it looks at new and changed sections only, and leaves alone what you have changed in the file; one that was
    stopped goes on. What it has looked at stands in flags.scan.jsonl.
    """
    from pipeline import show
    from pipeline.config import load_site
    from pipeline.run import Stop
    from pipeline.scan import scan as look
    from pipeline.site import Site

    where = load_site(site, out) if site else Site.model_validate({"workers": workers})
    options: dict[str, Any] = {"level": level, "sensitivity": sensitivity, "masks": masks, "site": where}
    options["voxel_nm"] = voxel_nm and _size(voxel_nm)
    stop = Stop()
    with interrupts(stop), show.Progress(quiet=as_json) as progress:
        found = look(volume, out, tell=progress, stopped=lambda: stop.requested, **options)
    say(found, as_json, show.scanned)


def _size(text: str) -> tuple[float, ...]:
    try:
        z, y, x = (float(v) for v in text.split(","))
    except ValueError as e:
        raise UsageError(f"--voxel-nm '{text}' is not three numbers", do="for example --voxel-nm 45,4.6,4.6") from e
    return z, y, x
