"""Run log: zmend/runs/<id>: what was asked for, on which machine, and everything that happened."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pipeline.attempts import OnEvent
from pipeline.config import Config
from pipeline.summary import environment


def logged(out: str, run_id: str, config: Config, on_event: OnEvent) -> OnEvent:
    """Events go to the caller, and to zmend/runs/<id>/log.jsonl beside the configuration and the environment."""
    folder = Path(out) / "zmend" / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json(indent=1))
    (folder / "environment.json").write_text(json.dumps(environment(), indent=1))
    log = folder / "log.jsonl"

    def tell(event: dict[str, Any]) -> None:
        with log.open("a") as f:
            f.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **event}) + "\n")
        on_event(event)

    return tell
