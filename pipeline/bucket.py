"""Bucket: objects below a prefix of an S3 bucket, through obstore. A PUT there is whole or not at all, and durable.

Endpoint, region and keys come from the usual environment variables (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_SKIP_SIGNATURE), else from wherever boto3 finds them (profiles, roles).
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.store import S3Store

from pipeline.errors import VolumeError
from pipeline.objects import Stored

# Backoff is the library's: 0.1 s, doubled up to 15 s, with jitter. What fails still is an OSError.
RETRY: Any = {"max_retries": 15, "retry_timeout": timedelta(minutes=3)}
TIMEOUT = "300s"  # one request with its body; the library's own 30 s is short for a shard on a busy link
TRIES = 8  # of what the library does not repeat
PAGE = 1000  # objects in one answer; S3 gives no more
T = TypeVar("T")
Environment = tuple[tuple[str, str], ...]


class Bucket:
    """The objects below s3://bucket/prefix."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.bucket, _, self.prefix = uri.removeprefix("s3://").partition("/")
        self.store = _store(self.bucket, _environment())

    def _at(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, key) if part)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        span: Any = {"offset": start} if stop is None else (start, stop)
        options: Any = {"range": span} if start or stop is not None else None

        def get() -> bytes | None:
            with self._absent_is_none():
                return bytes(obstore.get(self.store, self._at(key), options=options).bytes())
            return None

        return self._do("read", key, get)

    def stat(self, key: str) -> Stored | None:
        def head() -> Stored | None:
            with self._absent_is_none():
                return _stored(key, obstore.head(self.store, self._at(key)))
            return None

        return self._do("read", key, head) if self._at(key) else None

    @contextmanager
    def _absent_is_none(self) -> Iterator[None]:
        """An object that is not there is no error, a bucket that is not there is one."""
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise

    def put(self, key: str, data: bytes) -> None:
        self._do("write", key, lambda: obstore.put(self.store, self._at(key), data, use_multipart=False))

    keep = lay = put

    def create(self, key: str, data: bytes) -> bool:
        def put() -> bool:
            try:
                obstore.put(self.store, self._at(key), data, mode="create", use_multipart=False)
                return True
            except (AlreadyExistsError, PreconditionError):
                return self.read(key) == data  # one whose answer was lost was carried out: then it is ours

        return self._do("write", key, put)

    def delete(self, key: str) -> None:
        self._do("delete", key, lambda: obstore.delete(self.store, self._at(key)))

    def move(self, key: str, to: str) -> None:
        self._do("write", to, lambda: obstore.copy(self.store, self._at(key), self._at(to)))
        self.delete(key)

    def clear(self, last: Iterable[str] = ()) -> None:
        keys = [s.key for s in self.walk()]
        for late in (False, True):
            paths = [self._at(key) for key in keys if (key in last) == late]
            self._do("delete", "", lambda paths=paths: obstore.delete(self.store, paths))  # type: ignore[misc]

    def copy(self, source: Bucket, key: str) -> bool:
        """Copy an object within the server; False where it will not: another account's bucket, or another region's."""
        if source.bucket == self.bucket:
            self._do("write", key, lambda: obstore.copy(self.store, source._at(key), self._at(key)))
            return True
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError  # obstore copies within a bucket

        origin = {"Bucket": source.bucket, "Key": source._at(key)}
        try:
            _client(_environment()).copy_object(Bucket=self.bucket, Key=self._at(key), CopySource=origin)
        except (ClientError, NoCredentialsError):
            return False
        except BotoCoreError as error:
            raise OSError(f"{self.uri}/{key}: cannot copy: {error}") from error
        return True

    def sync(self, keys: Iterable[str]) -> None:
        pass

    def names(self) -> list[str] | None:
        found: Any = self._do("list", "", lambda: obstore.list_with_delimiter(self.store, self.prefix))
        paths = [*found["common_prefixes"], *(o["path"] for o in found["objects"])]
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in paths) or None

    def walk(self) -> Iterator[Stored]:
        cut, after = len(self.prefix) + 1 if self.prefix else 0, None
        while page := self._page(after):
            yield from (_stored(meta["path"][cut:], meta) for meta in page)
            if len(page) < PAGE:
                return
            after = page[-1]["path"]

    def _page(self, after: str | None) -> Any:
        """The next objects in order."""

        def look() -> Any:
            return next(obstore.list(self.store, self.prefix, offset=after, chunk_size=PAGE), ())

        return self._do("list", "", look)

    def _do(self, verb: str, key: str, act: Callable[[], T]) -> T:
        """Carry out what may be carried out twice; errors in our words."""
        for left in reversed(range(TRIES)):
            try:
                return act()
            except (BaseError, FileNotFoundError) as error:
                if not left or not gave_up_early(error):
                    raise in_words(error, verb, f"{self.uri}/{key}".rstrip("/"), self.bucket) from None
        raise AssertionError("unreachable")


