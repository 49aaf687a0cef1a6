"""How much of the journals one online store has."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from prerank.core.files import read_json_or_nothing, write_json

logger = logging.getLogger(__name__)


class Checkpoint:
    """How many bytes of each segment are merged into an online store, kept in a file.

    It may lag behind the store, since what is merged again changes nothing. A file that is missing
    or damaged means that nothing was merged.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._merged = path, dict[str, int]()
        try:
            found = read_json_or_nothing(path)
            self._merged = {str(name): int(end) for name, end in found.items()}
        except (ValueError, TypeError):
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
