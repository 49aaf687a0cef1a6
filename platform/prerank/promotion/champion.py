"""Making a version the champion, and taking that back.

Both move the alias ``champion``, which replicas follow within seconds, and neither removes
anything. A promotion notes on the version which one it took the place of; a rollback goes there.
"""

from __future__ import annotations

import time

from prerank.core.errors import NotReadyError, StateError
from prerank.core.home import Home
from prerank.promotion.config import GateConfig
from prerank.promotion.gate import put_to_gate
from prerank.promotion.verdict import Verdict
from prerank.registry import versions as registry
from prerank.registry.bundle import Version, read_meta
from prerank.registry.gates import BEFORE, PASSED, read_gate, waive, write_tags


def promote(
    home: Home, version: Version, config: GateConfig, without_gate: bool = False
) -> Verdict | None:
    """Make a version the champion, if it passes the gate.

    It is put to the gate unless it has passed it against the champion of now.

    Args:
        home: with the version's index.
        version: that is registered.
        config: of the gate.
        without_gate: promote it all the same; its tags say so.

    Returns:
        What the gate said; None where it was not asked again.

    Raises:
        NotReadyError: it did not pass, has no index, or MLflow is away.
        StateError: the version's features are not online, its files are damaged or not of one
            version, or it does not score as it did at training.
    """
    champion, verdict = registry.alias_version(registry.CHAMPION), None
    if without_gate:
        meta = read_meta(registry.servable(home, version))[1]
        waive(version, meta, int(time.time()) * 1_000_000, champion)
    elif not _passed(home, version, champion):
        verdict = put_to_gate(home, version, config)
        verdict.raise_if_failed()
    if champion != version:
        number = champion.number if champion else ""
        write_tags(version, {BEFORE: number}, "told the champion before")
    registry.promote(home, version)
    return verdict


def _passed(home: Home, version: Version, champion: Version | None) -> bool:
    """Whether the version has passed, against the champion of now or as the champion."""
    gate = read_gate(version)
    against = champion.number if champion else ""
    if gate.result != PASSED or not (gate.against == against or champion == version):
        return False
    return gate.is_of(version, read_meta(registry.download(home, version))[1])


def rollback(home: Home, to: Version | None = None) -> tuple[Version, Version]:
    """Make the champion before the champion again, without a new gate: it was served before.

    Args:
        home: with the version's index.
        to: another version to go back to.

    Returns:
        The version that was the champion, and the one that is it now.

    Raises:
        NotReadyError: there is no champion, or the one before is gone.
        StateError: which one stood before is not known, or it cannot be served.
    """
    champion = registry.alias_version(registry.CHAMPION)
    if champion is None:
        raise NotReadyError("no version is the champion: there is nothing to roll back.")
    if to is None:
        to = _before(champion)
    if to == champion:
        raise StateError(f"version {to} is the champion. Name another --version.")
    meta = read_meta(registry.servable(home, to))[1]
    if not read_gate(to).open_to(to, meta):
        waive(to, meta, int(time.time()) * 1_000_000, champion)
    registry.promote(home, to)
    return champion, to


def _before(champion: Version) -> Version:
    number = read_gate(champion).champion_before
    if not number:
        raise StateError(
            f"which version was the champion before version {champion} is not recorded: it is the "
            "first one, or its alias was moved in the MLflow UI. Name it: prerank rollback "
            "--version V."
        )
    return registry.version_of(number)
