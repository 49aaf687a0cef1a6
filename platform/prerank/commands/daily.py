"""What is done each day: new data, and a look at them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from prerank import preflight
from prerank.commands.options import clock_time, home_of, next_step
from prerank.core.errors import ConfigError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.places import absolute
from prerank.summaries import Summary, count

if TYPE_CHECKING:
    from prerank.ingest.report import IngestReport

Add = Callable[[], "IngestReport | None"]
"""Adds to the log; None where there was nothing to add."""


def update(args: argparse.Namespace) -> Summary:
    """Add new events and items, and bring features and index up to date."""
    from prerank.config import JobConfig
    from prerank.update import update

    if bool(args.events) == args.served:
        raise ConfigError("give either --events, or --served for what a deployment wrote down")
    config, home = JobConfig.load(args.config), home_of(args)
    preflight.check_inputs({"events": args.events, "items": args.items})
    preflight.check_space(home)
    preflight.check_log(home)
    preflight.check_services(home, online=True, registry=bool(args.items))
    add, read = served(home, args) if args.served else given(home, args)
    made = update(home, config, add, args.items and absolute(args.items))
    wrote = [
        f"online store ({made.online['online_store']}): as of "
        f"{clock_time(made.online['until_us'])}; the latest snapshot was cut "
        f"{clock_time(made.online['cutoff_us'])}"
    ]
    if made.ingested:
        wrote.insert(0, f"{home.events}: {count(made.ingested.manifest.rows['out'], 'new event')}")
    if made.added:
        added = f"{count(made.added.new, 'new item')}, {made.added.changed:,} changed"
        wrote.append(f"index of the champion: {added}")
    also = "when it is time for a new model: prerank train after it"
    return Summary(read, "\n".join(wrote), next_step(args, "training-set", also))


def users(args: argparse.Namespace) -> Summary:
    """Take flags of users into the journal."""
    from prerank.ingest.flags import flag_users

    home = home_of(args)
    preflight.check_inputs({"flag": args.flag})
    preflight.check_log(home)
    found = flag_users(home, absolute(args.flag))
    if found.unknown:
        print(f"note: {count(found.unknown, 'user')} of the flags have no event in this log")
    if found.late:
        print(
            f"note: {count(found.late, 'flag')} should have been known to a snapshot that is "
            "published: they count from the next one on"
        )
    read = f"{args.flag}: {count(found.flags, 'flag')} of {count(found.users, 'user')}"
    return Summary(read, str(home.flags), next_step(args, "features"))


def check(args: argparse.Namespace) -> Summary:
    """Compare the log's last requests with the training data."""
    from prerank.checks.findings import Limits
    from prerank.checks.run import Score, check
    from prerank.evaluation.baselines.neural import TorchRanker
    from prerank.registry import tracking
    from prerank.registry import versions as registry

    limits, since = Limits(psi=args.psi), _time(args.since)
    preflight.check_inputs({"events": args.events})
    home = home_of(args)
    preflight.check_log(home)
    score: Score | None = None
    if args.version:
        tracking.connect(home)
        bundle = registry.download(home, registry.version_of(args.version))
        score = TorchRanker.load("check", bundle).score
    events = args.events and absolute(args.events)
    found = check(home, since, limits, score, args.version or "", events=events)
    print(found.table())
    data, page = found.write(home.root)
    found.check()
    return Summary(str(home.events), f"{page}\n{data}")


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--since {text}: give an ISO time, such as 2025-03-01T12:00.") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def given(home: Home, args: argparse.Namespace) -> tuple[Add, str]:
    """What adds the log of the options, and that log in words."""
    from prerank.ingest.additions import catalogue_of_home
    from prerank.ingest.mapping import LogMapping, load_mapping
    from prerank.ingest.run import ingest

    manifest, events = LogManifest.load(home), absolute(args.events)
    # More of the log that is there: by its own name, and by its mapping unless one is given.
    of_home = LogMapping.model_validate(manifest.mapping)
    mapping = load_mapping(args.mapping) if args.mapping else of_home
    mapping = mapping.model_copy(update={"name": manifest.dataset})
    items = catalogue_of_home(home, args.items and absolute(args.items))

    def add() -> IngestReport | None:
        return ingest(events, items, home, mapping)

    return add, "\n".join(str(path) for path in (args.events, args.items) if path)


def served(home: Home, args: argparse.Namespace) -> tuple[Add, str]:
    """What adds what deployments wrote down, and where that is."""
    from prerank.core.served import last_ended
    from prerank.ingest.served import ingest_served

    try:
        ended = last_ended(datetime.now(UTC))
        through = date.fromisoformat(args.through) if args.through else ended
    except ValueError as error:
        raise ConfigError(f"--through {args.through!r} is no day: {error}") from None

    def add() -> IngestReport | None:
        found = ingest_served(home, through)
        if found is None:
            return None
        unread = f"; {count(found.unread, 'line')} could not be read" if found.unread else ""
        print(
            f"served {found.first} to {found.last}: {count(found.answers, 'answer')}, "
            f"{count(found.events, 'event')}, {found.credited:,} of them of these answers{unread}"
        )
        return found.ingested

    return add, f"{home.served}, through {through}"
