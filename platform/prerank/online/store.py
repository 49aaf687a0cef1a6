"""Feast: opening the feature store and registering the definitions."""

from __future__ import annotations

import importlib.util
import os
import re
import sqlite3
import string
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from feast import Entity, FeatureService, FeatureStore, FeatureView, RepoConfig
from feast.errors import FeatureViewNotFoundException

from prerank.core.errors import ConfigError, NotReadyError, StateError
from prerank.core.feature_sets import REBUILD, manifests
from prerank.core.home import ENV, ID_ENV, Home
from prerank.core.quiet import muted

REDIS_ENV, FOLDER_ENV = "PRERANK_REDIS", "PRERANK_FEATURE_REPO"
BUSY_TIMEOUT_MS = 30_000


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
    text = string.Template((folder / name).read_text())
    values = {ENV: str(home.root), ID_ENV: home.id, REDIS_ENV: redis}
    data = yaml.safe_load(text.safe_substitute(values))
    return RepoConfig(**data, repo_path=folder)


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
    online_store: Any = store._get_provider().online_store
    connection = online_store._get_conn(store.config)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")


def apply(home: Home) -> FeatureStore:
    """Register feature_repo's definitions, as ``feast apply`` does; returns the open store.

    Raises:
        StateError: the features were not built.
    """
    if not manifests(home):
        raise StateError(f"{home.features} holds no feature tables. Run {REBUILD}.")
    home.feast.mkdir(parents=True, exist_ok=True)
    store = FeatureStore(config=store_config(home))
    _patient(store)
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
