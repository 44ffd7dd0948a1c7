"""zmend merge: an overlay back into the full volume."""

from __future__ import annotations

import click

from pipeline.cli.root import as_json, say


@click.command()
@click.argument("store")
@click.option(
    "--clone",
    type=click.Choice(["auto", "link", "copy"]),
    default="auto",
    show_default=True,
    help="How untouched chunks get there.",
)
@as_json
def merge(store: str, clone: str, as_json: bool) -> None:
    """Blend a store's overlay back into the full volume. For stores made with `output: {mode: overlay}`.

    \b
    zmend merge mended.zarr
    """
    from pipeline import show
    from pipeline.run import remerge

    with show.Progress(quiet=as_json) as progress:
        found = remerge(store, clone, progress)
    say(found, as_json, show.pairs)
