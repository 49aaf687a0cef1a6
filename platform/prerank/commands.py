"""What each verb of `prerank` does: options in, a stage run, a summary out.

Heavy libraries are imported where they are used: `prerank --help` must not wait for them.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prerank import preflight
from prerank.core.errors import ConfigError
from prerank.core.home import ENV, Home
from prerank.summaries import Summary, count, size

if TYPE_CHECKING:
    from prerank.registry.bundle import Version


def _home(args: argparse.Namespace) -> Home:
    home = Home.at(args.workdir.resolve()) if args.workdir else Home.from_env()
    preflight.check_home(home)
    os.environ[ENV] = str(home.root)
    return home


def _check_log(home: Home, args: argparse.Namespace) -> None:
    preflight.check_inputs({"events": args.events, "items": args.items})
    preflight.check_space(home, args.events, args.items)


def _then(args: argparse.Namespace, command: str, also: str = "") -> str:
    """The command that follows, in the same home."""
    place = f" --workdir {args.workdir}" if args.workdir else ""
    return f"prerank {command}{place}" + (f"   ({also})" if also else "")


def _version(args: argparse.Namespace) -> Version:
    from prerank.registry import versions as registry

    if args.version:
        return registry.version_of(args.version)
    version = registry.alias_version(registry.CHALLENGER)
    if version is None:
        raise ConfigError("no challenger is registered: give --version, or run `prerank train`.")
    return version


def _version_or_champion(args: argparse.Namespace) -> Version:
    from prerank.registry import versions as registry

    if args.version:
        return registry.version_of(args.version)
    champion = registry.alias_version(registry.CHAMPION)
    if champion is None:
        raise ConfigError("no version is the champion: give --version, or run `prerank promote`.")
    return champion


def _at(micros: int) -> str:
    return f"{datetime.fromtimestamp(micros / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"


def simulate(args: argparse.Namespace) -> Summary:
    """Write a simulated log."""
    from prerank.simulate import simulate

    out = args.out.resolve()
    made = simulate(out, args.preset, args.seed)
    wrote = (
        f"{out}/events, items.parquet, hidden (oracles), summary.json\n"
        f"{count(made.requests, 'request')}, {count(made.rows, 'event')}, "
        f"{count(made.users, 'user')}, {count(made.items, 'item')}\n"
        f"{made.engagement_rate:.1%} of impressions engaged; "
        f"{made.abandoned_share:.0%} of requests without an engagement"
    )
    then = f"prerank run --events {out}/events --items {out}/items.parquet --workdir W"
    return Summary(f"preset {made.preset}, seed {made.seed}", wrote, then)


def ingest(args: argparse.Namespace) -> Summary:
    """Validate and normalise a log."""
    from prerank.core.ray_tasks import connect
    from prerank.ingest.mapping import load_mapping
    from prerank.ingest.run import ingest

    mapping, home = load_mapping(args.mapping), _home(args)
    _check_log(home, args)
    connect()
    report = ingest(args.events.resolve(), args.items.resolve(), home, mapping, args.replace)
    print(report)
    rows = report.manifest.rows
    return Summary(
        f"{args.events}: {count(rows['in'], 'row')}\n{args.items}",
        f"{home.root}: events, items, manifest.json" + ", quarantine" * bool(rows["quarantined"]),
        _then(args, "features"),
    )


def features(args: argparse.Namespace) -> Summary:
    """Build the feature tables."""
    from prerank.config import JobConfig
    from prerank.features.build import build_features

    config, home = JobConfig.load(args.config), _home(args)
    preflight.check_space(home)
    preflight.check_log(home)
    built = build_features(home, config.features)
    rows, hours = built["rows"], built["cadence_hours"]
    wrote = (
        f"{home.features_of(built['schema_hash'])}\n"
        f"{count(rows['engagement_rows'], 'engagement row')} "
        f"({size(rows['engagement_bytes'])}), {count(rows['history_rows'], 'history state')}\n"
        f"a snapshot every {count(hours, 'hour')}, published "
        f"{count(built['lag_minutes'], 'minute')} after its cutoff"
    )
    also = "and prerank materialise, for serving"
    return Summary(str(home.events), wrote, _then(args, "training-set", also))


def materialise(args: argparse.Namespace) -> Summary:
    """Bring features online."""
    import pandas as pd

    from prerank.online.materialise import materialise

    home = _home(args)
    until = None
    if args.until:
        try:
            until = int(pd.to_datetime(args.until, utc=True).value // 1000)
        except ValueError as error:
            raise ConfigError(f"--until {args.until!r} is no time: {error}") from None
    preflight.check_space(home)
    preflight.check_services(home, online=True)
    state = materialise(home, until)
    wrote = (
        f"online store ({state['online_store']}): histories of {count(state['users'], 'user')}\n"
        f"as of {_at(state['until_us'])}; the latest snapshot was cut {_at(state['cutoff_us'])}"
        + "".join(f"\nremoved: schema {s}, which no model needs" for s in state["removed"])
    )
    read = str(home.features_of(state["schema_hash"]))
    return Summary(read, wrote, _then(args, "train", "or prerank promote"))


def training_set(args: argparse.Namespace) -> Summary:
    """Write point-in-time examples."""
    from prerank.core.ray_tasks import connect
    from prerank.dataset.build import build_training_set

    home = _home(args)
    preflight.check_space(home)
    preflight.check_log(home)
    connect()
    made = build_training_set(home)
    splits = [
        f"{split + ':':<12}{count(made[f'{split}_requests'], 'request')}, "
        f"{count(made[f'{split}_candidates'], 'candidate')}, "
        f"{count(made[f'{split}_positives'], 'positive')}"
        for split in ("train", "validation")
    ]
    bounds = made["splits"]
    wrote = [
        f"{home.training_set}; candidates: {made['candidates']}",
        *splits,
        f"validation from {_at(bounds['validation_from'])}, test from {_at(bounds['test_from'])}",
    ]
    return Summary(f"{home.events}, {home.features}", "\n".join(wrote), _then(args, "train"))


def train(args: argparse.Namespace) -> Summary:
    """Train, evaluate, register and index."""
    from prerank.config import JobConfig
    from prerank.pipeline import Stages, tables, train_and_evaluate

    home = _home(args)
    config = JobConfig.load(args.config)
    preflight.check_inputs({"oracles": args.oracles})
    preflight.check_space(home)
    preflight.check_services(home, registry=True)
    results, version = train_and_evaluate(home, config, Stages(3), "train", args.oracles)
    print(tables(home, results))
    wrote = f"{_measured(home, 'test')}\nmodel version {version} (challenger)"
    return Summary(str(home.training_set), wrote, _then(args, "promote"))


def evaluate(args: argparse.Namespace) -> Summary:
    """Measure a registered version."""
    from prerank.core.ray_tasks import connect
    from prerank.pipeline import evaluate_version, tables
    from prerank.registry import tracking

    home = _home(args)
    tracking.connect(home)
    version = _version(args)
    connect()
    print(tables(home, evaluate_version(home, version, args.split, args.oracles)))
    read = f"model version {version}; {args.split} requests of {home.events}"
    then = _then(args, "ablate", "what each part of the model is worth; or prerank promote")
    return Summary(read, _measured(home, args.split), then)


def _measured(home: Home, split: str) -> str:
    from prerank.pipeline import files

    metrics, report = files(home, split)
    return f"{report}\n{metrics}"


def ablate(args: argparse.Namespace) -> Summary:
    """Leave out each part of the model in turn."""
    from prerank.config import JobConfig
    from prerank.core.ray_tasks import connect
    from prerank.evaluation.ablations import FILE, ablate, table
    from prerank.evaluation.trials import Budget

    config, home = JobConfig.load(args.config), _home(args)
    if args.seeds < 1:
        raise ConfigError(f"--seeds {args.seeds}: at least one is needed")
    preflight.check_log(home)
    connect()
    print(table(ablate(home, config.model, config.train, args.seeds, Budget(split=args.split))))
    then = _then(args, "evaluate", "its report shows these results too")
    return Summary(str(home.training_set), str(home.root / FILE), then)


def index(args: argparse.Namespace) -> Summary:
    """Encode the catalogue."""
    from prerank.core.ray_tasks import connect
    from prerank.registry import tracking
    from prerank.registry import versions as registry
    from prerank.registry.index import build_index

    home = _home(args)
    tracking.connect(home)
    version = _version(args)
    connect()
    made = build_index(home, registry.download(home, version), version)
    wrote = (
        f"{home.index / version.name}: {count(made['items'], 'vector')} of width {made['width']}"
    )
    return Summary(f"model version {version}, {home.items}", wrote, _then(args, "promote"))


def add_items(args: argparse.Namespace) -> Summary:
    """Make items scorable that joined the catalogue, or changed."""
    from prerank.ingest.additions import read_items
    from prerank.registry import tracking
    from prerank.registry import versions as registry
    from prerank.registry.additions import add_items
    from prerank.registry.bundle import load_bundle

    home = _home(args)
    preflight.check_inputs({"items": args.items})
    preflight.check_log(home)
    items, remarks = read_items(args.items.resolve(), home)
    for remark in remarks:
        print(f"note: {remark}")
    tracking.connect(home)
    version = _version_or_champion(args)
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
        _then(args, f"index --version {version}", also),
    )


def promote(args: argparse.Namespace) -> Summary:
    """Make a version the champion."""
    from prerank.registry import tracking
    from prerank.registry import versions as registry

    home = _home(args)
    tracking.connect(home)
    version = _version(args)
    registry.promote(home, version)
    wrote = f"alias champion: version {version}; live replicas follow within seconds"
    then = "serve deploy deployments/prerank.yaml   (unless it is deployed; then prerank parity)"
    return Summary(f"model version {version}", wrote, then)


def export(args: argparse.Namespace) -> Summary:
    """Write the item index for a search engine."""
    from prerank.registry import tracking
    from prerank.registry import versions as registry
    from prerank.registry.vespa import write_feed

    home, out = _home(args), args.vespa.resolve()
    if not out.parent.is_dir():
        raise ConfigError(f"--vespa {args.vespa}: there is no folder {out.parent}.")
    preflight.check_log(home)
    tracking.connect(home)
    version = _version_or_champion(args)
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
    home = _home(args)
    with open_client(args.url) as client:
        found = check_parity(home, client, args.requests)
    print(found.table())
    found.check()
    return Summary(f"{count(found.compared, 'request')} of {home.events}, asked again")


def run(args: argparse.Namespace) -> Summary:
    """The whole way."""
    from prerank.config import JobConfig
    from prerank.core import environment
    from prerank.ingest.mapping import load_mapping
    from prerank.pipeline import run

    mapping, config = load_mapping(args.mapping), JobConfig.load(args.config)
    home = _home(args)
    preflight.check_inputs({"oracles": args.oracles})
    _check_log(home, args)
    preflight.check_services(home, online=True, registry=True)
    environment.ensure_token()
    events, items = args.events.resolve(), args.items.resolve()
    _, version = run(home, events, items, mapping, config, args.oracles)
    wrote = f"{_measured(home, 'test')}\nmodel version {version} (challenger)"
    return Summary(f"{args.events}\n{args.items}", wrote, _then(args, "promote"))


def demo(args: argparse.Namespace) -> Summary:
    """The whole way on a simulated world, with live requests."""
    from prerank.demo import demo

    home = demo(args.workdir.resolve() if args.workdir else None)
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
    home = Home.at(Path(root).resolve() if args.workdir else root)
    home.create()
    # Set variables are kept; --workdir says that this one is not to be.
    os.environ[ENV] = str(home.root)
    print(exports(home))
