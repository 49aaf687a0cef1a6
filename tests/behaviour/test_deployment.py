"""A replica's engine against the offline tables, and with the registry gone; without Serve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from tests.http_calls import api_of, client_of

from interactrank.features.inputs import MISSING_BLOCK
from interactrank.features.schema import FeatureSchema
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig, mark_trained
from prerank.core.errors import NotReadyError, PrerankError, RegistryAwayError, StateError
from prerank.core.feature_sets import online_state
from prerank.core.home import Home
from prerank.core.ids import ItemIds
from prerank.core.manifest import LogManifest
from prerank.core.processes import free_port
from prerank.core.times import DAY_US
from prerank.dataset.examples import read_split
from prerank.evaluation import parity
from prerank.evaluation.golden import CANDIDATES, REQUESTS, golden_requests
from prerank.evaluation.live import URL, ask, open_client
from prerank.evaluation.parity import check_parity, compared
from prerank.evaluation.parity_report import Parity
from prerank.features.offline import offline_inputs
from prerank.online.history import Event
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.online.store import open_store
from prerank.online.writer import HistoryWriter
from prerank.registry import versions as registry
from prerank.registry.additions import add_items
from prerank.registry.bundle import Version, load_bundle, save_bundle
from prerank.registry.delta import PATTERN, POINTER
from prerank.registry.golden import load_golden, replay, save_golden
from prerank.registry.index import build_index, load_index, scorer_of
from prerank.serving.api import Limits, PrerankRequest, parse_raw
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.training.reader import Reader, new_model

ONE = Version("1", "5e1f0a37c2b94d68")
SMALL = ModelConfig(width=16, text_width=8, id_width=8, mask_blocks=1, mask_width=16, hidden=(16,))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_world: Home, online_store: str) -> Home:
    """The tiny world online, with a model version 1 that was never registered anywhere."""
    home = Home.at(tmp_path_factory.mktemp(online_store) / "home")
    home.root.mkdir()
    for name in ("log", "features", "training_set"):
        (home.root / name).symlink_to(tiny_world.root / name)
    materialise(home, progress=False)
    reader = Reader(home)
    model = new_model(reader, SMALL, TrainConfig())
    for table in read_split(home, "train"):
        mark_trained(model, reader.batch(table))
    folder = home.models / ONE.name
    save_bundle(folder, model.eval(), reader.catalogue, {})
    save_golden(folder, golden_requests(home, load_bundle(folder)))
    build_index(home, folder, ONE)
    return home


def filled_until(home: Home) -> int:
    return int(online_state(home, LogManifest.load(home).schema.hash())["until_us"])


@pytest.fixture
def champion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry whose champion is version 1."""
    monkeypatch.setattr(registry, "alias_version", {registry.CHAMPION: ONE}.get)
    monkeypatch.setattr(registry, "version_of", {"1": ONE}.__getitem__)


@pytest.fixture(params=["replay", "wall"])
def engine(request: pytest.FixtureRequest, home: Home, champion: None) -> Engine:
    # The time-out is not what is tested here, and the machine may be busy.
    config = ServeConfig(
        home=str(home.root), clock=request.param, timeout_ms=10_000, require_gate=False
    )
    engine = Engine(config)
    engine.refresh()
    assert engine.ready() == (True, "")
    return engine


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    """The engine behind its HTTP routes, without Ray."""
    with client_of(api_of(engine)) as found:
        yield found


def test_a_deployment_serves_what_training_saw(home: Home, client: httpx.Client) -> None:
    found = check_parity(home, client, requests=60)
    found.check()
    assert (found.compared, found.equal) == (60, 60), found.example
    assert found.filled >= 54
    assert max(d for _, d in found.worst.values()) > 0, "bf16 leaves a trace: what was compared?"
    assert "with cross or history features" in found.table()


def test_acknowledged_events_are_part_of_the_comparison(home: Home, client: httpx.Client) -> None:
    day = min(home.events.glob("day=*"))
    import pyarrow.parquet as pq

    users = pq.read_table(day, columns=["user_id"], partitioning=None)["user_id"].unique()
    schema, until = LogManifest.load(home).schema, filled_until(home)
    item = int(Reader(home).catalogue.ids[0])
    # Some before what was online already, some after it: late ones take their place.
    events = [
        Event(u, item, schema.engagements[0], until - 10**9 * (i % 5) - 1, 10**6 + i)
        for i, u in enumerate(users.to_pylist())
    ]
    with HistoryWriter(home, open_store(home), schema) as writer:
        writer.write(events)
    check_parity(home, client, requests=60).check()


