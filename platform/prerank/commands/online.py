"""What live experiments show."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from prerank import preflight
from prerank.commands.options import home_of
from prerank.core.errors import ConfigError
from prerank.summaries import Summary, count


def online_report(args: argparse.Namespace) -> Summary:
    """Compare the variants of an experiment."""
    from prerank.online_tests.credit import Period
    from prerank.online_tests.page import write
    from prerank.online_tests.run import online_results
    from prerank.online_tests.words import table
    from prerank.registry import tracking

    if not args.window_hours > 0:
        raise ConfigError(f"--window-hours {args.window_hours:g}: give a number above 0")
    if args.planned < 1:
        raise ConfigError(f"--planned {args.planned}: give the number of requests that are planned")
    if not args.slower_ms >= 0:
        raise ConfigError(f"--slower-ms {args.slower_ms:g}: give a number of milliseconds from 0")
    period = replace(Period(), window=timedelta(hours=args.window_hours))
    if args.begins:
        period = replace(period, since=_time("from", args.begins))
    if args.ends:
        period = replace(period, until=_time("to", args.ends))
    home = home_of(args)
    preflight.check_log(home)
    results = online_results(home, args.experiment, period, args.planned, args.slower_ms)
    print(table(results))
    data, page = write(results, args.out or home.root / "online")
    wrote = [str(file) if args.out else home.told(file) for file in (page, data)]
    parameters = {"experiment": results.experiment, "mode": results.mode}
    with tracking.job_run(home, f"online {results.experiment}", parameters, {}):
        tracking.log_results({"online": results.flat()}, [data, page])
    requests = sum(one.requests for one in results.variants.values())
    read = f"{home.served}: {count(requests, 'request')} of {results.experiment}"
    then = "end it with `experiment: null` in the Serve file; prerank promote --version V"
    return Summary(read, "\n".join(wrote), then)


def _time(option: str, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--{option} {text}: give an ISO time, such as 2026-03-01.") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
