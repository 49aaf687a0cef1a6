"""Pre-ranking platform: from an event log to a live Ray Serve deployment.

The command line and the HTTP API are what users call; of the package, the clients of a deployment
and what they are asked with are public. Each of these names is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

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

_MODULES = {
    "client.async_client": ("AsyncClient",),
    "client.client": ("Client",),
    "client.errors": ("ClientError",),
    "client.requests": ("Event", "QueryRequest", "RankRequest", "RerankRequest"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
