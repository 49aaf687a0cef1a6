"""The whole way in one verb, and what every process of an installation is told."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from prerank import preflight
from prerank.commands.options import check_log, check_seeds, home_of, measured_files, next_step
from prerank.core.errors import ConfigError
from prerank.core.home import ENV, Home
from prerank.core.places import absolute, is_uri
from prerank.summaries import Summary


def run(args: argparse.Namespace) -> Summary:
    """The whole way."""
    from prerank.config import JobConfig
    from prerank.core import environment
    from prerank.ingest.inspection.assume import mapping_of_home
    from prerank.ingest.mapping import load_mapping
    from prerank.pipeline import run

    mapping, config = load_mapping(args.mapping), JobConfig.load(args.config)
    home = home_of(args)
    check_seeds(args)
    preflight.check_inputs({"oracles": args.oracles})
    check_log(home, args)
    preflight.check_services(home, online=True, registry=True)
    environment.ensure_token()
    events, items = absolute(args.events), absolute(args.items)
    if args.mapping is None:
        mapping = mapping_of_home(home, events, items)
    _, version = run(home, events, items, mapping, config, args.oracles, args.seeds)
    wrote = f"{measured_files(home, 'test')}\nmodel version {version} (challenger)"
    return Summary(f"{args.events}\n{args.items}", wrote, next_step(args, "promote"))


def demo(args: argparse.Namespace) -> Summary:
    """The whole way on a simulated world, with live requests."""
    from prerank.demo import demo

    if args.workdir and is_uri(args.workdir):
        raise ConfigError(f"--workdir {args.workdir}: the demo works in a folder of this machine")
    home = demo(Path(absolute(args.workdir)) if args.workdir else None)
    return Summary(
        wrote=f"{home.root}\nreport.html   the report, in a browser",
        then=f'eval "$(prerank env --workdir {home.root})", then:\n'
        f"mlflow ui --backend-store-uri sqlite:///{home.mlflow / 'mlflow.db'}\n"
        "feast -c feature_repo ui\n"
        "or your own log: prerank run --help",
    )


def config(args: argparse.Namespace) -> None:
    """Print the configuration, or its JSON Schema."""
    from prerank.config import JobConfig, json_schema

    if args.schema and args.config:
        raise ConfigError("--schema is the same for every --config: give one of the two")
    if args.schema:
        print(json.dumps(json_schema(), indent=2))
    else:
        print(JobConfig.load(args.config).to_yaml(), end="")


def env(args: argparse.Namespace) -> None:
    """Print the shared environment."""
    from prerank.core.environment import exports

    root = args.workdir or os.environ.get(ENV) or Path.home() / ".prerank"
    home = Home.at(absolute(args.workdir) if args.workdir else root)
    home.create()
    # Set variables are kept; --workdir says that this one is not to be.
    os.environ[ENV] = home.place
    print(exports(home))
