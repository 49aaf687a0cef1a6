"""The manifest of an ingested log, and the short report for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from interactrank.features.schema import CANDIDATE_PREFIX
from prerank.core.errors import DataError
from prerank.core.ids import SEPARATOR, hash_column
from prerank.core.manifest import FULL_RANKER, RETRIEVER, VERSION, LogManifest
from prerank.core.times import utc
from prerank.ingest.checks import Checked
from prerank.ingest.days import WRAP
from prerank.ingest.existing import settings
from prerank.ingest.mapping import LogMapping
from prerank.ingest.rows import joined


@dataclass(frozen=True)
class IngestReport:
    """What ingest did.

    Attributes:
        manifest: what stands in ``home.manifest``.
        reasons: reason -> quarantined rows.
        quarantine: folder of the quarantine table.
    """

    manifest: LogManifest
    reasons: dict[str, int]
    quarantine: Path

    def __str__(self) -> str:
        m, rows = self.manifest, self.manifest.rows
        dropped = rows.get("forgotten", 0)
        heads = "; ".join(f"{h} = {' | '.join(m.heads[h])}" for h in m.head_order)
        lines = [
            f"{m.dataset}: {rows['in']:,} rows in = {rows['out']:,} out "
            f"+ {rows['quarantined']:,} quarantined + {rows['duplicates']:,} duplicates"
            + (f" + {dropped:,} of users who were forgotten" if dropped else ""),
            *_growth(m),
            f"  {m.requests:,} requests, {m.users:,} users, {m.queries:,} queries, "
            f"{m.items:,} items ({m.items_absent:,} of them in no catalogue)",
            f"  {m.first_time} to {m.last_time}; {m.ids} ids",
            f"  actions: {', '.join(m.actions)}; heads: {heads}",
        ]
        lines += [f"  quarantined: {n:,} x {why}" for why, n in self.reasons.items()]
        lines += [f"  see {self.quarantine}"] if self.reasons else []
        lines += [f"  warning: {text}" for text in m.warnings]
        lines += [f"  note: {text}" for text in m.notices]
        return "\n".join(lines)


def _growth(manifest: LogManifest) -> list[str]:
    """What a log that was added to another made of it."""
    events, late = manifest.events, manifest.late
    added = manifest.rows["out"]
    lines = [f"  {events:,} events in all"] if events > added else []
    if late:
        lines.append(f"  {late:,} late ones, of before the last published snapshot: in the next")
    return lines


def iso_text(microseconds: int) -> str:
    """A time as the manifest has it."""
    return utc(microseconds).isoformat(timespec="microseconds").replace("+00:00", "Z")


def fingerprint_of(content: int, rows: int, items: pa.Table, plan_names: list[str]) -> str:
    """Sixteen hex digits over events and items; the order of files and rows does not enter."""
    columns = [items[name].combine_chunks() for name in items.column_names]
    texts = [
        pa.array([v and v.hex() for v in column.to_pylist()], pa.string())
        if pa.types.is_binary(column.type)
        else column
        for column in columns
    ]
    catalogue = int(hash_column(joined(*texts)).view("uint64").sum()) % WRAP
    parts = [str(content), str(rows), str(catalogue), *plan_names, *items.column_names]
    return str(xxhash.xxh3_64_hexdigest(SEPARATOR.join(parts).encode()))


def manifest_of(
    checked: Checked,
    mapping: LogMapping,
    dataset: str,
    rows: dict[str, int],
    second: dict[str, Any],
    totals: dict[str, Any],
    items: pa.Table,
) -> LogManifest:
    """What later steps need to know of the log; ``second`` and ``totals`` are ingest's counts.

    Raises:
        DataError: no action is left that a head could learn from.
    """
    plan, actions = checked.plan, second["actions"]
    heads, weights = mapping.heads_of(actions), mapping.weights_of(actions)
    if not heads:
        raise DataError("Every engagement was quarantined or repeated: no head is left.")
    absent = len(items) - len(checked.catalogue.table)
    events = second["old"] + second["new"]
    warnings = list(checked.warnings)
    retriever = [name for column, name in RETRIEVER.items() if column in plan.columns]
    if retriever and "impression" not in actions:
        # Only engaged items would have one, and having one would tell the label.
        warnings.append("the retriever's score and rank are left out: the log has no impressions")
        retriever = []
    own = mapping.candidate_features
    if own and "impression" not in actions:
        warnings.append(f"{', '.join(own)} left out: the log has no impressions")
        own = ()
    if mapping.exposure and not totals["positions"]:
        warnings.append("exposure is not counted: no impression has a position")
    for column, count in second["unreadable"].items():
        name = column.removeprefix(CANDIDATE_PREFIX)
        warnings.append(f"{name}: {count:,} values are no finite number, and count as missing")
    if absent:
        warnings.append(f"{absent:,} items of the log are in no catalogue: they lack text")
    return LogManifest(
        version=VERSION,
        dataset=dataset,
        ids=plan.ids.kind,
        hash_seed=plan.ids.seed,
        actions=tuple(actions),
        passive=tuple(a for a in mapping.passive if a in actions),
        heads={head: tuple(positive) for head, positive in heads.items()},
        head_order=tuple(heads),
        weights=dict(weights),
        weight_order=tuple(weights),
        segments=tuple(mapping.segments),
        retriever=tuple(retriever),
        numeric=tuple(mapping.items.numeric),
        embedding=tuple(mapping.items.embedding),
        valid_from=mapping.valid_from_of(),
        label_window_hours=mapping.label_window_hours,
        single_time=checked.single_time,
        has_impressions="impression" in actions,
        mapping=settings(mapping),
        rows=rows,
        events=events,
        late=second["late"],
        **{name: totals[name] for name in ("requests", "requests_per_day", "users", "queries")},
        items=len(items),
        items_absent=absent,
        first_time=iso_text(second["first"]),
        last_time=iso_text(second["last"]),
        fingerprint=fingerprint_of(second["content"], events, items, plan.event_schema.names),
        warnings=tuple(warnings),
        notices=tuple(checked.notices),
        candidate_features=own,
        exposure=mapping.exposure and totals["positions"],
        graph=mapping.graph,
        full_ranker=FULL_RANKER in plan.columns,
        session_gap_minutes=mapping.session_gap_minutes,
    )