def gave_up_early(error: Exception) -> bool:
    """Whether the library could have repeated a request, and did not: one that may have been carried out though its
    answer was lost, or one whose answer broke off in the middle. All of ours may be carried out twice."""
    if not isinstance(error, GenericError) or not isinstance(in_words(error, "read", ""), OSError):
        return False
    tried = re.search(r"after (\d+) retries, max_retries: (\d+)", str(error))
    return tried is None or int(tried[1]) < int(tried[2])


async def repeated(act: Callable[[], Awaitable[T]]) -> T:
    """What `act` makes, tried again where the library gave up early."""
    for _ in range(TRIES - 1):
        try:
            return await act()
        except GenericError as error:
            if not gave_up_early(error):
                raise
    return await act()


def in_words(error: Exception, verb: str, where: str, bucket: str = "") -> Exception:
    """What an error of the library means: refused for good (VolumeError), or worth another try (OSError)."""
    text = str(error)
    status = next(iter(re.findall(r"status code: (\d+)", text)), "")
    code = next(iter(re.findall(r"<Code>(\w+)</Code>|code: (\w+)\)", text)), ("", ""))
    said = "".join(code) or f"HTTP {status}"
    if isinstance(error, FileNotFoundError) or status == "404":
        return _no_bucket(bucket or where)
    if status == "403" or status == "401" or "AccessDenied" in said:
        return _refused(verb, where, said)
    if status in ("301", "307") or "AuthorizationHeaderMalformed" in said or "LOCATION" in text:
        do = "set AWS_REGION to the bucket's region, or AWS_ENDPOINT_URL to the server that has it"
        return VolumeError("the bucket is in another region", where=where, why=said, do=do)
    return OSError(f"{where}: cannot {verb}: {text.splitlines()[0]}")


def _refused(verb: str, where: str, said: str) -> VolumeError:
    rights = {"read": "GetObject", "list": "ListBucket", "write": "PutObject", "delete": "DeleteObject"}
    unknown = said in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
    check = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, AWS_PROFILE)"
    return VolumeError(
        "the object store does not know these credentials" if unknown else f"the object store refuses to {verb}",
        where=where,
        why=said,
        do=check if unknown else f"{check}, and that this key has the right s3:{rights[verb]} there",
    )


def _no_bucket(bucket: str) -> VolumeError:
    return VolumeError(
        "there is no such bucket",
        where=bucket if "://" in bucket else f"s3://{bucket}",
        why="no bucket of this name at " + (os.environ.get("AWS_ENDPOINT_URL") or "Amazon"),
        do="check its name and AWS_ENDPOINT_URL; zmend makes no buckets",
    )


def _stored(key: str, meta: Any) -> Stored:
    # Whole seconds: a listing may tell more digits than a HEAD does.
    return Stored(key, meta["size"], int(meta["last_modified"].timestamp()) * 10**9, meta["e_tag"] or "")


def _environment() -> Environment:
    return tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))


@lru_cache(maxsize=16)
def _store(bucket: str, environment: Environment) -> S3Store:
    """The client of a bucket: one pool of connections. Which credentials it has depends on the environment."""
    said = dict(environment)
    endpoint = said.get("AWS_ENDPOINT_URL_S3") or said.get("AWS_ENDPOINT_URL") or ""
    options: Any = {"timeout": TIMEOUT, "allow_http": endpoint.startswith("http://")}
    config: Any = {"disable_bulk_delete": True}  # a POST is not repeated when its answer is lost, a DELETE is
    if "AWS_ACCESS_KEY_ID" in said or "AWS_SKIP_SIGNATURE" in said:
        return S3Store(bucket, config=config, client_options=options, retry_config=RETRY)
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    if session.get_credentials() is None:  # a public bucket needs none
        config["skip_signature"] = True
        return S3Store(bucket, config=config, client_options=options, retry_config=RETRY)
    provider = Boto3CredentialProvider(session)
    return S3Store(bucket, config=config, client_options=options, retry_config=RETRY, credential_provider=provider)


@lru_cache(maxsize=4)
def _client(environment: Environment) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 10}))
