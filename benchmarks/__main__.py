"""Run the benchmarks and write JSON and Markdown to benchmarks/results, with machine, date and command."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import (
    bytes_moved,
    cost,
    detection,
    end_to_end,
    growth,
    io,
    million,
    overlap,
    restorer,
    scanning,
    scheduling,
)
from pipeline.summary import environment

RESULTS = Path(__file__).parent / "results"


PARTS = {
    "bytes": bytes_moved,
    "cost": cost,
    "detection": detection,
    "end_to_end": end_to_end,
    "growth": growth,
    "io": io,
    "million": million,
    "overlap": overlap,
    "restorer": restorer,
    "scanning": scanning,
    "scheduling": scheduling,
}
BY_NAME = ("detection", "million")  # which take long: only where they are asked for
PEERS = ("tensorstore", "zarr", "dask", "numcodecs", "numpy")


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or [n for n in PARTS if n not in BY_NAME and (n != "scanning" or scanning.ready())]:
        busy = os.getloadavg()[0]  # of others, before anything of ours runs
        measured = PARTS[name].measure()
        found = {
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join([*_asked(name), f"python -m benchmarks {name}"]),
            "machine": f"{os.cpu_count()} CPUs, {platform.machine()}; load before it began {busy:.1f}",
            "packages": environment()["packages"] | {name: version(name) for name in PEERS},
            name: measured,
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        text = (
            f"# {name}, {found['date']}\n\n`{found['command']}` on {found['machine']}. Versions: {_versions(found)}.\n\n"
            f"{PARTS[name].table(measured)}"
        )
        (RESULTS / f"{name}.md").write_text(text)
        sys.stdout.write(text)


def _asked(name: str) -> list[str]:
    """What the environment asked of a benchmark."""
    return [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(f"{name.upper()}_")]


def _versions(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {found['packages'][name]}" for name in PEERS)


if __name__ == "__main__":
    main()
