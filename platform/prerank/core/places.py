"""Where a log lies: local paths, globs of them, and URIs of object stores."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_WILD = re.compile(r"[*?[]")


def is_uri(place: str | Path) -> bool:
    """Whether a place is a URI such as ``s3://bucket/log/`` rather than a local path."""
    return isinstance(place, str) and bool(_URI.match(place)) and not place.startswith("file://")


def is_glob(place: str | Path) -> bool:
    """Whether a place has the wildcards of a glob and is not simply a file of that name."""
    return bool(_WILD.search(str(place))) and (is_uri(place) or not Path(place).exists())


def absolute(place: str) -> str:
    """The place from anywhere: a URI as it is, a path made absolute, ``file://`` as its path."""
    if is_uri(place):
        return place
    if place.startswith("file://"):
        place = unquote(urlsplit(place).path)
    return str(Path(place).expanduser().resolve())
