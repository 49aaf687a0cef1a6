"""Feast: opening the feature store, registering the definitions, filling the online store.

Engagement rows are materialised by Feast; nothing else writes them. Histories never are: on SQLite
an older row would overwrite a newer pushed one, so the back-fill merges them by event id, the way
live events are merged (:mod:`prerank.online.writer`).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sqlite3
import string
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import xxhash
import yaml
from feast import Entity, FeatureService, FeatureStore, FeatureView, RepoConfig
from tqdm import tqdm

from prerank.core.errors import ConfigError, NotReadyError, StateError
from prerank.core.home import ENV, Home, write_json
from prerank.core.sql import connection

REDIS_ENV, FOLDER_ENV = "PRERANK_REDIS", "PRERANK_FEATURE_REPO"
BUSY_TIMEOUT_MS = 30_000
HISTORY_BATCH = 1_000
SAME_FEATURES = ("schema_hash", "fingerprint", "cadence_hours", "lag_minutes")
"""What must agree for materialisation to resume instead of starting over."""
HISTORY_FIELDS = ("item_ids", "actions", "times", "event_ids", "queries")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def repo_folder() -> Path:
    """Folder of the Feast definitions: PRERANK_FEATURE_REPO, else the checkout's.

    Raises:
        ConfigError: it is not there.
    """
    folder = Path(os.environ.get(FOLDER_ENV) or Path(__file__).parents[2] / "feature_repo")
    if not (folder / "definitions.py").exists():
        raise ConfigError(
            f"{folder} holds no definitions.py. Point {FOLDER_ENV} at the feature_repo folder."
        )
    return folder.resolve()


def store_config(home: Home) -> RepoConfig:
    """Feast's configuration for ``home``: Redis online where PRERANK_REDIS is set, else SQLite."""
    folder, redis = repo_folder(), os.environ.get(REDIS_ENV, "")
    name = "feature_store.redis.yaml" if redis else "feature_store.yaml"
    text = string.Template((folder / name).read_text())
    data = yaml.safe_load(text.safe_substitute({ENV: str(home.root), REDIS_ENV: redis}))
    return RepoConfig(**data, repo_path=folder)


def online_name() -> str:
    """Which online store the environment names, for what is written down of its state.

    Two Redis servers have two names; a name tells no password.
    """
    redis = os.environ.get(REDIS_ENV)
    return f"redis-{xxhash.xxh3_64_hexdigest(redis)}" if redis else "sqlite"


def open_store(home: Home) -> FeatureStore:
    """The feature store of ``home``; its connection is safe to share between threads.

    Raises:
        NotReadyError: nothing was applied yet.
    """
    config = store_config(home)
    # Feast would create an empty registry and fail later, at the first read.
    if not (home.feast / "registry.db").exists():
        raise NotReadyError(f"{home.feast} has no feature registry. Run `prerank materialise`.")
    store = FeatureStore(config=config)
    _patient(store)
    return store


def _patient(store: FeatureStore) -> None:
    """Readers and the writer wait for each other: WAL (kept in the file), and a busy timeout."""
    if store.config.online_store.type != "sqlite":
        return
    path = Path(store.config.online_store.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1e3) as db:
        db.execute("PRAGMA journal_mode = WAL")
    db.close()
    # The timeout belongs to a connection, and Feast makes its own.
    connection = store._get_provider().online_store._get_conn(store.config)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")


def apply(home: Home) -> FeatureStore:
    """Register feature_repo's definitions, as ``feast apply`` does; returns the open store.

    Raises:
        StateError: the features were not built.
    """
    home.read_json(home.features / "manifest.json", "prerank features")
    home.feast.mkdir(parents=True, exist_ok=True)
    store = FeatureStore(config=store_config(home))
    _patient(store)
    with _quiet_sources():
        store.apply(_definitions(home))
    return store


