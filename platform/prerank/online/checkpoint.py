"""How much of the journals one online store has."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path

from prerank.core.home import write_json

logger = logging.getLogger(__name__)


class Checkpoint:
    """How many bytes of each segment are merged into an online store, kept in a file.

    It may lag behind the store, since what is merged again changes nothing. A file that is missing
    or damaged means that nothing was merged.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._merged = path, dict[str, int]()
        try:
            found = json.loads(path.read_bytes())
            self._merged = {str(name): int(end) for name, end in found.items()}
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, AttributeError):
            logger.warning("%s is damaged: every journal is read again", path)

    def __getitem__(self, segment: str) -> int:
        return self._merged.get(segment, 0)

    def __setitem__(self, segment: str, end: int) -> None:
        self._merged[segment] = end

    def save(self, segments: Collection[str]) -> None:
        """Write what is known of ``segments``, and forget the others."""
        self._merged = {name: self[name] for name in segments}
        try:
            write_json(self._path, self._merged)
        except OSError:
            # Only the next start takes longer.
            logger.exception("the checkpoint could not be written")
