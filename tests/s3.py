"""A real S3 protocol on loopback, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs as pafs
import pytest

VARIABLES = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    # No look for a cloud's own credentials.
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server(patch: pytest.MonkeyPatch, bucket: str = "bucket") -> Iterator[str]:
    """Run a server with an empty bucket, named by the environment; yields its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        patch.setenv("AWS_ENDPOINT_URL", url)
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        system = pafs.S3FileSystem(endpoint_override=url, allow_bucket_creation=True)
        system.create_dir(bucket)
        yield url
    finally:
        server.stop()
