"""What is done with a model version: measured, indexed, exported, compared."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from prerank import preflight
from prerank.commands.options import check_seeds, home_of, measured_files, next_step
from prerank.core.errors import ConfigError
from prerank.core.places import absolute
from prerank.summaries import Summary, count

if TYPE_CHECKING:
    from prerank.registry.bundle import Version


def chosen(args: argparse.Namespace) -> Version:
    """The version of --version, else the challenger."""
    """The version of --version, else the challenger.

    Raises:
        ConfigError: there is none.
        NotReadyError: there is no such version, or MLflow is away.
    """
    from prerank.registry.versions import CHALLENGER

    return _version(args, CHALLENGER, "no challenger is registered", "prerank train")


def _chosen_or_champion(args: argparse.Namespace) -> Version:
    from prerank.registry.versions import CHAMPION

    return _version(args, CHAMPION, "no version is the champion", "prerank promote")


def _version(args: argparse.Namespace, alias: str, none: str, made_by: str) -> Version:
    """The version of --version, else the one that has the alias."""
    from prerank.registry import versions as registry

    if args.version:
        return registry.version_of(args.version)
    version = registry.alias_version(alias)
    if version is None:
        raise ConfigError(f"{none}: give --version, or run `{made_by}`.")
    return version


def evaluate(args: argparse.Namespace) -> Summary:
    """Measure a registered version."""
    from prerank.core.ray_tasks import connect
    from prerank.pipeline import evaluate_version, tables
    from prerank.registry import tracking

    home = home_of(args)
    tracking.connect(home)
    version = chosen(args)
    connect()
    print(tables(home, evaluate_version(home, version, args.split, args.oracles)))
    read = f"model version {version}; {args.split} requests of {home.events}"
    then = next_step(args, "ablate", "what each part of the model is worth; or prerank promote")
    return Summary(read, measured_files(home, args.split), then)


def ablate(args: argparse.Namespace) -> Summary:
    """Leave out each part of the model in turn."""
    from prerank.config import JobConfig
    from prerank.core.ray_tasks import connect
    from prerank.evaluation.ablations import FILE, ablate, table
    from prerank.evaluation.budget import Budget

    config, home = JobConfig.load(args.config), home_of(args)
    check_seeds(args)
    preflight.check_log(home)
    connect()
    budget = Budget(split=args.split)
    print(table(ablate(home, config.model, config.train, args.seeds, budget, args.only)))
    then = next_step(args, "evaluate", "its report shows these results too")
    return Summary(str(home.training_set), str(home.root / FILE), then)


def learning_curve(args: argparse.Namespace) -> Summary:
    """Train on shares of the requests."""
    from prerank.config import JobConfig
    from prerank.core.ray_tasks import connect
    from prerank.evaluation.learning_curve import FILE, learning_curve, table

    config, home = JobConfig.load(args.config), home_of(args)
    check_seeds(args)
    preflight.check_log(home)
    connect()
    print(table(learning_curve(home, config.model, config.train, args.seeds, args.split)))
    then = next_step(args, "evaluate", "its report shows the curve too")
    return Summary(str(home.training_set), str(home.root / FILE), then)


def index(args: argparse.Namespace) -> Summary:
    """Encode the catalogue."""
    from prerank.core.ray_tasks import connect
    from prerank.registry import tracking
    from prerank.registry import versions as registry
    from prerank.registry.index import build_index
    from prerank.registry.registration import name_index

    home = home_of(args)
    tracking.connect(home)
    version = chosen(args)
    connect()
    made = build_index(home, registry.download(home, version), version)
    name_index(version, made)
    wrote = (
        f"{home.index / version.name}: {count(made['items'], 'vector')} of width {made['width']}"
    )
    return Summary(f"model version {version}, {home.items}", wrote, next_step(args, "promote"))


def add_items(args: argparse.Namespace) -> Summary:
    """Make items scorable that joined the catalogue, or changed."""
    from prerank.ingest.additions import read_items
    from prerank.registry import tracking
    from prerank.registry import versions as registry
    from prerank.registry.additions import add_items
    from prerank.registry.bundle import load_bundle

    home = home_of(args)
    preflight.check_inputs({"items": args.items})
    preflight.check_log(home)
    items, remarks = read_items(absolute(args.items), home)
    for remark in remarks:
        print(f"note: {remark}")
    tracking.connect(home)
    version = _chosen_or_champion(args)
    made = add_items(home, load_bundle(registry.download(home, version)), version, items)
    wrote = (
        f"{count(made.new, 'new item')}, {made.changed:,} changed, {made.same:,} as they were\n"
        f"{home.index / version.name}: {count(made.total, 'item')} added to the index\n"
        f"replicas that serve version {version} score them within seconds"
    )
    also = "makes one index of it; ingest the items too, for the next training"
    return Summary(
        f"{args.items}: {count(len(items), 'item')}",
        wrote,
        next_step(args, f"index --version {version}", also),
    )


def export(args: argparse.Namespace) -> Summary:
    """Write the item index for a search engine."""
    from prerank.registry import tracking
    from prerank.registry import versions as registry
    from prerank.registry.vespa import write_feed

    home, out = home_of(args), args.vespa.resolve()
    if not out.parent.is_dir():
        raise ConfigError(f"--vespa {args.vespa}: there is no folder {out.parent}.")
    preflight.check_log(home)
    tracking.connect(home)
    version = _chosen_or_champion(args)
    items, width = write_feed(home, registry.download(home, version), version, out)
    wrote = f"{out}: {count(items, 'item')}, vectors of width {width}"
    then = f"vespa feed {out}   (see examples/integrations/vespa)"
    return Summary(f"model version {version}, {home.index / version.name}", wrote, then)


def parity(args: argparse.Namespace) -> Summary:
    """Compare a live deployment with the offline tables."""
    from prerank.evaluation.live import open_client
    from prerank.evaluation.parity import check_parity

    if args.requests < 1:
        raise ConfigError(f"--requests {args.requests}: at least one is needed")
    home = home_of(args)
    with open_client(args.url) as client:
        found = check_parity(home, client, args.requests)
    print(found.table())
    found.check()
    return Summary(f"{count(found.compared, 'request')} of {home.events}, asked again")
