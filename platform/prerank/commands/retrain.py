"""A new model each day."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prerank import preflight
from prerank.commands import daily
from prerank.commands.options import check_seeds, home_of, next_step
from prerank.core.errors import ConfigError, NotReadyError
from prerank.core.places import absolute, is_uri
from prerank.summaries import Summary

if TYPE_CHECKING:
    from prerank.core.home import Home
    from prerank.retraining.run import Day


def retrain(args: argparse.Namespace) -> Summary:
    """Add a day, train on it, and say what changed."""
    from prerank.config import JobConfig
    from prerank.retraining.rounds import PROMOTED, REFUSED
    from prerank.retraining.run import retrain

    if args.events and args.served:
        raise ConfigError("give --events or --served, not both; or none for the log as it is")
    if not 0 <= args.max_bad <= 1:
        raise ConfigError(f"--max-bad {args.max_bad}: give a share of the rows, from 0 to 1")
    check_seeds(args)
    config, home = JobConfig.load(args.config), home_of(args)
    preflight.check_inputs({"events": args.events, "items": args.items})
    preflight.check_space(home)
    preflight.check_log(home)
    preflight.check_services(home, online=True, registry=True)
    made = retrain(
        home,
        config,
        _day(home, args),
        seeds=args.seeds,
        warm=args.warm,
        auto_promote=args.auto_promote,
    )
    print(f"\n{made.text}")
    if made.folder is None:
        return Summary(str(home.events))
    folder = home.told(made.folder)
    if made.outcome == REFUSED:
        raise NotReadyError(
            f"version {made.version} is registered and did not pass the gate; what is served "
            f"stays as it is. {folder}/changes.md has the reasons."
        )
    wrote = f"{folder}: changes.md, changes.json\nmodel version {made.version}"
    if made.outcome == PROMOTED:
        return Summary(str(home.events), f"{wrote} (champion)", next_step(args, "parity"))
    then = next_step(args, f"promote --version {made.version}")
    return Summary(str(home.events), f"{wrote} (challenger)", then)


def _day(home: Home, args: argparse.Namespace) -> Day:
    from prerank.retraining.run import Day

    items = args.items and absolute(args.items)
    if args.served:
        add, source = daily.served(home, args)
    elif args.events:
        add, _ = daily.given(home, args)
        source = _source(absolute(args.events))
    else:
        add, source = (lambda: None), "the log as it is"
    items_source = _source(items) if items else ""
    return Day(source, add, items, items_source, args.max_bad, once=args.served)


def _source(place: str | Path) -> str:
    """A place, with what tells its files from later ones there, where they are of this machine."""
    from prerank.retraining.rounds import signature

    return str(place) if is_uri(str(place)) else f"{place} ({signature(place)})"
