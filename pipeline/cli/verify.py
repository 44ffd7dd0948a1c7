"""zmend verify: the store against its records, or one voxel's story."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.root import as_json, say
from pipeline.errors import UsageError, VerifyError


@click.command()
@click.argument("store")
@click.option(
    "--replay",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Compute this many slabs anew and compare bit for bit.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which slabs are drawn for the replay.")
@click.option(
    "--level",
    type=click.Choice(["structure", "digests", "identity", "lineage", "replay"]),
    default="lineage",
    show_default=True,
    help="How deep to look, each level with all before it. --replay N means replay.",
)
@click.option("--key", metavar="FILE", help="The public key (Ed25519, PEM) that the store must be signed with.")
@click.option("--at", metavar="Z,Y,X", help="Tell the whole story of one voxel of the mended level instead.")
@as_json
def verify(
    store: str, replay: int, seed: int, level: Any, key: str | None, at: str | None, as_json: bool
) -> None:
    """Prove that the store is what its records say, and that nothing outside the flags changed. Exit 5 if not.

    \b
    zmend verify mended.zarr
    zmend verify mended.zarr --replay 3
    zmend verify mended.zarr --key public.pem
    zmend verify mended.zarr --at 812,4096,20480
    \b
    structure   documents, OME attributes, a record for every slab; reads no voxels
    digests     every chunk that was written still is what was written
    identity    outside the mask the merged volume is the source, voxel for voxel
    lineage     every synthetic voxel has one record, and its plan, weights and inputs still match
    replay      slabs drawn at random are computed anew, and come out the same
    """
    from pipeline import show

    if at is not None:
        _tell(store, at, as_json)
        return
    from pipeline.signature import public_key
    from pipeline.verify import verify as check

    whose = public_key(key) if key else ""
    told = (lambda _: None) if as_json else show.check
    found = check(store, level=level, replay=replay, seed=seed, public=whose, on_check=told)
    say(found, as_json, show.verdict)
    if found["unfinished"]:
        raise VerifyError(
            f"too early to verify: {found['unfinished']}",
            where=store,
            why="it was interrupted, or it is still at work; what it has written so far is as its records say",
            do=_revert_again(store) or _go_on(store, found),
        )
    if not found["ok"]:
        failed = [c["name"] for c in found["checks"] if not c["ok"]]
        raise VerifyError(
            f"verification failed: {', '.join(failed)}",
            where=store,
            do=_revert_again(store) or _remedy(failed),
        )


def _revert_again(store: str) -> str:
    """What ends a revert that was killed: the same one; a run would put the plan of its configuration in force."""
    from pipeline.runlog import reverting

    command = reverting(store)
    return f"the same revert again: {command}: it goes on where it stopped; then verify" if command else ""


def _go_on(store: str, found: dict[str, Any]) -> str:
    """What ends that which was interrupted."""
    from pipeline.lineage import BEHIND

    late: list[str] = next((c["findings"] for c in found["checks"] if c["name"] == "finished"), [])
    if [finding.startswith(BEHIND) for finding in late] == [True]:
        return f"zmend merge {store}, or the same zmend run again: either brings the merged volume up; then verify"
    return "run the same zmend run again: it goes on where it stopped; then verify"


def _remedy(failed: list[str]) -> str:
    if failed == ["signature"]:  # chunks and records fit together: nothing is to be made anew
        again = "zmend run CONFIG --sign KEY signs it as it is"
        return f"if you know who made it so, {again}, or --key names another; if not, do not use it"
    return "do not use it; the same zmend run mends lost chunks, and with --redo SLAB it makes a slab anew"


def _tell(store: str, at: str, as_json: bool) -> None:
    """One voxel's story. Raises VerifyError where it does not fit together."""
    from pipeline import show
    from pipeline.story import story

    found = story(store, voxel_of(at))
    say(found, as_json, show.story)
    if not found["ok"]:
        raise VerifyError(
            f"voxel {at}: {found['doubts'][0]}", where=store, do="zmend verify names all that is wrong with the store"
        )


def voxel_of(text: str) -> tuple[int, int, int]:
    try:
        z, y, x = (int(v) for v in text.split(","))
    except ValueError as e:
        raise UsageError(f"--at '{text}' is not three integers", do="for example --at 812,4096,20480") from e
    return z, y, x