def _definitions(home: Home) -> list[Any]:
    path = repo_folder() / "definitions.py"
    spec = importlib.util.spec_from_file_location("prerank_feast_definitions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = os.environ.get(ENV)
    os.environ[ENV] = str(home.root)
    try:
        spec.loader.exec_module(module)
    finally:
        if before is None:
            del os.environ[ENV]
        else:
            os.environ[ENV] = before
    kinds = (Entity, FeatureView, FeatureService)
    return [o for o in vars(module).values() if isinstance(o, kinds)]


@contextmanager
def _quiet_sources() -> Iterator[None]:
    """Feast tests a source's path for existence and does not know globs; DuckDB reads them."""
    logger = logging.getLogger("feast.infra.offline_stores.file_source")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def materialised_path(home: Home) -> Path:
    """Where the state of the online store is written down."""
    return home.feast / "materialised.json"


def materialise(home: Home, until_us: int | None = None, progress: bool = True) -> dict[str, Any]:
    """Bring the online store to what was known at ``until_us``: rows stamped at or before it.

    Args:
        home: features must be built there.
        until_us: microseconds since 1970; None takes everything.
        progress: show bars.

    Returns:
        What is written to ``materialised.json``: until_us, cutoff_us (the latest snapshot's),
        schema_hash, fingerprint, schema, online_store, users.

    Raises:
        StateError: no features, or the online store already holds a later state.
    """
    features = home.read_json(home.features / "manifest.json", "prerank features")
    lag = features["lag_minutes"] * 60_000_000
    until = features["last_cutoff_us"] + lag if until_us is None else until_us
    start = _start(home, features, until)
    store = apply(home)
    with _quiet_sources():
        # Inclusive at both ends, as the offline join is at its right end.
        store.materialize(_time(start), _time(until), feature_views=["engagement"])
    users = _backfill(home, store, until, progress)
    cadence = features["cadence_hours"] * 3_600_000_000
    cutoff = min(features["last_cutoff_us"], (until - lag) // cadence * cadence)
    state = {
        "until_us": until,
        "cutoff_us": cutoff,
        **{name: features[name] for name in SAME_FEATURES},
        "schema": features["schema"],
        "online_store": online_name(),
        "users": users,
    }
    write_json(materialised_path(home), state)
    return state


def _start(home: Home, features: dict[str, Any], until: int) -> int:
    """Where materialisation may resume; zero for another store than before, or other features."""
    path = materialised_path(home)
    if not path.exists():
        return 0
    before = home.read_json(path, "prerank materialise")
    if before.get("online_store") != online_name():
        return 0
    if before["until_us"] > until:
        raise StateError(
            f"the online store already holds the state of {_time(before['until_us'])}, later than "
            f"{_time(until)}: it cannot forget. Remove {home.feast} (with Redis: use an empty one) "
            "and materialise again."
        )
    same = all(before.get(name) == features[name] for name in SAME_FEATURES)
    return int(before["until_us"]) if same else 0


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _backfill(home: Home, store: FeatureStore, until: int, progress: bool) -> int:
    """Merge every user's latest history at ``until`` into the online store; number of users."""
    from prerank.online.writer import HistoryWriter

    files = sorted(str(p) for p in (home.features / "user_history").glob("*.parquet"))
    if not files:
        return 0
    writer = HistoryWriter.backfill(home, store)
    columns = ", ".join(HISTORY_FIELDS)
    users = 0
    with connection() as db:
        latest = db.execute(
            f"""SELECT user_id, {columns} FROM read_parquet(?)
            WHERE event_timestamp <= make_timestamptz(?)
            QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY event_timestamp DESC) = 1""",
            [files, until],
        )
        with tqdm(desc="histories", unit="user", disable=not progress) as bar:
            while rows := latest.fetchmany(HISTORY_BATCH):
                writer.merge_histories(
                    {user: list(zip(*lists, strict=True)) for user, *lists in rows}
                )
                users += len(rows)
                bar.update(len(rows))
    return users
