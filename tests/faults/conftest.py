"""The S3 server of tests/s3, for races."""

from tests.s3.conftest import s3, server  # noqa: F401
