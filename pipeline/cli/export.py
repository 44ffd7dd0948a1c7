"""zmend export: where voxels come from, for other tools."""

from __future__ import annotations

import click

from pipeline.cli.root import as_json, say
from pipeline.errors import UsageError


@click.command()
@click.argument("store")
@click.option("--crate", metavar="DIR", help="Write an RO-Crate into this new folder; no voxels.")
@click.option("--prov", metavar="FILE", help="Write W3C PROV-JSON into this new file.")
@click.option("--run", "run_id", metavar="RUN", default="", help="Of this run of zmend/runs. Default: the last.")
@as_json
def export(store: str, crate: str | None, prov: str | None, run_id: str, as_json: bool) -> None:
    """Tell where a run's voxels come from, in the words of other tools: RO-Crate and W3C PROV.

    \b
    zmend export mended.zarr --crate crate
    zmend export mended.zarr --prov run.prov.json
    """
    from pipeline import show
    from pipeline.crate import write_crate
    from pipeline.prov import write_prov

    if (crate is None) == (prov is None):
        raise UsageError("give --crate or --prov, one of the two", do=f"zmend export {store} --crate crate")
    found = write_crate(store, crate, run_id) if crate is not None else write_prov(store, str(prov), run_id)
    say(found, as_json, show.pairs)
