"""A real S3 protocol on loopback, for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.fs as pafs
import pytest

from prerank.core import object_stores

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


class FakeS3:
    """Answers every request as it is told: for faults that a real server cannot be asked for.

    Attributes:
        answer: (status, error code) of reads.
        writing: of writes; as of reads where None.
        pause_s: before each answer.
    """

    def __init__(self) -> None:
        self.answer: tuple[int, str] = (503, "SlowDown")
        self.writing: tuple[int, str] | None = None
        self.pause_s = 0.0


@contextmanager
def fake_s3(patch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """Such a server, named by the environment, and asked twice before it is given up."""
    fake = FakeS3()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            time.sleep(fake.pause_s)
            writes = self.command in ("PUT", "POST", "DELETE")
            status, code = (writes and fake.writing) or fake.answer
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
            except OSError:
                # The client gave up first.
                self.close_connection = True

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    patch.setattr(object_stores, "FIRST_WAIT_S", 0.001)
    patch.setattr(object_stores, "TRIES", 2)
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name, value in VARIABLES.items():
        patch.setenv(name, value)
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
