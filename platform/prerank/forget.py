"""`prerank forget`: everything that a home holds of some users is taken out of it.

From its first step on, whoever brings rows in or writes histories drops what comes of them
(``prerank.core.forgotten``). The log is published last of what is made from it, since it tells what
the users touched: a run that was killed finds that again, and does again what it had done.

The receipt (``prerank.core.receipts``) tells what was done.
"""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import DataError, NotReadyError
from prerank.core.feature_sets import manifests
from prerank.core.files import (
    locked,
    read_json,
    read_json_or_nothing,
    remove,
    removed,
    settled,
)
from prerank.core.forgotten import remember, tell_nodes
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.receipts import Receipt, folder_of
from prerank.core.trust import remove_flags
from prerank.features.build import build_features
from prerank.features.forget import histories_without, keys_of
from prerank.ingest.forget import (
    Rows,
    bad_rows_without,
    log_without,
    remove_scratch,
    rows_of,
    served_without,
)
from prerank.ingest.restated import FOLDER, histories_of
from prerank.online.forget import check_store, histories_offline, restate_rows, rewrite_sqlite
from prerank.online.forget_events import dead_letters_without, journal_without, journaled
from prerank.online.store import filling_of
from prerank.registry.embedding import EMBEDDING, EMBEDDING_CUTOFF
from prerank.registry.trained import versions_since

OWNERS_S = 60.0
"""How long live history writers have to make their journals anew. They look every ten seconds."""
CHECKS = ("check.json", "check.html")
"""Files of `prerank check`, which name users."""
ROWS = ("engagement_rows", "history_rows")
ALWAYS = {
    "raw files": "the files that were ingested are yours. What is ingested of them again is "
    "dropped, by hash; delete it there too.",
    "copies": "backups, snapshots of disks, Redis's append-only file and snapshots (BGREWRITEAOF "
    "and BGSAVE write them anew), and logs of processes are not of the home.",
}
OF_STORES = {
    "caches": "each node lets go of what it has of before at its next look: where a replica or a "
    "history writer runs within ten seconds, elsewhere with the next command or task. Where none "
    "runs any more, remove its cache folder (PRERANK_CACHE).",
    "versions": "a bucket that keeps old versions, or what was removed, still has them: let a "
    "lifecycle rule of the bucket end them, and uploads that were broken off.",
}


def forget(home: Home, users: Collection[str], wait_s: float = OWNERS_S) -> Receipt:
    """Take ``users`` out of ``home``, of its online store and of its journal.

    Deployments may be live. Run again, it changes nothing; a run that was killed goes on. What
    commands read of the log while it is published (features, a training set) fails, and is run
    again.

    Args:
        home: not pinned.
        users: ids as the canonical log has them.
        wait_s: how long live history writers have to make their journals anew.

    Returns:
        The receipt, which is also a file.

    Raises:
        DataError: no user is named.
        StateError: the log holds nobody else, or the online store is not the one that the
            environment names, or a file of another node. Nothing was done. Or another node changed
            the same part of a home in an object store: run it again.
        NotReadyError: a live writer did not make its journal anew, or Redis is away. The rest was
            done, and the receipt says so.
    """
    if not users or "" in users:
        raise DataError("No user is named: give --user with an id, or --users with a file of ids.")
    home.look()
    home.look(folder_of(home))
    check_store(home)
    with locked(home.root / "ingest"):
        home.fetch(home.log)
        rows = rows_of(home, users)
        # Before they are forgotten: a live writer then takes the events out at once.
        told = journaled(home, users)
        forgotten = remember(home, users)
        receipt = Receipt.opened(home, forgotten)
        receipt.remains |= ALWAYS | (OF_STORES if home.store else {})
        receipt.save()
        begun_s = home.store.changed_s(receipt.path) if home.store else 0.0
        flags = remove_flags(home, users)
        receipt.note("flags", "lines that say how far users are trusted", lines=flags)
        if len(rows.events):
            _without_log(home, users, rows, receipt)
        else:
            days = len(list(home.events.glob("day=*")))
            receipt.note("log", f"{days:,} days of events", rows=0)
        remove_scratch(home)
        bad = bad_rows_without(home, forgotten)
        receipt.note("quarantine", "rows that were refused, by user or by any word", rows=bad)
        gone = histories_without(home, users)
        receipt.note("other histories", "feature tables of earlier schemas and logs", rows=gone)
        _other_schemas(home, receipt)
    # In an object store, a writer of another node may bring a history back until it knows.
    left, owner = journal_without(home, users, wait_s)
    receipt.note("journal", "acknowledged events", events=max(told - left, 0))
    online = histories_offline(home, users)
    receipt.note("online store", "histories of every schema", users=online)
    _rewritten(home, receipt)
    letters = dead_letters_without(home, forgotten)
    receipt.note("dead letters", "events that were set aside", letters=letters)
    answers, events = served_without(home, forgotten)
    receipt.note("served log", "answers and reported events", answers=answers, events=events)
    _checks(home, users, receipt)
    _restated(home, receipt)
    if home.store:
        purged = home.store.purge(begun_s)
        receipt.note("object store", "objects that no folder has any more", objects=purged)
        # From now on each node lets go of what it has of before, and this one does at once.
        tell_nodes(home)
        home.look()
    if owner:
        receipt.leave("journal", f"{owner} Run `prerank forget` for the same users again.")
        raise NotReadyError(f"{receipt.path}: the journal still holds events. {owner}")
    receipt.settle("journal")
    receipt.end()
    return receipt


