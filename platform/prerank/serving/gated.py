"""Whether the version that is promoted may become live, as a replica asks it."""

from __future__ import annotations

import logging

from prerank.core.errors import PrerankError
from prerank.core.home import Home
from prerank.core.redact import redact
from prerank.registry import versions as registry
from prerank.registry.bundle import Version, read_meta
from prerank.registry.gates import read_gate

logger = logging.getLogger(__name__)


class Gated:
    """Asks the registry for a version's gate at each poll, until it is open; then no more.

    Args:
        home: of the deployment.
        required: whether a version without an open gate is refused.
    """

    def __init__(self, home: Home, required: bool) -> None:
        self.home, self.required = home, required
        self._open: set[Version] = set()
        self._told = ""

    def bars(self, wanted: registry.Wanted) -> str:
        """Why a version may not become live; empty where it may.

        While the registry is away, what is wanted is what was served last, and it may.
        """
        version = wanted.version
        if not self.required or wanted.note or version in self._open:
            return ""
        try:
            meta = read_meta(registry.download(self.home, version))[1]
            read_gate(version).check(version, meta)
        except PrerankError as error:
            reason = f"model version {version} is refused: {redact(str(error))}"
            if reason != self._told:
                logger.error(reason)
            self._told = reason
            return reason
        self._open.add(version)
        return ""
