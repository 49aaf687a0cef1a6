"""The `prerank` command. Each verb is a stage of the pipeline; `prerank run` does them all."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from prerank.core.errors import ConfigError, PrerankError
from prerank.core.home import ENV, Home

DESCRIPTION = """\
Pre-ranking with engagement cross features: from an event log to a live deployment.

  the whole way     prerank run --events E --items I [--mapping M] --workdir W
  see it work       prerank demo
  stage by stage    prerank ingest | features | materialise | training-set | train | index
  what a part pays  prerank ablate (resumable: run it again and it goes on)
  on a cluster      eval "$(prerank env)"; see the README
  once deployed     prerank parity
"""
EPILOG = """\
State lives under PRERANK_HOME (or --workdir), an absolute path.
Exit codes: 0 done; 2 configuration; 3 data; 4 a step is missing; 5 not ready; 1 anything else.
"""


Verb = Callable[[argparse.Namespace], None]


def parser() -> argparse.ArgumentParser:
    """The command line, frozen by a test."""
    top = argparse.ArgumentParser(
        prog="prerank",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str, function: Verb, text: str, *shared: Callable[[argparse.ArgumentParser], None]
    ) -> argparse.ArgumentParser:
        own = verbs.add_parser(name, help=text, description=text)
        own.set_defaults(function=function)
        for add in shared:
            add(own)
        return own

    simulate = verb("simulate", _simulate, "write the log of a simulated pin board")
    simulate.add_argument("--out", type=Path, required=True, help="folder to write")
    simulate.add_argument("--preset", default="demo", help="tiny, demo or reference (default demo)")
    simulate.add_argument("--seed", type=int, default=7)
    ingest = verb(
        "ingest",
        _ingest,
        "validate and normalise a log and its catalogue; a log that is there already is added to",
        _log,
        _workdir,
    )
    ingest.add_argument(
        "--replace",
        action="store_true",
        help="start the folder over, instead of adding to its events",
    )
    verb("features", _features, "build packed engagement rows and histories", _config, _workdir)
    materialise = verb("materialise", _materialise, "bring features online", _workdir)
    materialise.add_argument(
        "--until", help="ISO time (UTC) of the last snapshot to publish; default: the log's end"
    )
    verb("training-set", _training_set, "write point-in-time examples", _workdir)
    verb(
        "train",
        _train,
        "train, evaluate, register as challenger, index",
        _config,
        _oracles,
        _workdir,
    )
    evaluate = verb(
        "evaluate",
        _evaluate,
        "measure a registered version and its baselines, print all tables, write the report",
        _oracles,
        _workdir,
    )
    evaluate.add_argument("--version", help="model version (default: the challenger)")
    evaluate.add_argument("--split", choices=("validation", "test"), default="test")
    ablate = verb(
        "ablate",
        _ablate,
        "leave out each part of the model in turn, measure the loss",
        _config,
        _workdir,
    )
    ablate.add_argument("--seeds", type=int, default=3, help="seeds of each variant (default 3)")
    ablate.add_argument("--split", choices=("validation", "test"), default="validation")
    index = verb("index", _index, "encode the catalogue with a model version", _workdir)
    index.add_argument("--version", help="model version (default: the challenger)")
    promote = verb(
        "promote",
        _promote,
        "make a version the champion, as the MLflow UI does, after checking that it can be served",
        _workdir,
    )
    promote.add_argument("--version", help="model version (default: the challenger)")
    parity = verb(
        "parity",
        _parity,
        "compare a live deployment's features and scores with the offline ones",
        _workdir,
    )
    parity.add_argument(
        "--url", help="of the deployment (default: $PRERANK_URL, else http://127.0.0.1:8000)"
    )
    parity.add_argument(
        "--requests", type=int, default=100, help="searches of the log to ask again (default 100)"
    )
    verb(
        "run",
        _run,
        "log to registered, evaluated model, in one go",
        _log,
        _config,
        _oracles,
        _workdir,
    )
    demo = verb("demo", _demo, "the whole way on a simulated world, with live requests")
    demo.add_argument("--workdir", type=Path, help="where to work (default: a temporary folder)")
    verb("env", _env, 'print the shared environment: eval "$(prerank env)"', _workdir)
    return top


def _log(p: argparse.ArgumentParser) -> None:
    p.add_argument("--events", type=Path, required=True, help="Parquet file or folder of events")
    p.add_argument("--items", type=Path, required=True, help="Parquet file or folder of items")
    p.add_argument(
        "--mapping",
        type=Path,
        help="YAML from your columns to the canonical ones; not "
        "needed when they bear the canonical names (see examples/)",
    )


def _workdir(p: argparse.ArgumentParser) -> None:
    p.add_argument("--workdir", type=Path, help=f"state folder (default: ${ENV})")


def _config(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--config", type=Path, help="YAML with features, model and train sections, and baselines"
    )


def _oracles(p: argparse.ArgumentParser) -> None:
    p.add_argument("--oracles", type=Path, help="folder of `prerank simulate`: print its oracles")


def _home(args: argparse.Namespace) -> Home:
    home = Home.at(args.workdir.resolve()) if args.workdir else Home.from_env()
    home.root.mkdir(parents=True, exist_ok=True)
    os.environ[ENV] = str(home.root)
    return home


def _simulate(args: argparse.Namespace) -> None:
    from prerank.simulate import simulate

    print(simulate(args.out.resolve(), args.preset, args.seed))


def _ingest(args: argparse.Namespace) -> None:
    from prerank.core.ray_tasks import connect
    from prerank.ingest.mapping import load_mapping
    from prerank.ingest.run import ingest

    mapping, home = load_mapping(args.mapping), _home(args)
    connect()
    print(ingest(args.events.resolve(), args.items.resolve(), home, mapping, args.replace))


def _features(args: argparse.Namespace) -> None:
    from prerank.config import JobConfig
    from prerank.core.ray_tasks import connect
    from prerank.features.build import build_features

    config, home = JobConfig.load(args.config), _home(args)
    connect()
    built = build_features(home, config.features)
    print(f"{built['rows']}, snapshots every {built['cadence_hours']} h")


def _materialise(args: argparse.Namespace) -> None:
    import pandas as pd

    from prerank.online.materialise import materialise
    from prerank.online.store import apply

    home = _home(args)
    until = None
    if args.until:
        try:
            until = int(pd.to_datetime(args.until, utc=True).value // 1000)
        except ValueError as error:
            raise ConfigError(f"--until {args.until!r} is no time: {error}") from None
    apply(home)
    print(materialise(home, until))


def _training_set(args: argparse.Namespace) -> None:
    from prerank.core.ray_tasks import connect
    from prerank.dataset.build import build_training_set

    home = _home(args)
    connect()
    print(build_training_set(home))


def _train(args: argparse.Namespace) -> None:
    from prerank.config import JobConfig
    from prerank.pipeline import Stages, tables, train_and_evaluate

    home = _home(args)
    config = JobConfig.load(args.config)
    results, version = train_and_evaluate(home, config, Stages(3), "train", args.oracles)
    print(tables(home, results))
    print(f"registered version {version} as challenger")


def _evaluate(args: argparse.Namespace) -> None:
    from prerank.core.ray_tasks import connect
    from prerank.pipeline import evaluate_version, tables
    from prerank.registry import tracking

    home = _home(args)
    tracking.connect(home)
    version = _version(args)
    connect()
    print(tables(home, evaluate_version(home, version, args.split, args.oracles)))


def _ablate(args: argparse.Namespace) -> None:
    from prerank.config import JobConfig
    from prerank.core.ray_tasks import connect
    from prerank.evaluation.ablations import ablate, table
    from prerank.evaluation.trials import Budget

    config, home = JobConfig.load(args.config), _home(args)
    if args.seeds < 1:
        raise ConfigError(f"--seeds {args.seeds}: at least one is needed")
    connect()
    print(table(ablate(home, config.model, config.train, args.seeds, Budget(split=args.split))))


def _index(args: argparse.Namespace) -> None:
    from prerank.core.ray_tasks import connect
    from prerank.registry import tracking
    from prerank.registry import versions as registry
    from prerank.registry.index import build_index

    home = _home(args)
    tracking.connect(home)
    version = _version(args)
    connect()
    print(build_index(home, registry.download(home, version), version))


def _version(args: argparse.Namespace) -> str:
    from prerank.registry import versions as registry

    version: str | None = args.version or registry.alias_version(registry.CHALLENGER)
    if version is None:
        raise ConfigError("no challenger is registered: give --version, or run `prerank train`.")
    return version


def _promote(args: argparse.Namespace) -> None:
    from prerank.registry import tracking
    from prerank.registry import versions as registry

    home = _home(args)
    tracking.connect(home)
    version = _version(args)
    registry.promote(home, version)
    print(f"version {version} is champion; live replicas follow within seconds")


def _parity(args: argparse.Namespace) -> None:
    from prerank.evaluation.parity import check_parity

    if args.requests < 1:
        raise ConfigError(f"--requests {args.requests}: at least one is needed")
    found = check_parity(_home(args), args.url, args.requests)
    print(found.table())
    found.check()


def _run(args: argparse.Namespace) -> None:
    from prerank.config import JobConfig
    from prerank.core import environment
    from prerank.ingest.mapping import load_mapping
    from prerank.pipeline import run

    mapping, config = load_mapping(args.mapping), JobConfig.load(args.config)
    home = _home(args)
    environment.ensure_token()
    run(home, args.events.resolve(), args.items.resolve(), mapping, config, args.oracles)


def _demo(args: argparse.Namespace) -> None:
    from prerank.demo import demo

    demo(args.workdir.resolve() if args.workdir else None)


def _env(args: argparse.Namespace) -> None:
    from prerank.core.environment import exports

    root = args.workdir or os.environ.get(ENV) or Path.home() / ".prerank"
    home = Home.at(Path(root).resolve() if args.workdir else root)
    home.root.mkdir(parents=True, exist_ok=True)
    print(exports(home))


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `prerank` console script."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    args = parser().parse_args(argv)
    try:
        args.function(args)
    except PrerankError as error:
        print(f"prerank {args.verb}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
