"""Viewer: a store in Neuroglancer, on this machine's loopback, or as a state for a Neuroglancer hosted elsewhere.

Chunks go to the browser as they lie in the store, through one address that holds a secret; nothing is decoded here.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UnfitError, UsageError
from pipeline.files import Files, on_disk
from pipeline.job import read_flags
from pipeline.ome import Json, Voxel
from pipeline.plan import Plan
from pipeline.planfile import current_plan
from pipeline.scene import LISTED, Parts, address, centre, dimensions, origin, scene, shown
from pipeline.store import LABELS, OVERLAY, UNCERTAINTY, has_uncertainty
from pipeline.volume import Volume

DOCUMENTS = r"zarr\.json|\.zarray|\.zattrs|\.zgroup|info|attributes\.json"
CHUNKS = r"(?:c[./])?\d+(?:[./]\d+)*|\d+-\d+(?:_\d+-\d+){2}|[0-9a-f]{1,16}\.shard"
SERVED = re.compile(rf"(?!.*(?:^|/)\.\.(?:/|$))(?:[^/]+/)*(?:{DOCUMENTS}|{CHUNKS})")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
PUBLIC = re.compile(r"(zarr[23]?://)?(https?|s3|gs)://.+")  # what a hosted Neuroglancer can open
PUBLIC_SOURCE = re.compile(rf"{PUBLIC.pattern}|(precomputed|n5)://.+")


def link(out: str, to: str, *, base_url: str, source_url: str) -> Json:
    """Write the state for a hosted Neuroglancer to the file `to`. The URLs say where those who open it find store and
    source; empty: where they lie, if that is an address that a browser can open.

    Raises UsageError where nobody else can reach the store, VolumeError and PlanChangedError where it cannot be read.
    """
    on_disk(to, "--link")
    plan = current_plan(out)
    store, source = (base_url or Files(out).uri).rstrip("/"), source_url or _source(plan).root.uri
    if not PUBLIC.fullmatch(store):
        raise UsageError(
            "a hosted Neuroglancer cannot open this address",
            where=store,
            do=f"say where the store is published: zmend view {out} --link {to} --base-url https://HOST/mended.zarr",
        )
    parts = _parts(out, plan, store, source if PUBLIC_SOURCE.fullmatch(source) else None)
    Path(to).write_text(json.dumps(scene(parts), indent=1) + "\n", encoding="utf-8")
    return {
        "link": to,
        "layers": [layer["name"] for layer in scene(parts)["layers"]],
        "defects": len(parts.defects),
        "use": "publish it, then open https://neuroglancer-demo.appspot.com/#!https://HOST/" + Path(to).name,
        **({} if parts.source else {"left_out": f"the source, {source}: say where it is published with --source-url"}),
    }


@contextmanager
def serve(out: str, *, port: int = 0) -> Iterator[Json]:
    """Serve Neuroglancer and the voxels on 127.0.0.1 while the context lasts; yields where. port: 0 takes a free one.

    Raises UnfitError where neuroglancer is not installed or the port is taken, else as `link`.
    """
    plan = current_plan(out)
    source = _source(plan)
    roots = {"source": source.root, "store": Files(out)}
    parts = _parts(out, plan, "", "")  # refuse before a port is opened
    neuroglancer = _neuroglancer()
    token = secrets.token_hex(20)
    neuroglancer.set_server_bind_address("127.0.0.1", port)
    try:
        viewer = neuroglancer.Viewer(token=token, allow_credentials=False)  # it would hand out those of this account
    except OSError as error:
        raise UnfitError(f"port {port} cannot be opened", why=str(error), do="name another with --port") from error
    try:
        server = neuroglancer.server.global_server
        _add_objects(server, token, roots)
        at = f"{server.server_url}/objects/{token}"
        parts = _parts(out, plan, f"{at}/store", f"{at}/source")
        viewer.set_state(scene(parts))
        _add_keys(viewer, parts)
        yield _where(viewer.get_viewer_url(), server.port, parts)
    finally:
        neuroglancer.stop()


def _where(url: str, port: int, parts: Parts) -> Json:
    count = len(parts.defects)
    return {
        "url": url,
        "from_elsewhere": f"ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}",
        "defects": f"{count}, the first {LISTED} listed" if count > LISTED else count,
        "keys": "n, p: next and previous defect; h: all others; Ctrl-C here ends it",
    }


def _neuroglancer() -> Any:
    try:
        import neuroglancer
    except ImportError as error:
        do = 'pip install "zmend[view]"'
        raise UnfitError("Neuroglancer is not installed here", why=str(error), do=do) from error
    return neuroglancer


def _source(plan: Plan) -> Volume:
    about = plan.header["source"]
    return Volume.open(about["uri"], level=about["level"], voxel_nm=_size(plan))


def _size(plan: Plan) -> Voxel | None:
    said = plan.header["source"]["voxel_nm"]
    return None if said is None else (said[0], said[1], said[2])


def _parts(out: str, plan: Plan, store: str, source_at: str | None) -> Parts:
    """What there is to show, of a store at the URL `store` and a source at `source_at`."""
    source, labels = _source(plan), Volume.open(f"{out}/{LABELS}/0")
    restored, sizes = Volume.open(out), dimensions(source, _size(plan))
    window = plan.header["recipe"]["intensity"]
    spread = Volume.open(f"{out}/{UNCERTAINTY}") if has_uncertainty(out) else None
    return Parts(
        dimensions=sizes,
        shape=source.shape,
        source=None if source_at is None else address(source, source_at, sizes),
        restored=address(restored, store, sizes),
        merged=restored.files.uri != Files(out).at(OVERLAY),
        labels=address(labels, f"{store}/{LABELS}", sizes),
        uncertainty=None if spread is None else address(spread, f"{store}/{UNCERTAINTY}", sizes),
        window=None if window is None else (window[0], window[1]),
        defects=shown(tuple(read_flags(out, plan, source.shape))),
        origin=origin(restored),
    )


def _add_keys(viewer: Any, parts: Parts) -> None:
    """n and p go from defect to defect, from wherever one has gone in between."""
    at = [0]

    def step(by: int) -> None:
        at[0] = (at[0] + by) % len(parts.defects)
        with viewer.txn() as state:
            state.position = centre(parts.defects[at[0]], parts)

    for key, name, by in (("keyn", "next-defect", 1), ("keyp", "previous-defect", -1)) if parts.defects else ():
        viewer.actions.add(name, lambda _, by=by: step(by))
        with viewer.config_state.txn() as config:
            config.input_event_bindings.viewer[key] = name


def _add_objects(server: Any, token: str, roots: dict[str, Files]) -> None:
    """Let the server hand out metadata and chunks below `roots`, by GET and HEAD, to who knows the token."""
    from tornado.web import RequestHandler

    class Objects(RequestHandler):
        async def get(self, which: str, key: str) -> None:
            await server.loop.run_in_executor(server.executor, self._answer, roots[which], key)
            self.finish()

        async def head(self, which: str, key: str) -> None:
            await self.get(which, key)

        def _answer(self, files: Files, key: str) -> None:
            self.set_header("Content-Type", "application/octet-stream")
            stored = files.stat(key) if SERVED.fullmatch(key) else None
            if stored is None:
                self.set_status(404)
                return
            start, stop = part(self.request.headers.get("Range", ""), stored.size)
            if (start, stop) != (0, stored.size):
                self.set_status(206)
                self.set_header("Content-Range", f"bytes {start}-{stop - 1}/{stored.size}")
            self.set_header("Accept-Ranges", "bytes")
            self.set_header("Cache-Control", "no-cache")
            if self.request.method == "HEAD":
                self.set_header("Content-Length", str(stop - start))
            else:
                self.write(files.read(key, start, stop) or b"")

    server.app.add_handlers(".*", [(rf"/objects/{token}/({'|'.join(roots)})/(.+)", Objects)])


def part(asked: str, size: int) -> tuple[int, int]:
    """Bytes [start, stop) that a Range header asks of an object of `size` bytes; all where it asks for no one part."""
    found = RANGE.fullmatch(asked)
    if found is None or not any(found.groups()):
        return 0, size
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    return min(int(first), size), min(size, int(last) + 1 if last else size)
