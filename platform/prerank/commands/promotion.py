"""What makes a version live: the gate, promotion, and the way back."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

from prerank import preflight
from prerank.commands.options import home_of, next_step
from prerank.commands.versions import chosen
from prerank.core.errors import ConfigError
from prerank.summaries import Summary

if TYPE_CHECKING:
    from prerank.promotion.config import GateConfig

DEPLOY = "serve deploy deployments/prerank.yaml   (unless it is deployed; then prerank parity)"


def gate(args: argparse.Namespace) -> Summary:
    """Put a version to the gate."""
    from prerank.promotion.gate import FOLDER, put_to_gate
    from prerank.registry import tracking

    config, day = _config(args), _day(args.day)
    home = home_of(args)
    preflight.check_log(home)
    tracking.connect(home)
    version = chosen(args)
    verdict = put_to_gate(home, version, config, day)
    print(verdict.table())
    verdict.raise_if_failed()
    wrote = (
        f"tags of model version {version}: gate {verdict.result}\n"
        f"{FOLDER}/gate.md and gate.json, among the artifacts of its run"
    )
    read = f"model version {version}; the newest labelled requests of {home.events}"
    return Summary(read, wrote, next_step(args, f"promote --version {version}"))


def promote(args: argparse.Namespace) -> Summary:
    """Make a version the champion."""
    from prerank.config import JobConfig
    from prerank.promotion.champion import promote
    from prerank.registry import tracking

    config, home = JobConfig.load(args.config), home_of(args)
    tracking.connect(home)
    version = chosen(args)
    verdict = promote(home, version, config.gate, args.without_gate)
    if verdict is not None:
        print(verdict.table())
    wrote = f"alias champion: version {version}; live replicas follow within seconds"
    if args.without_gate:
        wrote += "\ntag gate: waived, since it was promoted without"
    return Summary(f"model version {version}", wrote, DEPLOY)


def rollback(args: argparse.Namespace) -> Summary:
    """Make the champion before the champion again."""
    from prerank.promotion.champion import rollback
    from prerank.registry import tracking
    from prerank.registry import versions as registry

    home = home_of(args)
    tracking.connect(home)
    to = registry.version_of(args.version) if args.version else None
    left, now = rollback(home, to)
    return Summary(
        f"champion: model version {left}",
        f"alias champion: version {now}; live replicas follow within seconds",
        next_step(args, f"promote --version {left}", "once what was wrong with it is known"),
    )


def _config(args: argparse.Namespace) -> GateConfig:
    """The gate of --config, with what other options say."""
    from prerank.config import JobConfig

    given = {
        name: value
        for name in ("margin", "requests", "undecided")
        if (value := getattr(args, name)) is not None
    }
    return replace(JobConfig.load(args.config).gate, **given)


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise ConfigError(f"--day {text!r} is no day: {error}. Give one as 2026-11-26.") from None
