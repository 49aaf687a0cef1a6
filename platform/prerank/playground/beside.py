"""The playground beside a deployment of this process, for as long as somebody looks at it."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import httpx

from prerank.core.errors import NotReadyError

NAME, PREFIX = "playground", "/playground"
READY_SECONDS = 120.0


def deploy(client: httpx.Client, arguments: dict[str, Any]) -> str:
    """Run the playground as a second application of the Serve that runs here.

    Args:
        client: of the deployment, with its token.
        arguments: of the playground.

    Returns:
        Its address, once it knows the champion.

    Raises:
        NotReadyError: it did not become ready in time.
    """
    from ray import serve

    from prerank.playground.deployment import app

    serve.run(app(arguments), name=NAME, route_prefix=PREFIX)
    deadline = time.monotonic() + READY_SECONDS
    while True:
        answer = client.post(f"{PREFIX}/api/state", json={})
        if answer.status_code == 200 and answer.json()["champion"]:
            return str(client.base_url.join(f"{PREFIX}/"))
        if time.monotonic() > deadline:
            raise NotReadyError(f"the playground is not ready: {answer.text[:300]}")
        time.sleep(0.5)


def until_enter(client: httpx.Client, arguments: dict[str, Any]) -> None:
    """Say where the playground is, and wait until somebody presses Enter."""
    address = deploy(client, arguments)
    print(
        f"\nplayground: {address}\n"
        "   look at rankings side by side, open a row to see why it stands there, engage with it,\n"
        "   and watch the next ranking change. It stays open until you press Enter.",
        flush=True,
    )
    with suppress(EOFError):
        input()
