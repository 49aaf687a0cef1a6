"""A search for better settings."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prerank import preflight
from prerank.commands.options import home_of, next_step
from prerank.core.errors import ConfigError
from prerank.summaries import Summary

if TYPE_CHECKING:
    from prerank.config import JobConfig
    from prerank.evaluation.tuned import Tuned


def tune(args: argparse.Namespace) -> Summary:
    """Try settings, and write the best as a configuration."""
    from prerank.config import JobConfig
    from prerank.evaluation.search_space import load_space
    from prerank.evaluation.tuned import table
    from prerank.evaluation.tuning import tune

    if args.trials < 1:
        raise ConfigError(f"--trials {args.trials}: at least one is needed")
    if args.minutes is not None and not args.minutes > 0:
        raise ConfigError(f"--minutes {args.minutes}: give a time above 0")
    if not args.out.resolve().parent.is_dir():
        raise ConfigError(f"--out {args.out}: there is no folder {args.out.resolve().parent}.")
    config, space = JobConfig.load(args.config), load_space(args.space)
    home = home_of(args)
    preflight.check_log(home)
    preflight.check_services(home, registry=True)
    found = tune(home, config.model, config.train, space, args.trials, args.minutes)
    print(f"{table(found)}\n{found.verdict()}")
    _write(args.out, config, found)
    then = f"train --config {args.out}"
    also = "it is not beyond noise, so the configuration may as well stay"
    return Summary(
        f"{home.training_set}: validation and training requests; the test split took no part",
        f"{args.out}\n{home.told(home.root / 'tuning' / found.study)}",
        next_step(args, then, "" if found.beyond_noise else also),
    )


def _write(out: Path, config: JobConfig, found: Tuned) -> None:
    """The configuration with the best trial's values; how it was found is a comment."""
    from prerank.evaluation.search_space import applied

    model, train = applied(found.values, config.model, config.train)
    told = f"Found by `prerank tune`, trial {found.best} of {len(found.trials)}. {found.verdict()}"
    comment = textwrap.fill(told, 96, initial_indent="# ", subsequent_indent="# ")
    text = replace(config, model=model, train=train).to_yaml()
    out.write_text(f"{comment}\n\n{text}", encoding="utf-8")
