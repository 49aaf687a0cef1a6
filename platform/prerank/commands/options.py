"""What the options of several verbs mean, and what several verbs print."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime

from prerank import preflight
from prerank.core.errors import ConfigError
from prerank.core.home import ENV, Home
from prerank.core.places import absolute


def home_of(args: argparse.Namespace) -> Home:
    """The home of --workdir, else of the environment, which names it from now on.

    Raises:
        ConfigError: there is none, or it cannot be written.
    """
    home = Home.at(absolute(args.workdir)) if args.workdir else Home.from_env()
    preflight.check_home(home)
    os.environ[ENV] = home.place
    return home


def check_log(home: Home, args: argparse.Namespace) -> None:
    """See that --events and --items can be read, and that there is room for what they become.

    Raises:
        ConfigError: an option is wrong.
        StateError: the disk is too full.
    """
    preflight.check_inputs({"events": args.events, "items": args.items})
    preflight.check_space(home, args.events, args.items)


def check_seeds(args: argparse.Namespace) -> None:
    """See that there is a training to do.

    Raises:
        ConfigError: --seeds is below 1.
    """
    if args.seeds < 1:
        raise ConfigError(f"--seeds {args.seeds}: at least one is needed")


def next_step(args: argparse.Namespace, command: str, also: str = "") -> str:
    """The command that follows, in the same home."""
    place = f" --workdir {args.workdir}" if args.workdir else ""
    return f"prerank {command}{place}" + (f"   ({also})" if also else "")


def measured_files(home: Home, split: str) -> str:
    """The files of an evaluation."""
    from prerank.pipeline import files

    metrics, report = files(home, split)
    return f"{report}\n{metrics}"


def clock_time(micros: int) -> str:
    """Microseconds since 1970 for people."""
    return f"{datetime.fromtimestamp(micros / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"
