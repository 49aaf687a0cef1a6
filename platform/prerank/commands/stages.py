"""The stages of the pipeline: from a log to a trained version."""

from __future__ import annotations

import argparse
from typing import Any

from prerank import preflight
from prerank.commands.options import (
    check_log,
    check_seeds,
    clock_time,
    home_of,
    measured_files,
    next_step,
)
from prerank.core.errors import ConfigError
from prerank.core.home import Home
from prerank.core.places import absolute
from prerank.summaries import Summary, count, size


def simulate(args: argparse.Namespace) -> Summary:
    """Write a simulated log."""
    from prerank.simulate import FORMATS, simulate

    out = args.out.resolve()
    sized = args.rows is not None or args.days is not None
    made = simulate(
        out,
        args.preset or ("stream" if sized else "demo"),
        args.seed,
        rows=args.rows,
        days=args.days,
        spammers=args.spammers,
        full_ranker=args.full_ranker,
        file_format=args.format,
    )
    form = FORMATS[args.format]
    files = [*form.events, f"items{form.suffix}", "hidden (oracles)"]
    files += ["truth (spammers)"] * (out / "truth").exists()
    wrote = (
        f"{out}/{', '.join(files)}, summary.json\n"
        f"{count(made.requests, 'request')}, {count(made.rows, 'event')}, "
        f"{count(made.users, 'user')}, {count(made.items, 'item')}\n"
        f"{made.engagement_rate:.1%} of impressions engaged; "
        f"{made.abandoned_share:.0%} of requests without an engagement"
    )
    then = f"prerank run --events {out}/events --items {out}/items{form.suffix} --workdir W"
    if "events" not in form.events:
        then = "docs/your-own-log.md"
    return Summary(f"preset {made.preset}, seed {made.seed}", wrote, then)


def inspect(args: argparse.Namespace) -> Summary:
    """Look at a log and propose a mapping."""
    from prerank.ingest.inspection.look import inspect
    from prerank.ingest.inspection.proposal import lacking, proposal
    from prerank.ingest.inspection.text import profile_text

    preflight.check_inputs({"events": args.events, "items": args.items})
    if args.out and args.out.exists():
        raise ConfigError(f"--out {args.out} is there already: name another file, or remove it.")
    if args.out and not args.out.resolve().parent.is_dir():
        raise ConfigError(f"--out {args.out}: there is no folder {args.out.resolve().parent}.")
    found = inspect(absolute(args.events), absolute(args.items))
    print(profile_text(found))
    text = proposal(found).to_yaml(f"Proposed by `prerank inspect` for {args.events}. Check it.")
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        print(f"\nmapping\n\n{text}", end="")
    read = f"{args.events}: {count(found.sample.total, 'row')}\n{args.items}"
    if missing := lacking(found):
        then = f"name a column for {', '.join(missing)} in the mapping"
        return Summary(read, str(args.out or ""), then)
    if not args.out:
        return Summary(read, then="the same with --out mapping.yaml, which writes this mapping")
    log = f"--events {args.events} --items {args.items}"
    return Summary(read, str(args.out), f"prerank run {log} --mapping {args.out} --workdir W")


def ingest(args: argparse.Namespace) -> Summary:
    """Validate and normalise a log."""
    from prerank.core.ray_tasks import connect
    from prerank.ingest.mapping import load_mapping
    from prerank.ingest.run import ingest

    mapping, home = load_mapping(args.mapping), home_of(args)
    check_log(home, args)
    connect()
    report = ingest(absolute(args.events), absolute(args.items), home, mapping, args.replace)
    print(report)
    rows = report.manifest.rows
    return Summary(
        f"{args.events}: {count(rows['in'], 'row')}\n{args.items}",
        f"{home.place}: events, items, manifest.json" + ", quarantine" * bool(rows["quarantined"]),
        next_step(args, "features"),
    )