def test_items_that_were_added_are_no_difference(home: Home, engine: Engine) -> None:
    folder = home.index / ONE.name
    bundle = load_bundle(home.models / ONE.name)
    # As if their titles had been exchanged.
    own = bundle.catalogue.take(np.arange(0, 60))
    add_items(home, bundle, ONE, replace(bundle.catalogue.take(np.arange(60, 120)), ids=own.ids))
    try:
        engine.refresh()
        with client_of(api_of(engine)) as client:
            found = check_parity(home, client, requests=20)
        found.check()
        (folder / POINTER).unlink()
        with client_of(api_of(engine)) as client, pytest.raises(PrerankError, match="differ"):
            check_parity(home, client, requests=20).check()
    finally:
        for path in (folder / POINTER, *folder.glob(PATTERN)):
            path.unlink(missing_ok=True)


def test_a_store_that_was_changed_is_noticed(home: Home, engine: Engine) -> None:
    loaded = engine.current()

    class Loses(OnlineFeatures):
        """The whole row of the query itself is lost, as if its key had never been filled."""

        def read(self, *args: Any) -> OnlineRead:
            read = super().read(*args)
            key_block = read.inputs.key_block.copy()
            key_block[0] = MISSING_BLOCK
            return replace(read, inputs=replace(read.inputs, key_block=key_block))

    engine.serve(replace(loaded, features=Loses(home, loaded.limits.schema)))
    with client_of(api_of(engine)) as client:
        found = check_parity(home, client, requests=20)
    assert found.equal < found.compared
    with pytest.raises(PrerankError, match=r"requests differ, the first: user .* differs by"):
        found.check()


def test_little_to_compare_is_no_success() -> None:
    for filled, enough in ((9, True), (8, False)):
        found = Parity()
        for i in range(10):
            found.note({"q:engage_all": (0.0, 1e-5)}, i < filled, "user 'u', query 'q'")
        if enough:
            found.check()
        else:
            with pytest.raises(StateError, match="only 8 of 10"):
                found.check()
    broken = Parity()
    broken.note({"score": (float("nan"), 1e-3)}, True, "user 'u', query 'q'")
    with pytest.raises(PrerankError, match="score differs by nan"):
        broken.check()


def test_missing_values_agree_with_missing_values_only() -> None:
    nan = float("nan")
    served = parity.as_numbers([[None, 1.0, None], [0.5, 1.0, 2.0]])
    expected = np.array([[nan, 1.0, 3.0], [0.5, 1.25, 2.0]], np.float32)
    gaps = parity.gaps_of(served, expected)
    assert gaps[:2] == [0.0, 0.25]
    assert np.isnan(gaps[2])


def test_a_user_without_a_history_is_compared(home: Home, client: httpx.Client) -> None:
    search = {"query": "red", "user_id": "nobody", "request_time": None}
    ids = Reader(home).catalogue.ids[:3]
    until = filled_until(home)
    stamp = pa.array([until], pa.timestamp("us", tz="UTC"))
    table = pa.table({**{k: [v] for k, v in search.items()}, "request_time": stamp})
    asked = ask(client, table, [(ids, None)], (), until)
    assert None in asked[0].answer["request_features"].values()
    found = compared(home, table, offline_inputs(home, table), asked)
    assert (found.compared, found.equal) == (1, 1), found.example


def test_a_search_is_sent_with_its_context_and_what_is_given_of_candidates() -> None:
    schema = FeatureSchema(
        actions=("click",),
        passive=(),
        heads=("engagement",),
        item_numeric=(),
        segments=("country", "device"),
        retriever=("score", "rank"),
        candidate_features=("price",),
    )
    sent: list[PrerankRequest] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            return httpx.Response(200, json={"clock": "replay"})
        limits = Limits(ItemIds("integer"), schema, replay=True)
        sent.append(parse_raw(request.content, dict(request.url.params), limits, 0))
        return httpx.Response(200, json={})

    client = httpx.Client(transport=httpx.MockTransport(handle), base_url=URL)
    contexts = [{"country": "de", "device": ""}, {"country": 'a "b" & ü', "device": "tv"}]
    searches = pa.table({"query": ["red", "blue"], "user_id": ["u", "v"], "context": contexts})
    said = np.array([[0.5, 0.0, 9.5], [np.nan, 1.0, np.nan], [-2.0, np.nan, 0.0]], np.float32)
    ids = np.array([30, 10, 20], np.int64)
    candidates = [(ids, said), (ids[:1], said[:1])]
    asked = ask(client, searches, candidates, schema.given, DAY_US * 20_000)
    assert [request.context for request in sent] == contexts
    for request, answered, (keys, told) in zip(sent, asked, candidates, strict=True):
        np.testing.assert_array_equal(request.keys, keys)
        np.testing.assert_array_equal(request.retriever_features, told)
        np.testing.assert_array_equal(answered.retriever_features, told)


