"""Feast: opening the feature store and registering the definitions."""

from __future__ import annotations

import importlib.util
import os
import re
import sqlite3
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from feast import Entity, FeatureService, FeatureStore, FeatureView, RepoConfig
from feast.errors import FeatureViewNotFoundException
from feast.infra.online_stores.redis import RedisOnlineStore
from redis import AuthenticationError, RedisError
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from prerank.core.errors import ConfigError, NotReadyError, StateError
from prerank.core.feature_sets import REBUILD, manifests, online_states
from prerank.core.home import ENV, ID_ENV, Home
from prerank.core.quiet import muted
from prerank.core.redact import redact

REDIS_ENV, FOLDER_ENV = "PRERANK_REDIS", "PRERANK_FEATURE_REPO"
REGISTRY = "registry.db"
"""Feast's registry, in its folder of the home."""


@dataclass(frozen=True)
class Patience:
    """How long a caller waits for the online store.

    Attributes:
        connect_s: seconds for a connection.
        reply_s: seconds for a reply; with SQLite, for a lock.
        retries: how often a call that failed is made again. A reader makes none: it has no time.
    """

    connect_s: float
    reply_s: float
    retries: int = 0


WRITER = Patience(2.0, 10.0)
BULK = Patience(5.0, 60.0, retries=3)
"""Of materialisation: a batch is large, and writing it twice is harmless."""


def repo_folder() -> Path:
    """Folder of the Feast definitions: PRERANK_FEATURE_REPO, else the checkout's.

    Raises:
        ConfigError: it is not there.
    """
    folder = Path(os.environ.get(FOLDER_ENV) or Path(__file__).parents[3] / "feature_repo")
    if not (folder / "definitions.py").exists():
        raise ConfigError(
            f"{folder} holds no definitions.py. Point {FOLDER_ENV} at the feature_repo folder."
        )
    return folder.resolve()


def store_config(home: Home) -> RepoConfig:
    """Feast's configuration for ``home``: Redis online where PRERANK_REDIS is set, else SQLite."""
    folder, redis = repo_folder(), os.environ.get(REDIS_ENV, "")
    name = "feature_store.redis.yaml" if redis else "feature_store.yaml"
    data = yaml.safe_load((folder / name).read_text())
    values = {ENV: str(home.root), ID_ENV: home.id, REDIS_ENV: redis}
    return RepoConfig(**_filled_in(data, values), repo_path=folder)


def _filled_in(data: Any, variables: Mapping[str, str]) -> Any:
    """Parsed YAML with ``${...}`` filled in: in the text, a value could be read as YAML itself."""
    if isinstance(data, dict):
        return {key: _filled_in(value, variables) for key, value in data.items()}
    return string.Template(data).safe_substitute(variables) if isinstance(data, str) else data


def online_name() -> str:
    """Which online store the environment names, for what is written down of its state.

    Made of hosts, ports and the database: a changed password is the same store, and the name,
    which becomes part of file names, tells nothing of it.
    """
    redis = os.environ.get(REDIS_ENV)
    if not redis:
        return "sqlite"
    parts = [part.strip() for part in redis.split(",")]
    options = dict(part.split("=", 1) for part in parts if "=" in part)
    nodes = sorted(part for part in parts if part and "=" not in part)
    return re.sub(r"[^\w.-]", "-", "-".join(["redis", *nodes, f"db{options.get('db', 0)}"]))


def states_here(home: Home) -> list[dict[str, Any]]:
    """What is written down of every schema in the online store that the environment names."""
    return [state for state in online_states(home) if state["online_store"] == online_name()]


def filling_of(home: Home) -> Path:
    """What is locked (``prerank.core.files.locked``) while rows of counts are brought online."""
    return home.feast / "filling"


def open_store(home: Home, patience: Patience = WRITER) -> FeatureStore:
    """The feature store of ``home``; its connection is safe to share between threads.

    Raises:
        NotReadyError: nothing was applied yet.
    """
    config = store_config(home)
    # Feast would create an empty registry and fail later, at the first read.
    if not (home.feast / REGISTRY).exists():
        raise NotReadyError(f"{home.feast} has no feature registry. Run `prerank materialise`.")
    store = FeatureStore(config=config)
    _wait(store, patience)
    return store


