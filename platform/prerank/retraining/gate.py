"""The gate of a version, as a retraining asks for it."""

from __future__ import annotations

from prerank.config import JobConfig
from prerank.core.errors import NotReadyError, StateError
from prerank.core.home import Home
from prerank.registry import versions as registry
from prerank.registry.bundle import Version
from prerank.retraining.rounds import Facts


def judged(home: Home, version: Version, config: JobConfig) -> Facts:
    """What the gate says of a version: whether it "passed", the "reason", and its "checks"."""
    try:
        registry.servable(home, version)
    except (NotReadyError, StateError) as error:
        return {"passed": False, "reason": str(error), "checks": []}
    return {"passed": True, "reason": "it can be served", "checks": []}


def promote(home: Home, version: Version) -> None:
    """Make a version that passed the champion."""
    registry.promote(home, version)