def features(args: argparse.Namespace) -> Summary:
    """Build the feature tables."""
    from prerank.config import JobConfig
    from prerank.features.build import build_features

    config, home = JobConfig.load(args.config), home_of(args)
    preflight.check_space(home)
    preflight.check_log(home)
    if args.restate is not None:
        home = _restated(home, args)
    built = build_features(home, config.features)
    rows, hours = built["rows"], built["cadence_hours"]
    wrote = (
        f"{home.features_of(built['schema_hash'])}\n"
        f"{count(rows['engagement_rows'], 'engagement row')} "
        f"({size(rows['engagement_bytes'])}), {count(rows['history_rows'], 'history state')}\n"
        f"a snapshot every {count(hours, 'hour')}, published "
        f"{count(built['lag_minutes'], 'minute')} after its cutoff"
        + _exposure(built.get("exposure"))
        + _graph(built.get("graph"))
    )
    also = "and prerank materialise, for serving"
    return Summary(str(home.events), wrote, next_step(args, "training-set", also))


def _restated(home: Home, args: argparse.Namespace) -> Home:
    """A home for the restated history that is asked for; the verbs that follow go on there."""
    from prerank.ingest.restated import restate_log

    made, late = restate_log(home, args.restate)
    print(
        f"{count(late, 'late event')} moved to when they happened; what {home.place} has published "
        "stays as it is"
    )
    args.workdir = made.place
    return home_of(args)


def _exposure(built: dict[str, Any] | None) -> str:
    """What a build says of the items that requests showed; nothing of a log without positions."""
    if built is None:
        return ""
    estimates, without = built["propensities"], built["without_position"]
    found = f"\n{count(built['shown'], 'shown item')}, "
    if not estimates:
        found += "all weighing the same: no propensities could be estimated yet"
    else:
        found += f"weighed by {count(len(estimates), 'estimate')} of propensities"
    return found + (f"; {count(without, 'one')} without a position, in full" if without else "")


def _graph(built: dict[str, Any] | None) -> str:
    """What a build says of the item graph; nothing of a log that asks for none."""
    if built is None or not built["snapshots"]:
        return ""
    last = built["snapshots"][-1]
    return (
        f"\nan item graph in {count(len(built['snapshots']), 'snapshot')}, the last of "
        f"{count(last['items'], 'item')} and {count(last['edges'], 'edge')}"
    )


def materialise(args: argparse.Namespace) -> Summary:
    """Bring features online."""
    import pandas as pd

    from prerank.online.materialise import materialise

    home = home_of(args)
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
        f"as of {clock_time(state['until_us'])}; "
        f"the latest snapshot was cut {clock_time(state['cutoff_us'])}"
        + "".join(f"\nremoved: schema {s}, which no model needs" for s in state["removed"])
    )
    read = str(home.features_of(state["schema_hash"]))
    return Summary(read, wrote, next_step(args, "train", "or prerank promote"))


def training_set(args: argparse.Namespace) -> Summary:
    """Write point-in-time examples."""
    from prerank.core.ray_tasks import connect
    from prerank.dataset.build import build_training_set

    home = home_of(args)
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
        f"validation from {clock_time(bounds['validation_from'])}, "
        f"test from {clock_time(bounds['test_from'])}",
    ]
    return Summary(f"{home.events}, {home.features}", "\n".join(wrote), next_step(args, "train"))


def train(args: argparse.Namespace) -> Summary:
    """Train, evaluate, register and index."""
    from prerank.config import JobConfig
    from prerank.pipeline import Stages, tables, train_and_evaluate

    home = home_of(args)
    config = JobConfig.load(args.config)
    check_seeds(args)
    preflight.check_inputs({"oracles": args.oracles})
    preflight.check_space(home)
    preflight.check_services(home, registry=True)
    results, version = train_and_evaluate(
        home, config, Stages(3), "train", args.oracles, seeds=args.seeds
    )
    print(tables(home, results))
    wrote = f"{measured_files(home, 'test')}\nmodel version {version} (challenger)"
    return Summary(str(home.training_set), wrote, next_step(args, "promote"))
