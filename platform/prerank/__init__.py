"""Pre-ranking platform: from an event log to a live Ray Serve deployment.

The command line and the HTTP API are what users call; of the package, the clients of a deployment
and what they are asked with are public. Each of these names is imported when it is first asked for.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from interactrank.lazy import lazy

if TYPE_CHECKING:
    from prerank.client.async_client import AsyncClient
    from prerank.client.client import Client
    from prerank.client.errors import ClientError
    from prerank.client.requests import Event, QueryRequest, RankRequest, RerankRequest

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Event",
    "QueryRequest",
    "RankRequest",
    "RerankRequest",
    "__version__",
]

try:
    __version__ = version("interactrank-platform")
except PackageNotFoundError:
    # A checkout that is on the path only.
    __version__ = "not installed"

_MODULE_OF = {
    "AsyncClient": "client.async_client",
    "Client": "client.client",
    "ClientError": "client.errors",
    "Event": "client.requests",
    "QueryRequest": "client.requests",
    "RankRequest": "client.requests",
    "RerankRequest": "client.requests",
}
__getattr__, __dir__ = lazy(__name__, _MODULE_OF)
