"""zmend prune: room, for what no revert needs any more."""

from __future__ import annotations

import click

from pipeline.cli.root import as_json, say


@click.command()
@click.argument("store")
@click.option(
    "--reverts",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="How many of the last runs that changed something can still be reverted.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@as_json
def prune(store: str, reverts: int, dry_run: bool, as_json: bool) -> None:
    """Throw away what is kept for reverts of older runs (zmend/kept). What is in force is not touched.

    \b
    zmend prune mended.zarr --dry-run
    zmend prune mended.zarr --reverts 3
    """
    from pipeline import show
    from pipeline.prune import prune as throw_away

    say(throw_away(store, reverts, dry=dry_run), as_json, show.pairs)
