"""One local Ray for the session, and a small simulated world that tests read but never change.

`make test` runs two processes. One of them has first the cluster of the README, which cannot start
while another Ray runs here, then the tests on the shared one. The other has the rest, a file at a
time, so that a module's fixtures are made once, and ends with some on a Ray of its own: as many as
make both end together.
"""

from __future__ import annotations

import os

# Before Ray is imported: it reads them once.
os.environ["RAY_AUTH_MODE"] = "token"
# Ray's workers give way to every other process unless told otherwise: here they would wait for the
# tests beside them.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it
# How often Ray's agents look at every process of the machine, in milliseconds.
os.environ["REPORTER_UPDATE_INTERVAL_MS"] = "60000"
# How often a training's controller looks whether its workers are done, in seconds.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
os.environ["PRERANK_PROGRESS"] = "0"
# Before torch is imported. Threads that wait for each other on cores that others use as well take
# twenty times as long as one thread.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from tests.redis_server import databases
from xdist.scheduler import LoadScopeScheduling

from prerank.core.home import Home
from prerank.core.ray_tasks import start_local
from prerank.core.storage import CACHE_ENV
from prerank.dataset.build import build_training_set
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest
from prerank.online.store import REDIS_ENV
from prerank.simulate import simulate

# How fast examples are drawn tells how busy the machine is, and nothing of the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

ROOT = Path(__file__).parents[1]
REQUESTS = 600
ON_MIDNIGHT = "r0000000300"
"""A request of the tiny log that is moved to a day's very first microsecond: the moment at which
an hourly and a daily snapshot are cut and, without a lag, published."""

RAY = ("tests/e2e/", "tests/behaviour/")
NO_RAY = tuple(
    f"tests/behaviour/test_{name}.py"
    for name in (
        "added_items",
        "as_of_join",
        "following",
        "gate",
        "materialise",
        "object_store",
        "online_parity",
        "promotion",
        "schemas",
        "served_from_a_store",
        "variant_forms",
        "variants",
    )
)
LAST = "tests/behaviour/test_seeds.py", "tests/behaviour/test_training_job.py"
HOURLY = FeatureConfig()
BuildHome = Callable[..., Home]


def lane(nodeid: str) -> str:
    """What goes to one process: files that share a Ray, or a file."""
    file = nodeid.partition("::")[0]
    if file in LAST:
        return "last"
    return "Ray" if file.startswith(RAY) and file not in NO_RAY else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def order(item: pytest.Item) -> int:
        if item.nodeid.startswith(RAY[0]):
            return 0
        own = lane(item.nodeid)
        if own in ("Ray", "last"):
            return 1 if own == "Ray" else 3
        needed = "ray_local" in getattr(item, "fixturenames", ())
        assert not needed, f"{item.nodeid}: another Ray runs beside this lane"
        return 2

    items.sort(key=order)


class Lanes(LoadScopeScheduling):
    """One process has the cluster and most tests that start a Ray; the other ends with a few."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    return Lanes(config, log)


@pytest.fixture(scope="session")
def ray_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PRERANK_CACHE of the workers of ``ray_local``."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def ray_local(ray_cache: Path) -> Iterator[None]:
    """A Ray of two cores whose workers import this checkout."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_ENV, str(ray_cache))
        # Of ``tests.object_stores.Nodes.at_ray``, to fsspec.
        patch.setenv("FSSPEC_LOCAL_AUTO_MKDIR", "true")
        # Not a runtime environment, which every worker would first start a process to set up.
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'platform'}")
        start_local(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def new_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """PRERANK_REDIS of an empty database, at each call, on a server of the session's own."""
    # With an append-only file, as one that keeps a journal has: without, /health says so.
    with databases(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as found:
        yield found


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def online_store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each online store in turn, named by the environment, as an installation names it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(REDIS_ENV, raising=False)
        if request.param == "redis":
            patch.setenv(REDIS_ENV, request.getfixturevalue("new_redis")())
        yield request.param


@pytest.fixture(scope="session")
def build_home(ray_local: None) -> BuildHome:
    """Ingest frames into a new home and build what is asked for."""

    def build(
        root: Path,
        events: pd.DataFrame,
        items: pd.DataFrame,
        *,
        features: FeatureConfig | None = HOURLY,
        training_set: bool = False,
        place: Home | None = None,
        **mapping: object,
    ) -> Home:
        root.mkdir(parents=True, exist_ok=True)
        events.to_parquet(root / "events.parquet")
        items.to_parquet(root / "items.parquet")
        # SQL and commands are made of paths: each stage must read this one.
        home = place or Home.at(root / "it's home")
        ingest(
            root / "events.parquet",
            root / "items.parquet",
            home,
            LogMapping.model_validate(mapping),
        )
        if features is not None:
            build_features(home, features)
        if training_set:
            build_training_set(home)
        return home

    return build


@pytest.fixture(scope="session")
def tiny_simulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulation")
    simulate(folder, "tiny", requests=REQUESTS, progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny_items(tiny_simulation: Path) -> pd.DataFrame:
    frame: pd.DataFrame = pq.read_table(tiny_simulation / "items.parquet").to_pandas()
    return frame


@pytest.fixture(scope="session")
def tiny_log(tiny_simulation: Path) -> pd.DataFrame:
    """Raw events of the tiny world; copy before you change anything."""
    log: pd.DataFrame = pq.read_table(tiny_simulation / "events").to_pandas()
    moved = log["request_id"] == ON_MIDNIGHT
    shift = log.loc[moved, "request_time"] - log.loc[moved, "request_time"].dt.floor("D")
    for column in ("request_time", "event_time"):
        log.loc[moved, column] -= shift
    return log


@pytest.fixture(scope="session")
def tiny_world(
    tmp_path_factory: pytest.TempPathFactory,
    build_home: BuildHome,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
) -> Home:
    """Home of the tiny log: segments, exposure, graph, features, training set. Read only."""
    root = tmp_path_factory.mktemp("world")
    mapping: dict[str, Any] = {"segments": ["country", "device"], "exposure": True, "graph": True}
    return build_home(root, tiny_log, tiny_items, training_set=True, **mapping)
