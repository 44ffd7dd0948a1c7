"""zmend status: how far a run has come; all that is known of one slab; or watch while it comes along."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.root import as_json, say
from pipeline.errors import UsageError, VerifyError


@click.command()
@click.argument("store")
@click.argument("slab", required=False, metavar="[SLAB|Z,Y,X]")
@click.option("-w", "--watch", is_flag=True, help="Go on telling until the run ends. Ctrl-C ends the watching alone.")
@click.option(
    "--every", type=click.FloatRange(0.05, 3600), default=2.0, show_default=True, help="Seconds between looks, with -w."
)
@as_json
def status(store: str, slab: str | None, watch: bool, every: float, as_json: bool) -> None:
    """Say how far the run in a store has come, or all that is known of one slab: its id, how that begins, or a voxel.

    \b
    zmend status mended.zarr
    zmend status mended.zarr -w
    zmend status mended.zarr 3fa9c1
    zmend status mended.zarr 812,4096,20480

    Of a slab: flags, plan, every attempt of every run, its record, whether inputs, chunks and the merged volume still
    are as recorded, verdicts, and what was there before. Exit 5 where that does not fit together.
    """
    if slab is not None and watch:
        raise UsageError("a slab is not watched", do=f"zmend status {store} -w, or zmend status {store} {slab}")
    if watch:
        _watch(store, every, as_json)
    elif slab is not None:
        _tell(store, slab, as_json)
    else:
        _say(store, as_json)


def _say(store: str, as_json: bool) -> None:
    from pipeline import show
    from pipeline.account import foreseen
    from pipeline.summary import status as look

    say({**look(store), "foreseen": foreseen(store)}, as_json, show.status)


def _tell(store: str, slab: str, as_json: bool) -> None:
    from pipeline.dossier import dossier
    from pipeline.panes import dossier as show

    found = dossier(store, slab)
    say(found, as_json, show)
    if not found["ok"]:
        do = f"zmend run again, with --redo {found['slab'][:12]} if need be; zmend verify names all that is wrong"
        raise VerifyError(f"slab {found['slab'][:12]}: {found['doubts'][0]}", where=store, do=do)


def _watch(store: str, every: float, as_json: bool) -> None:
    """Look until nobody is at work in the store, or somebody asks this process to end."""
    from pipeline.panes import Watched
    from pipeline.store import read_attrs
    from pipeline.watch import Watch

    read_attrs(store)  # says so where there is no store
    ended, watch = _asked_to_end(), Watch(store)
    with Watched(as_json) as screen:
        while True:
            found: dict[str, Any] = watch.look()
            screen(found)
            if not found["live"] or ended.wait(every):
                return


def _asked_to_end() -> Any:
    """Set by Ctrl-C or TERM: the watching ends, and nothing of the run."""
    import signal
    import threading

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    return ended
