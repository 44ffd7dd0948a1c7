"""Fuzz: good configurations and flags files, spoiled at random. Whatever comes out is read, or refused in our words.

    python -m tests.properties.fuzz --count 10000 --seed 0
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from pipeline.config import load
from pipeline.errors import ZmendError
from pipeline.flagfile import load as load_flags
from pipeline.job import propose
from tests.jobs import save
from tests.stores import noise

SHAPE = (6, 32, 32)
SLOW_S = 20.0  # processor time; a reader that takes longer may be held up by a few bytes
CONFIGS = [
    "volume: {path: raw.zarr}\nflags: flags.csv\noutput: {path: out.zarr, chunk_px: 32}\nrecipe: {restorer: linear}\n",
    """volume:
  path: raw.zarr
  level: 0
  voxel_size_nm: [45, 4.6, 4.6]
  missing_chunks: background
flags: flags.csv
output: {path: out.zarr, mode: overlay, chunk_px: 64, shard_px: 128, clone: copy}
recipe: {restorer: nearest, steps: 4, seed: 7, batch: 2, feather_px: 8, intensity: [0, 255], options: {}}
site: {workers: 2, threads: 1, slab_px: whole, slab_sections: 4, attempts: {transient: 8, lost: 5}}
certificate: 0
""",
    "volume: {path: raw.zarr}\nflags: flags.csv\noutput: {path: out.zarr}\nrecipe: {restorer: diffusion, weights: default, uncertainty: 8, refuse_above: 12.5}\n"
    "site: {kind: slurm, workers: 4, partition: gpu, walltime: '12:00:00', memory: 32GB, gpus: 1, directives: ['--constraint=a100']}\n",
]
FLAGS = [
    "# zmend-flags/1\nz_start,z_stop,class,y_start,y_stop,x_start,x_stop,mask,source,note\n2,3,missing,,,,,,,\n4,5,fold,2,20,4,30,,me,\"torn, folded\"\n",
    "z_start,z_stop,class,mask\n1,2,crack,mask.zarr\n3,4,do_not_touch,\n",
    "# a list\n1\n3:5\n",
    "[1, [3, 5]]",
    '{"stackId": 5, "broken_slices": {"1": 1, "3": 2}}',
]
WORDS = [
    "0", "-1", "1e9", ".inf", ".nan", "9" * 30, "9" * 5000, "null", "~", "true", "''", '""', "[]", "{}", "{", "}", "[", "]", ":", ": ", ",", ";", "\t", "\n", "\r", "\0",
    "\ufeff", "é", "\u0663", "\U0001f9e0", "&a ", "*a", "!!python/object:os.system ", "!!binary ", "!!set ", "<<: ", "? ", "- ", "---\n", "...\n", "%YAML 9.9\n", "|\n", ">", "#", "'", '"', "\\",
    "2024-01-01", "12:00:00", "0x10", "0o7", "1_000", "restorer", "volume", "path", "missing", "diffusion", "os:system", "..", "/", "file://", "s3://", "x" * 300, "[" * 200, "{a: " * 200, "0" * 400,
]  # fmt: skip


def spoiled(rng: random.Random, samples: list[str]) -> bytes:
    """A sample after one to six changes, mostly of text, sometimes of bytes."""
    text = rng.choice(samples)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        text = rng.choice(CHANGES)(rng, text, samples)
    body = text.encode("utf-8", "surrogatepass")
    for _ in range(rng.choice((0, 0, 0, 0, 0, 1, 3))):
        at = rng.randrange(len(body) + 1)
        body = body[:at] + bytes([rng.randrange(256)]) + body[at + rng.randint(0, 1) :]
    return body[: 1 << 16]


def _span(rng: random.Random, text: str) -> tuple[int, int]:
    a = rng.randrange(len(text) + 1)
    return a, min(len(text), a + int(rng.expovariate(0.1)))


def _cut(rng: random.Random, text: str, samples: list[str]) -> str:
    a, b = _span(rng, text)
    return text[:a] + text[b:]


def _doubled(rng: random.Random, text: str, samples: list[str]) -> str:
    a, b = _span(rng, text)
    return text[:b] + text[a:b] * rng.randint(1, 5) + text[b:]


def _word(rng: random.Random, text: str, samples: list[str]) -> str:
    a, b = _span(rng, text)
    return text[:a] + rng.choice(WORDS) + text[rng.choice((a, b)) :]


def _value(rng: random.Random, text: str, samples: list[str]) -> str:
    """What stands after a colon or between commas becomes something else."""
    marks = [i for i, c in enumerate(text) if c in ":,"]
    if not marks:
        return text
    a = rng.choice(marks) + 1
    b = next((i for i in range(a, len(text)) if text[i] in ",}\n]"), len(text))
    return f"{text[:a]} {rng.choice(WORDS)}{text[b:]}"


def _lines(rng: random.Random, text: str, samples: list[str]) -> str:
    lines = text.splitlines(keepends=True)
    rng.shuffle(lines)
    return "".join(lines)


def _spliced(rng: random.Random, text: str, samples: list[str]) -> str:
    other = rng.choice(samples)
    return text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other)) :]


CHANGES = (_cut, _doubled, _word, _word, _value, _value, _value, _lines, _spliced)


def prepare(folder: Path) -> None:
    """What the samples name."""
    save(folder / "raw.zarr", noise(SHAPE), (2, 32, 32))
    (folder / "good.csv").write_text("2\n")
    (folder / "flags.csv").write_text("2\n")


def read_config(folder: Path, body: bytes) -> None:
    """As `zmend plan` reads it; nothing is written."""
    path = folder / "zmend.yaml"
    path.write_bytes(body)
    propose(load(path))


def read_flags(folder: Path, body: bytes) -> None:
    path = folder / "fuzzed.csv"
    path.write_bytes(body)
    load_flags(str(path), shape=SHAPE, mask_shape=lambda uri: SHAPE)


READERS = {"configuration": (read_config, CONFIGS), "flags": (read_flags, FLAGS)}


def fuzz(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How the readers answered, and every input that they did not answer in our words."""
    answers, crashes = Counter[str](), []
    for n in range(count):
        kind = list(READERS)[n % len(READERS)]
        read, samples = READERS[kind]
        body = spoiled(random.Random(f"{seed} {n}"), samples)
        began = time.process_time()
        try:
            read(folder, body)
            answer = "read"
        except (ZmendError, OSError) as error:  # of the disk or the network: the command says these in words too
            answer = type(error).__name__
            if isinstance(error, ZmendError) and not (error.what and len(str(error)) < 4100):
                crashes.append(f"{kind} {n}: no words, or too many: {str(error)[:200]!r}")
        except BaseException as error:
            answer = "crashed"
            where = traceback.extract_tb(error.__traceback__)[-1]
            crashes.append(f"{kind} {n} of seed {seed}: {type(error).__name__}: {error!s:.100} at {where.filename}:{where.lineno}\n    {body[:300]!r}")
        took = time.process_time() - began
        if took > SLOW_S:
            crashes.append(f"{kind} {n} of seed {seed} took {took:.0f} s: {body[:200]!r}")
        answers[f"{kind}: {answer}"] += 1
    return answers, crashes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        prepare(Path(name))
        began = time.monotonic()
        answers, crashes = fuzz(Path(name), asked.count, asked.seed)
    print(f"seed {asked.seed}, {asked.count} inputs, {time.monotonic() - began:.0f} s")
    for answer, count in sorted(answers.items()):
        print(f"{answer:32}{count:8}")
    print("\n".join(crashes) or "no crash")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
