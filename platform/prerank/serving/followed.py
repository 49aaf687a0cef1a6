"""Which version answers for a variant, and why it may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prerank.core.errors import NotReadyError, RegistryAwayError
from prerank.registry import versions as registry
from prerank.registry.bundle import Version
from prerank.serving.engine import Engine
from prerank.serving.fields import Limits
from prerank.serving.shadow import Scores


class Named:
    """Which version a variant names now: that of a number, or that of an alias.

    Attributes:
        gone: why the registry has no such version; empty where it has one, or is away.
    """

    def __init__(self, name: str) -> None:
        self.name, self.gone = name, ""

    def wanted(self) -> registry.Wanted:
        """The version to serve now.

        Raises:
            NotReadyError: there is none, or the registry is away.
        """
        try:
            found = registry.Wanted(self.name, self._version())
        except RegistryAwayError:
            raise
        except NotReadyError as error:
            self.gone = str(error)
            raise
        self.gone = ""
        return found

    def remember(self, served: registry.Wanted) -> None:
        """Nothing: a replica that starts while the registry is away serves the champion."""

    def last(self) -> None:
        """Not known, for the same reason."""

    def _version(self) -> Version:
        if self.name.isdecimal():
            return registry.version_of(self.name)
        found = registry.alias_version(self.name)
        if found is None:
            raise NotReadyError(f"no version has the alias {self.name}: set it in the MLflow UI")
        return found


@dataclass(frozen=True)
class Followed:
    """Who answers for a version. ``named`` and ``engine`` say which version is followed; both are
    None where none is: for the champion, and for the caller's order.
    """

    scores: Scores
    engine: Engine | None = None
    named: Named | None = None

    def problem(self, limits: Limits) -> str:
        """Why it cannot answer what was read with ``limits``; empty where it can."""
        if self.named is None or self.engine is None:
            return ""
        if self.named.gone or self.engine.refused:
            return self.named.gone or self.engine.refused
        try:
            own = self.engine.limits()
        except NotReadyError as error:
            return str(error)
        if read_by(own) != read_by(limits):
            return (
                f"version {self.engine.model_version} reads requests otherwise than the champion "
                "(heads, segments or what a caller gives of candidates): train it on the same log"
            )
        return ""

    def stop(self) -> None:
        """Follow no longer; the champion's engine goes on."""
        if self.engine is not None:
            self.engine.stop()


def read_by(limits: Limits) -> tuple[Any, ...]:
    """What decides how the fields of a request are read."""
    schema = limits.schema
    return limits.ids, schema.heads, schema.segments, schema.given
