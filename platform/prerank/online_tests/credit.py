"""Which request each reported event belongs to, and why some belong to none.

An event is of the request whose id it names, and so of that request's variant, whichever variant
its user has by now. It is not credited where it was reported before (``duplicated``), names no
request or one that was not written down, is another user's, or came too late.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa

from prerank.core.errors import DamagedError, DataError
from prerank.core.home import Home
from prerank.core.served import EVENT_FIELDS, REQUESTS, events_folder, requests_folder
from prerank.core.sql import connection
from prerank.online_tests.course import step_of

MEMORY = "1GB"
REASONS = (
    "credited",
    "duplicated",
    "without a request",
    "of an unknown request",
    "of another user",
    "late",
    "of no request of the experiment",
    "exposure",
    "unreadable",
)
"""What becomes of an event; the first of these counts for a variant."""

_NEEDED = (
    "request_id, request_time, user_id, items, degraded, model_version, latency_ms, experiment, "
    "mode, variant, shares, fallback, compared_version, teams, overlap, score_difference"
)
_COLUMNS = ", ".join(f"{name}: {kind!r}" for name, kind in EVENT_FIELDS.items())
_LINES = f"""read_json(getvariable('lines'), format = 'newline_delimited', ignore_errors = true,
    hive_partitioning = false, columns = {{{_COLUMNS}}})"""
_NULLS = ", ".join(f"NULL::{kind} AS {name}" for name, kind in EVENT_FIELDS.items())

_TABLES = """
CREATE TEMP TABLE answers AS
    SELECT {needed} FROM ({answers})
    -- A caller that tried again has the first answer.
    QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY request_time) = 1;
CREATE TEMP TABLE tried AS
    SELECT *, coalesce(nullif(user_id, ''), 'request ' || request_id) AS who
    FROM answers
    WHERE experiment = getvariable('experiment')
        AND request_time >= getvariable('since') AND request_time < getvariable('until');
CREATE TEMP TABLE events AS
    SELECT e.*, CASE
        WHEN e.event_id IS NULL THEN 'unreadable'
        WHEN e.nth > 1 THEN 'duplicated'
        WHEN e.request_id IS NULL THEN 'without a request'
        WHEN a.request_id IS NULL THEN 'of an unknown request'
        WHEN a.user_id <> e.user_id THEN 'of another user'
        WHEN make_timestamptz(e.event_time) - a.request_time > getvariable('credited_for')
            THEN 'late'
        WHEN t.request_id IS NULL THEN 'of no request of the experiment'
        WHEN NOT list_contains(getvariable('actions'), e.action) THEN 'exposure'
        ELSE 'credited' END AS reason
    FROM (SELECT *, row_number() OVER (PARTITION BY event_id ORDER BY event_time) AS nth
        FROM {lines}) AS e
    LEFT JOIN answers AS a ON a.request_id = e.request_id
    LEFT JOIN tried AS t ON t.request_id = e.request_id;
CREATE TEMP TABLE done AS
    SELECT request_id, action, item_id FROM events WHERE reason = 'credited';
CREATE TEMP TABLE requests AS
    SELECT t.*, coalesce(d.engagements, 0) AS engagements, d.actions,
        len(t.degraded) > 0 AS is_degraded
    FROM tried AS t LEFT JOIN (
        SELECT request_id, count(*) AS engagements, list(DISTINCT action) AS actions
        FROM done GROUP BY request_id) AS d USING (request_id);
"""


@dataclass(frozen=True)
class Period:
    """Which requests are read, and how long after them an event counts.

    Attributes:
        since, until: times of requests, the second one excluded.
        window: of an event, from its request.
    """

    since: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    until: datetime = datetime(2500, 1, 1, tzinfo=UTC)
    window: timedelta = timedelta(days=1)

    def days(self) -> tuple[date, date]:
        """First and last day whose folders may hold something of it."""
        day = timedelta(days=1)
        return (self.since - day).date(), (self.until + self.window + day).date()


@dataclass(frozen=True)
class Credited:
    """Requests of an experiment, and what became of the events of its days.

    Attributes:
        users: a row per variant and user (``_USERS``).
        variants: a row per variant (``_VARIANTS``).
        drafts: a row per user of interleaved answers: points of requests (``_DRAFTS``).
        steps: a row per variant, user and step of time (``_STEPS``), each of which takes ``step``.
        events: number of events by reason.
        shares: each share of the variants that was in force, the control first; the last one last.
        mode: of the experiment.
        first, last: times of its requests.
    """

    users: pd.DataFrame
    variants: pd.DataFrame
    drafts: pd.DataFrame
    steps: pd.DataFrame
    step: timedelta
    events: dict[str, int]
    shares: list[dict[str, float]]
    mode: str
    first: datetime
    last: datetime


_USERS = """
SELECT variant, who, count(*)::DOUBLE AS requests, sum(engagements)::DOUBLE AS engagements,
    sum((engagements > 0)::INT)::DOUBLE AS fulfilled, sum(is_degraded::INT)::DOUBLE AS degraded,
    count(latency_ms)::DOUBLE AS timed, coalesce(sum(latency_ms), 0)::DOUBLE AS latency_ms,
    count(overlap)::DOUBLE AS shadowed, coalesce(sum(overlap), 0)::DOUBLE AS overlap,
    coalesce(sum(score_difference), 0)::DOUBLE AS score_difference{actions}
