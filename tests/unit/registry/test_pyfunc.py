"""MLflow's model ranks requests as the scorer over a version's index does; without a pickle."""

from __future__ import annotations

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from tests.online_log import UNTIL
from tests.small_versions import build_index, save_model

from interactrank.model.scorer import Scorer
from prerank.core.errors import DataError
from prerank.core.files import read_json, write_json
from prerank.core.home import Home
from prerank.registry.bundle import META, Bundle, Version, load_bundle
from prerank.registry.golden import Golden, load_golden
from prerank.registry.index import load_index, scorer_of
from prerank.registry.pyfunc import LoadedModel, frame_of, signature_of
from prerank.registry.stored_inputs import from_bytes, to_bytes

ONE = Version("1", "a1a1a1a1a1")
# MLflow's, of the loader of a registered version.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home.at(tmp_path_factory.mktemp("pyfunc") / "home")
    folder = save_model(home.models / ONE.name, 1)
    write_json(folder / META, read_json(folder / META) | {"last_us": UNTIL})
    build_index(home, folder, ONE)
    return home


@pytest.fixture(scope="module")
def bundle(home: Home) -> Bundle:
    return load_bundle(home.models / ONE.name)


@pytest.fixture(scope="module")
def golden(home: Home, bundle: Bundle) -> Golden:
    found = load_golden(home.models / ONE.name, bundle.schema, bundle.meta)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def scorer(home: Home, bundle: Bundle) -> Scorer:
    return scorer_of(bundle, load_index(home, ONE, bundle.digest))


@pytest.fixture(scope="module")
def saved(home: Home, bundle: Bundle, golden: Golden) -> Path:
    """The version as MLflow keeps it."""
    path = home.root / "mlflow-model"
    mlflow.pyfunc.save_model(
        str(path),
        loader_module="prerank.registry.pyfunc",
        data_path=str(home.models / ONE.name),
        pip_requirements=[],
        signature=signature_of(bundle.schema),
        input_example=frame_of(golden, bundle.schema, 1),
    )
    return path


def expected(scorer: Scorer, golden: Golden, b: int) -> tuple[list[int], list[float]]:
    own = slice(golden.offsets[b], golden.offsets[b + 1])
    found = scorer.score(
        golden.queries[b],
        golden.inputs.slice(b, b + 1),
        golden.candidates[own],
        golden.weights,
        golden.retriever_features[own],
    )
    order = found.top(len(found.ids))
    return found.ids[order].tolist(), found.scores[order].astype(float).tolist()


def test_scores_are_the_scorers_to_the_last_digit(
    saved: Path, bundle: Bundle, golden: Golden, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a pickle is read")

    with monkeypatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, refuse)
        model = mlflow.pyfunc.load_model(str(saved))
    ranked = model.predict(frame_of(golden, bundle.schema))
    assert len(ranked) == len(golden)
    for b, row in enumerate(ranked.to_dict("records")):
        items, scores = expected(scorer, golden, b)
        assert row["items"] == items
        assert row["scores"] == scores
    assert len({tuple(items) for items in ranked["items"]}) > 1


def test_an_item_that_the_model_does_not_know_is_scored_as_the_index_scores_it(
    bundle: Bundle, golden: Golden, scorer: Scorer
) -> None:
    frame = frame_of(golden, bundle.schema, 1)
    frame["candidates"] = [[*frame["candidates"][0], 10**12]]
    frame["given"] = [[*frame["given"][0], [np.nan]]]
    (found,) = LoadedModel(bundle).predict(frame).to_dict("records")
    ids = np.array(frame["candidates"][0])
    told = np.array(frame["given"][0], np.float32)
    inputs = golden.inputs.slice(0, 1)
    by_scorer = scorer.score(golden.queries[0], inputs, ids, golden.weights, told)
    assert by_scorer.unknown.tolist() == [10**12]
    assert dict(zip(found["items"], found["scores"], strict=True)) == dict(
        zip(ids.tolist(), by_scorer.scores.astype(float).tolist(), strict=True)
    )


def test_a_request_alone_holds_what_it_is_scored_from_and_no_more(golden: Golden) -> None:
    ids = golden.candidates[golden.offsets[1] : golden.offsets[2]]
    alone, whole = from_bytes(to_bytes(golden.inputs, 1, ids)), golden.inputs.slice(1, 2)
    for name in ("time", "query", "segments", "hist_items", "hist_times", "key_level"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name))
    assert len(alone.blocks) < len(whole.blocks)
    for mine, theirs in zip(alone.key_block, whole.key_block, strict=True):
        assert (mine < 0) == (theirs < 0)
        if mine >= 0:
            start, there = alone.block_start[mine], whole.block_start[theirs]
            size = whole.block_size[theirs]
            assert alone.block_size[mine] == size
            np.testing.assert_array_equal(
                alone.blocks[start : start + size], whole.blocks[there : there + size]
            )


def test_mlflow_serves_it(saved: Path, bundle: Bundle, golden: Golden, scorer: Scorer) -> None:
    from mlflow.pyfunc.scoring_server import init

    frame = frame_of(golden, bundle.schema, 2)
    body = {"dataframe_split": json.loads(frame.to_json(orient="split", index=False))}
    app: Any = init(mlflow.pyfunc.load_model(str(saved)))

    async def post(content: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://mlflow") as client:
            return await client.post("/invocations", json=content)

    answer = asyncio.run(post(body))
    assert answer.status_code == 200, answer.text
    example = json.loads((saved / "serving_input_example.json").read_text())
    assert asyncio.run(post(example)).status_code == 200
    for b, row in enumerate(answer.json()["predictions"]):
        items, scores = expected(scorer, golden, b)
        assert row["items"] == items
        assert row["scores"] == pytest.approx(scores)


@pytest.mark.slow
def test_mlflow_evaluates_it(saved: Path, bundle: Bundle, golden: Golden, tmp_path: Path) -> None:
    frame = frame_of(golden, bundle.schema, 3)
    ranked = LoadedModel(bundle).predict(frame)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    try:
        # Not the experiment that another test chose.
        with mlflow.start_run(experiment_id=mlflow.create_experiment("evaluated")):
            # The best item of each request is the relevant one: what is predicted finds it.
            found = mlflow.models.evaluate(
                str(saved),
                frame.assign(relevant=[items[:1] for items in ranked["items"]]),
                targets="relevant",
                predictions="items",
                model_type="retriever",
                evaluator_config={"retriever_k": 1},
            )
    finally:
        mlflow.set_tracking_uri(before)
    assert found.metrics["recall_at_1/mean"] == 1.0


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("inputs", "bm9uZQ==", "row 1, `inputs`: no safetensors"),
        ("inputs", "none!", "row 1, `inputs`: "),
        ("candidates", [3, 3], "row 1, `candidates`: they must be distinct ids"),
        ("given", [[1.0]], "row 1, `given`: 150 candidates need 1 numbers each"),
    ],
)
def test_a_bad_row_is_told_by_row_and_column(
    bundle: Bundle, golden: Golden, column: str, value: Any, says: str
) -> None:
    frame = frame_of(golden, bundle.schema, 1)
    frame[column] = [value]
    with pytest.raises(DataError, match=says):
        LoadedModel(bundle).predict(frame)


def test_a_missing_column_is_named(bundle: Bundle) -> None:
    with pytest.raises(DataError, match="the column `query` is missing"):
        LoadedModel(bundle).predict(pd.DataFrame({"candidates": [[1]]}))
