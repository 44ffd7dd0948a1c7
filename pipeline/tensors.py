"""Tensors: the voxels of a foreign array, as tensorstore reads them; the one module that imports it, when asked to."""

from __future__ import annotations

import os
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.ome import Json

PASSING = ("ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN")
# Half a minute; tensorstore's own patience is a quarter of an hour. What fails still is told, and the slab tried again.
RETRIES: Json = {"max_retries": 6, "initial_delay": "500ms", "max_delay": "8s"}


class Voxels:
    """The array as tensorstore reads it: slices in stored order in, voxels out. Threads may share it."""

    def __init__(self, array: Any) -> None:
        self._array, self._lock, self.read = array, Lock(), 0  # read: bytes as decoded; tensorstore counts per process

    def __getitem__(self, view: tuple[slice, ...]) -> NDArray[Any]:
        try:
            voxels: NDArray[Any] = np.asarray(self._array[view].read().result())
        except ValueError as error:
            raise _in_words(error) from error
        with self._lock:
            self.read += voxels.nbytes
        return voxels


def open_voxels(kind: str, files: Files, group: Files, level: int) -> Voxels:
    """The voxels of a level, their first at 0. Raises VolumeError: no tensorstore here, or it refuses."""
    tensorstore = _tensorstore(files)
    spec: Json = {"driver": "n5", "kvstore": _kvstore(files)}
    if kind == "precomputed":
        spec = {"driver": "neuroglancer_precomputed", "kvstore": _kvstore(group), "scale_index": level}
    try:
        context = tensorstore.Context({"http_request_retries": RETRIES, "s3_request_retries": RETRIES})
        array = tensorstore.open(spec, read=True, open=True, context=context).result()
    except ValueError as error:
        if isinstance(told := _in_words(error), OSError):
            raise told from error
        do = "restore the volume's own document, or convert the volume to OME-Zarr"
        raise VolumeError("tensorstore cannot open the array", where=files.uri, why=str(told), do=do) from error
    return Voxels(array[tensorstore.d[:].translate_to[0]])


def _tensorstore(files: Files) -> Any:
    try:
        import tensorstore
    except ImportError as error:
        raise VolumeError(
            "this machine cannot read precomputed and N5 volumes",
            where=files.uri,
            why=f"tensorstore is not installed: {error}",
            do='pip install "zmend[precomputed]"',
        ) from error
    return tensorstore


def _kvstore(files: Files) -> Json:
    """The address in tensorstore's words."""
    if files.local is not None:
        return {"driver": "file", "path": f"{files.local}/"}
    if files.web:
        scheme, _, rest = files.uri.partition("://")
        host, _, path = rest.partition("/")
        return {"driver": "http", "base_url": f"{scheme}://{host}", "path": f"/{path}/"}
    if files.bucket is not None:
        return _s3(files.bucket.bucket, files.bucket.prefix)
    raise VolumeError(
        "precomputed and N5 volumes are read from a folder, from S3 and from the web",
        where=files.uri,
        do="name its https address; of gs://BUCKET/PATH that is https://storage.googleapis.com/BUCKET/PATH",
    )


def _s3(bucket: str, prefix: str) -> Json:
    told = os.environ.get
    endpoint = told("AWS_ENDPOINT_URL_S3") or told("AWS_ENDPOINT_URL")
    region = told("AWS_REGION") or told("AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else "")
    return {
        "driver": "s3",
        "bucket": bucket,
        "path": f"{prefix}/" if prefix else "",
        **({"endpoint": endpoint} if endpoint else {}),
        **({"aws_region": region} if region else {}),
        **({"aws_credentials": {"type": "anonymous"}} if _unsigned() else {}),
    }


def _unsigned() -> bool:
    """Whether nobody is to be named: a public bucket needs no keys, as `bucket` has it."""
    if "AWS_ACCESS_KEY_ID" in os.environ or "AWS_SKIP_SIGNATURE" in os.environ:
        return "AWS_SKIP_SIGNATURE" in os.environ
    import boto3

    return boto3.Session().get_credentials() is None


def _in_words(error: ValueError) -> Exception:
    """An error of tensorstore: worth another try (OSError), or for good. What follows its words is its own spec."""
    text = str(error).partition(" [tensorstore_spec=")[0].partition(" [source locations=")[0]
    return OSError(text) if text.startswith(PASSING) else ValueError(text)
