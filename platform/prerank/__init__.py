"""Pre-ranking platform: from an event log to a live Ray Serve deployment.

The command line and the HTTP API are what users call; of the package, only its version is public.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("interactrank-platform")
except PackageNotFoundError:
    # A checkout that is on the path only.
    __version__ = "not installed"
