"""zmend view: a mended volume beside its source, in Neuroglancer."""

from __future__ import annotations

import click

from pipeline.cli.root import as_json, say
from pipeline.errors import UsageError


@click.command()
@click.argument("store")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of 127.0.0.1. Default: one that is free.")
@click.option("--link", "to", metavar="FILE", help="Write a state for a hosted Neuroglancer instead, and end.")
@click.option("--base-url", metavar="URL", default="", help="With --link: where STORE is published.")
@click.option("--source-url", metavar="URL", default="", help="With --link: where the source is published.")
@as_json
def view(store: str, port: int, to: str | None, base_url: str, source_url: str, as_json: bool) -> None:
    """Show a store in Neuroglancer: source, restored, what is synthetic, and a list of the defects to step through.

    \b
    zmend view mended.zarr
    zmend view mended.zarr --link mended.json --base-url https://data.example.org/mended.zarr

    It listens on 127.0.0.1 alone, and its address holds a secret: who has it can see the voxels, so do not pass it on.
    """
    from pipeline import show, viewer

    if to:
        say(viewer.link(store, to, base_url=base_url, source_url=source_url), as_json, show.pairs)
        return
    if base_url or source_url:
        do = f"zmend view {store} --link FILE --base-url URL"
        raise UsageError("--base-url and --source-url belong to --link", do=do)
    with viewer.serve(store, port=port) as where:
        say(where, as_json, show.pairs)
        wait()


def wait() -> None:
    """Until somebody presses Ctrl-C or asks the process to end; where a shell made it deaf to Ctrl-C, too."""
    import signal
    import threading

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