def check_views(store: FeatureStore, *views: str) -> None:
    """See that feature views can be read.

    Raises:
        NotReadyError: one was never applied.
    """
    for view in views:
        try:
            store.get_feature_view(view)
        except FeatureViewNotFoundException:
            raise NotReadyError(
                f"the feature registry has no view {view}. Run `prerank materialise`."
            ) from None


def _wait(store: FeatureStore, patience: Patience) -> None:
    """Have the store's own client wait as long as ``patience`` says, and no longer."""
    online_store: Any = store._get_provider().online_store
    if store.config.online_store.type == "redis":
        _wait_redis(online_store._get_client(store.config.online_store), store.config, patience)
        return
    path = Path(store.config.online_store.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readers and the writer need not wait for each other: WAL, which is kept in the file.
    with sqlite3.connect(path, timeout=WRITER.reply_s) as db:
        db.execute("PRAGMA journal_mode = WAL")
    db.close()
    # The timeout belongs to a connection, and Feast makes its own.
    connection = online_store._get_conn(store.config)
    connection.execute(f"PRAGMA busy_timeout = {int(1e3 * patience.reply_s)}")


def check_online(home: Home) -> None:
    """See that the online store can be used, before work is done for it.

    Raises:
        ConfigError: the Feast definitions are not there, or PRERANK_REDIS is not understood.
        NotReadyError: no Redis answers there, or it refuses the password.
    """
    config = store_config(home)
    if config.online_store.type != "redis":
        return
    address, *settings = os.environ[REDIS_ENV].split(",")
    if not re.fullmatch(r"[^:=]+:\d+", address) or not all("=" in s for s in settings):
        raise ConfigError(
            f"{REDIS_ENV} is not `host:port`, then `,name=value` where needed, as in "
            "redis:6379,password=secret. A password must not hold a comma."
        )
    client, _ = redis_client(home)
    try:
        client.ping()
    except AuthenticationError as error:
        raise NotReadyError(
            f"Redis at {address}, which {REDIS_ENV} names, refuses the log-in: {redact(str(error))}"
            f". Correct `password=` (and `username=`) in {REDIS_ENV}."
        ) from None
    except RedisError as error:
        raise NotReadyError(
            f"no Redis can be used at {address}, which {REDIS_ENV} names: {redact(str(error))}. "
            f"Start one there, or unset {REDIS_ENV} to use SQLite."
        ) from None
    finally:
        client.close()


def redis_client(home: Home, patience: Patience = WRITER) -> tuple[Any, str]:
    """A client of its own for the Redis that PRERANK_REDIS names, and the home's Feast project."""
    config = store_config(home)
    client = RedisOnlineStore()._get_client(config.online_store)
    _wait_redis(client, config, patience)
    return client, config.project


def _wait_redis(client: Any, config: RepoConfig, patience: Patience) -> None:
    options = client.get_connection_kwargs()
    parts = (part.partition("=") for part in config.online_store.connection_string.split(","))
    # Feast reads each value as JSON, and so a password of digits as a number.
    options |= {name: value for name, _, value in parts if name in ("username", "password")}
    # What PRERANK_REDIS says itself is kept. Without a time-out redis-py waits for ever, and
    # by default it retries for ten seconds.
    for name, seconds in (
        ("socket_connect_timeout", patience.connect_s),
        ("socket_timeout", patience.reply_s),
    ):
        options[name] = options.get(name) or seconds
    client.set_retry(Retry(ExponentialBackoff(cap=1.0, base=0.1), patience.retries))


def apply(home: Home) -> FeatureStore:
    """Register feature_repo's definitions, as ``feast apply`` does; returns the open store.

    Raises:
        StateError: the features were not built.
    """
    if not manifests(home):
        raise StateError(f"{home.features} holds no feature tables. Run {REBUILD}.")
    home.feast.mkdir(parents=True, exist_ok=True)
    store = FeatureStore(config=store_config(home))
    _wait(store, BULK)
    # Feast tests a source's path for existence and does not know globs; DuckDB reads them.
    with muted():
        store.apply(_definitions(home))
    return store


def forget(store: FeatureStore, views: Collection[str]) -> None:
    """Take feature views out of the registry, and their rows out of the online store."""
    found = [view for view in store.list_feature_views() if view.name in views]
    sources = [s for view in found for s in (view.batch_source, view.stream_source) if s]
    services = [
        service
        for service in store.list_feature_services()
        if any(projection.name in views for projection in service.feature_view_projections)
    ]
    if found:
        with muted():
            store.apply([], objects_to_delete=[*found, *sources, *services], partial=False)


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
