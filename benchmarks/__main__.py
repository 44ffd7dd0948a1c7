"""Run the benchmarks and write JSON and Markdown to benchmarks/results, with machine, date and command."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path

from benchmarks import end_to_end
from pipeline.summary import environment

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "command": "make bench",
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "packages": environment()["packages"],
        "end_to_end": end_to_end.measure(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "end_to_end.json").write_text(json.dumps(found, indent=1) + "\n")
    text = f"# Benchmarks, {found['date']}\n\n`{found['command']}` on {found['machine']}.\n\n{end_to_end.table(found['end_to_end'])}"
    (RESULTS / "end_to_end.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
