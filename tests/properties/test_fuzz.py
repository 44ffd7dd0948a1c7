"""Configurations and flags files that were spoiled at random are read, or refused in words.

All ten thousand: python -m tests.properties.fuzz --count 10000 --seed 0
"""

from __future__ import annotations

from pathlib import Path

from tests.jobs import tree
from tests.properties.fuzz import fuzz, prepare

SHARE, SEED = 600, 1


def test_no_spoiled_input_crashes(tmp_path: Path) -> None:
    prepare(tmp_path)
    before = tree(tmp_path)
    answers, crashes = fuzz(tmp_path, SHARE, SEED)
    assert crashes == []
    assert answers["configuration: read"] and answers["configuration: ConfigError"], "some pass, some do not"
    assert answers["flags: read"] and answers["flags: FlagError"]
    made = set(tree(tmp_path)) - set(before)
    assert made <= {"zmend.yaml", "fuzzed.csv"}, "nothing is made"
