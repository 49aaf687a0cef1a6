"""Progress bars, and the one place that decides whether they are shown."""

from __future__ import annotations

import os
from typing import Any

from tqdm import tqdm

PROGRESS_ENV = "PRERANK_PROGRESS"


def bar(wanted: bool = True, **options: Any) -> tqdm[Any]:
    """A bar on stderr; nothing where it is not ``wanted``, or ``PRERANK_PROGRESS=0``.

    Args:
        wanted: by the caller.
        options: of tqdm: ``total``, ``desc``, ``unit`` ….
    """
    return tqdm(disable=not wanted or os.environ.get(PROGRESS_ENV, "1") == "0", **options)