def test_golden_requests_of_the_validation_split_score_over_the_index_as_at_training(
    home: Home,
) -> None:
    bundle = load_bundle(home.models / ONE.name)
    golden = load_golden(home.models / ONE.name, bundle.schema, bundle.meta)
    assert golden is not None
    splits = home.read_json(home.training_set / "manifest.json", "")["splits"]
    assert splits["validation_from"] <= golden.inputs.time.min()
    assert golden.inputs.time.max() < splits["test_from"]
    # They are scored from what there was: rows and histories, and what no row names.
    assert len(golden) == REQUESTS
    assert (np.diff(golden.offsets) <= CANDIDATES).all()
    assert (golden.inputs.key_block != MISSING_BLOCK).any()
    assert len(golden.inputs.hist_items)
    index = load_index(home, ONE, bundle.digest)
    assert replay(golden, scorer_of(bundle, index), ONE).requests == REQUESTS


def test_nobody_there_is_said_with_the_remedy(home: Home) -> None:
    with pytest.raises(NotReadyError, match="serve deploy"):
        check_parity(home, open_client(f"http://127.0.0.1:{free_port()}"), 1)


def test_a_replica_starts_without_the_registry_on_the_last_champion(
    home: Home, champion: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServeConfig(home=str(home.root), require_gate=False)
    first = Engine(settings)
    first.refresh()
    assert first.health()["confirmed"] is True
    assert first.health()["notes"] == []

    def away(alias: str) -> None:
        raise RegistryAwayError("MLflow cannot be asked")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "alias_version", away)
        first.refresh()
        assert first.ready()[0], "a replica that serves goes on serving"
        restarted = Engine(settings)
        restarted.refresh()
        assert restarted.ready()[0]
        health = restarted.health()
    assert (health["model_version"], health["alias"]) == ("1", "champion")
    assert health["confirmed"] is False
    assert health["notes"] == [
        "version 1 is served as the last known champion: MLflow cannot be asked"
    ]
    restarted.refresh()
    assert restarted.health()["confirmed"] is True
    assert restarted.health()["notes"] == []


def test_without_the_registry_nothing_unpromoted_is_served(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.root / "models" / "served.json").unlink(missing_ok=True)
    monkeypatch.setattr(registry, "alias_version", {registry.CHALLENGER: ONE}.get)
    Engine(ServeConfig(home=str(home.root), allow_unpromoted=True, require_gate=False)).refresh()

    def away(alias: str) -> None:
        raise RegistryAwayError("MLflow cannot be asked")

    monkeypatch.setattr(registry, "alias_version", away)
    strict = Engine(ServeConfig(home=str(home.root)))
    strict.refresh()
    assert strict.ready() == (False, "MLflow cannot be asked")


def test_a_champion_that_was_taken_away_is_not_served_from_memory(
    home: Home, champion: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServeConfig(home=str(home.root), require_gate=False)
    Engine(settings).refresh()
    monkeypatch.setattr(registry, "alias_version", lambda alias: None)
    later = Engine(settings)
    later.refresh()
    ready, remedy = later.ready()
    assert not ready
    assert "Promote one" in remedy


def test_a_server_that_is_away_is_told_from_a_missing_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    try:
        mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")
        with pytest.raises(RegistryAwayError, match="MLFLOW_TRACKING_URI"):
            registry.alias_version(registry.CHAMPION)
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
        assert registry.alias_version(registry.CHAMPION) is None
    finally:
        mlflow.set_tracking_uri(before)


def test_what_events_may_hold_is_read_once(
    home: Home, champion: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(ServeConfig(home=str(home.root), require_gate=False))
    engine.refresh()
    monkeypatch.setattr(Home, "read_json", lambda *args: 1 / 0)
    assert engine.event_limits().schema.actions
    assert engine.event_limits() is engine.event_limits()