FROM requests GROUP BY ALL ORDER BY ALL
"""
_ACTION = ", sum(coalesce(list_contains(actions, {name}), false)::INT)::DOUBLE AS {column}"
_VARIANTS = """
SELECT variant, count(*) AS requests, count(DISTINCT who) AS users, avg(fallback::INT) AS fallback,
    list_sort(list(DISTINCT model_version)) AS versions,
    list_sort(list(DISTINCT compared_version)) AS compared,
    quantile_cont(latency_ms, [0.5, 0.95, 0.99]) AS latency_ms
FROM requests GROUP BY variant
"""
_DRAFTS = """
WITH points AS (
    SELECT r.request_id, r.who,
        count(DISTINCT d.item_id) FILTER (r.teams[list_position(r.items, d.item_id)] = 1) AS won,
        count(DISTINCT d.item_id) FILTER (r.teams[list_position(r.items, d.item_id)] = 0) AS lost,
        r.variant
    FROM requests AS r LEFT JOIN done AS d USING (request_id)
    WHERE r.teams IS NOT NULL GROUP BY ALL)
SELECT variant, who, count(*)::DOUBLE AS requests, sum((won > lost)::INT)::DOUBLE AS won,
    sum((lost > won)::INT)::DOUBLE AS lost
FROM points GROUP BY ALL ORDER BY ALL
"""

_STEPS = """
SELECT variant, who, epoch_us(time_bucket($step, request_time) + $step) AS ended,
    count(*)::DOUBLE AS requests, sum((engagements > 0)::INT)::DOUBLE AS fulfilled
FROM requests GROUP BY ALL ORDER BY ALL
"""


def credit(home: Home, experiment: str, actions: tuple[str, ...], period: Period) -> Credited:
    """Read what deployments of ``home`` wrote down of an experiment.

    Args:
        home: with a served log.
        experiment: its name.
        actions: that are engagement.
        period: to read.

    Raises:
        DataError: no request of that name is there; the message names those that are.
        DamagedError: a file cannot be read; the message names it.
    """
    home.look(requests_folder(home), events_folder(home), deep=True)
    with connection(threads=2, memory=MEMORY) as db:
        try:
            _load(db, home, experiment, actions, period)
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            raise DamagedError(
                f"{home.served} cannot be read: {error}. Move the file that is named away, and "
                "run the command again."
            ) from None
        _check(db, experiment, period)
        columns = "".join(
            _ACTION.format(name=_text(action), column=f'"did {action}"') for action in actions
        )
        counts = dict(db.execute("SELECT reason, count(*) FROM events GROUP BY ALL").fetchall())
        dealt = db.execute(
            "SELECT shares, max(request_time) AS latest FROM tried GROUP BY ALL ORDER BY latest"
        ).fetchall()
        ((first, last, mode),) = db.execute(
            "SELECT min(request_time), max(request_time), arg_max(mode, request_time) FROM tried"
        ).fetchall()
        step = step_of(first, last)
        return Credited(
            users=db.execute(_USERS.format(actions=columns)).df(),
            variants=db.execute(_VARIANTS).df().set_index("variant"),
            drafts=db.execute(_DRAFTS).df(),
            steps=db.execute(_STEPS, {"step": step}).df(),
            step=step,
            events={reason: counts.get(reason, 0) for reason in REASONS},
            shares=[dict(shares) for shares, _ in dealt],
            mode=mode,
            first=first,
            last=last,
        )


def _load(
    db: duckdb.DuckDBPyConnection,
    home: Home,
    experiment: str,
    actions: tuple[str, ...],
    period: Period,
) -> None:
    first, last = period.days()
    answers = _files(requests_folder(home), first, last)
    lines = _files(events_folder(home), first, last)
    variables = {
        "answers": answers,
        "lines": lines,
        "experiment": experiment,
        "actions": list(actions),
        "since": period.since,
        "until": period.until,
        "credited_for": period.window,
    }
    for name, value in variables.items():
        db.execute(f"SET VARIABLE {name} = $value", {"value": value})
    db.register("no_answers", REQUESTS.append(pa.field("day", pa.date32())).empty_table())
    # Files of before lack the columns of experiments: these come from the empty table.
    read = "SELECT * FROM no_answers"
    if answers:
        read += (
            " UNION ALL BY NAME SELECT * FROM read_parquet(getvariable('answers'), "
            "union_by_name = true, hive_partitioning = true)"
        )
    found = _LINES if lines else f"(SELECT {_NULLS} WHERE false)"
    db.execute(_TABLES.format(needed=_NEEDED, answers=read, lines=found))


def _check(db: duckdb.DuckDBPyConnection, experiment: str, period: Period) -> None:
    if db.execute("SELECT count(*) FROM tried").fetchall()[0][0]:
        return
    names = db.execute(
        "SELECT DISTINCT experiment FROM answers WHERE experiment IS NOT NULL ORDER BY ALL"
    ).fetchall()
    known = ", ".join(name for (name,) in names)
    raise DataError(
        f"no request of the experiment {experiment!r} is in the served log of this period"
        + (f"; there are those of: {known}. " if known else ". ")
        + "Answers are written down where `log_share` is above 0, half a minute later."
    )


def _files(parent: Path, first: date, last: date) -> list[str]:
    found = []
    for folder in parent.glob("day=*"):
        if first <= date.fromisoformat(folder.name.removeprefix("day=")) <= last:
            found += [str(file) for file in folder.glob("[!.]*")]
    return sorted(found)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
