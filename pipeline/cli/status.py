"""zmend status: how far a run has come."""

from __future__ import annotations

import click

from pipeline.cli.root import as_json, say


@click.command()
@click.argument("store")
@as_json
def status(store: str, as_json: bool) -> None:
    """Say how far the run in a store has come.

    \b
    zmend status mended.zarr
    """
    from pipeline import show
    from pipeline.summary import status as look

    say(look(store), as_json, show.status)
