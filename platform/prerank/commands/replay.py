"""What another version would have answered."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from prerank import preflight
from prerank.commands.options import home_of, next_step
from prerank.commands.versions import chosen
from prerank.core.errors import ConfigError
from prerank.core.files import write_json
from prerank.core.served import requests_folder
from prerank.summaries import Summary, count


def replay(args: argparse.Namespace) -> Summary:
    """Score answers of the served log with a version."""
    from prerank.evaluation.replay import ALL, replay
    from prerank.registry import tracking
    from prerank.registry import versions as registry
    from prerank.registry.bundle import load_bundle
    from prerank.registry.index import load_index, scorer_of

    if args.requests < 1:
        raise ConfigError(f"--requests {args.requests}: at least one is needed")
    home = home_of(args)
    preflight.check_inputs({"log": args.log})
    preflight.check_log(home)
    tracking.connect(home)
    version = chosen(args)
    bundle = load_bundle(registry.download(home, version))
    scorer = scorer_of(bundle, load_index(home, version, bundle.digest))
    if args.log is None:
        home.look(home.served, deep=True)
        home.fetch(requests_folder(home))
    log = _answers(args.log) if args.log else requests_folder(home)
    found = replay(home, log, scorer, version.number, args.requests)
    print(found.table())
    if args.out:
        write_json(args.out.resolve(), asdict(found))
    return Summary(
        f"{log}: {count(found.slices[ALL].answers, 'answer')}",
        str(args.out or ""),
        next_step(args, f"gate --version {version}", "whether it is better; this says how other"),
    )


def _answers(place: Path) -> Path:
    """The folder of answers: itself, or that of a served log or of a home."""
    for folder in (place, place / "requests", place / "served" / "requests"):
        if any(folder.glob("day=*")) and folder.name != "events":
            return folder
    raise ConfigError(f"--log {place}: there are no folders day=… of a served log's answers.")