def _without_log(home: Home, users: Collection[str], rows: Rows, receipt: Receipt) -> None:
    """Publish the log without the users, after all that is made of it."""
    manifest = LogManifest.load(home)
    keys = keys_of(manifest.schema, rows.events)
    # A build that was killed may have put the tables aside: they are there all the same.
    settled(home.features)
    tables = home.features_of(manifest.schema.hash()) / "manifest.json"
    with log_without(home, users, rows) as new:
        _models(home, rows.events, receipt)
        if tables.exists() and home.has_made(read_json(tables)):
            _restate(new, manifest.schema, keys, receipt)
        if (home.training_set / "manifest.json").exists():
            receipt.found("training set", "all of it: counts with a part of theirs", removed=1)
            receipt.leave("training set", "run `prerank training-set`, and train from it.")
        removed(home.training_set)
        receipt.found(
            "log",
            f"{len(manifest.requests_per_day):,} days of events; "
            f"{len(rows.files):,} files written again",
            rows=len(rows.events),
        )


def _restate(new: Home, schema: FeatureSchema, keys: list[str], receipt: Receipt) -> None:
    """Build all counts from the log of ``new``, and bring those of ``keys`` online."""
    # A filling beside it would bring rows of before.
    with locked(filling_of(new)):
        tables = new.features_of(schema.hash()) / "manifest.json"
        before = read_json(tables)["rows"]
        built = build_features(new, restate=True)["rows"]
        receipt.found(
            "feature tables",
            "every row, written again from the log without them (restated)",
            keys_with_a_part_of_theirs=len(keys),
            **{name: max(before[name] - built[name], 0) for name in ROWS},
        )
        written, gone = restate_rows(new, schema, keys)
    looked_at = "rows of the keys with a part of theirs"
    receipt.found("online counts", looked_at, written_again=written, taken_away=gone)


def _models(home: Home, events: pa.Table, receipt: Receipt) -> None:
    """Name what learned from the users, which no file can undo."""
    first = pc.min(events["request_time"].cast(pa.timestamp("us", tz="UTC"))).as_py()
    try:
        first_us = round(first.timestamp() * 1e6)
        found = versions_since(home, first_us)
        named = f"versions {', '.join(found)} of the model" if found else ""
        vectors = versions_since(home, first_us, EMBEDDING, EMBEDDING_CUTOFF)
    except NotReadyError as error:
        before = f"every version registered before {receipt.begun}, of {EMBEDDING} too"
        named, vectors = f"{before} (it was not asked: {error})", []
    if named:
        receipt.leave(
            "models",
            f"{named} learned from data that held them, and may hold a request of theirs among "
            "32 golden ones, without their id. Train again, promote, and delete those versions in "
            "MLflow, and their folders under models/, index/ and runs/.",
        )
    if vectors:
        receipt.leave(
            "embeddings",
            f"versions {', '.join(vectors)} of {EMBEDDING} are made of engagements that held "
            "theirs. Register the vectors anew (`prerank embed --register`), and delete those.",
        )
    if (home.root / "baselines").exists():
        receipt.leave("baselines", "fitted with them; the next `prerank train` replaces them.")


def _other_schemas(home: Home, receipt: Receipt) -> None:
    """Name counts of other logs, from which nothing can be taken."""
    own = LogManifest.load(home).schema.hash() if home.manifest.exists() else ""
    others = [
        name for name, made in manifests(home).items() if name != own or not home.has_made(made)
    ]
    if others:
        receipt.leave(
            "counts of other schemas",
            f"tables {', '.join(others)} are of a log that is gone, so a part of theirs in counts "
            "stays, by query and without their id. They go when no model version needs them "
            "(docs/operations.md, A new feature schema).",
        )


def _restated(home: Home, receipt: Receipt) -> None:
    """Name the restated histories, which are homes of their own."""
    for label in histories_of(home):
        receipt.leave(
            f"restated history {label}",
            f"run `prerank forget --workdir {home.place}/{FOLDER}/{label}` for the same users, or "
            f"remove it with its note, {FOLDER}/{label}.json.",
        )


def _rewritten(home: Home, receipt: Receipt) -> None:
    if rewrite_sqlite(home):
        receipt.settle("online store")
    else:
        receipt.leave("online store", "its write-ahead log is in use: run this again.")


def _checks(home: Home, users: Collection[str], receipt: Receipt) -> None:
    """Remove the findings of a check that name one of the users."""
    busy = read_json_or_nothing(home.root / CHECKS[0]).get("busy", [])
    named = any(one.get("user_id") in users for one in busy)
    # The page first: it is the other file that tells whether to look.
    for name in reversed(CHECKS) if named else ():
        remove(home.root / name)
    for left in home.root.glob(f".{CHECKS[0]}.*.tmp"):
        remove(left)
    receipt.note("check", "findings that name users", removed=len(CHECKS) * named)
