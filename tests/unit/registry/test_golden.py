"""Golden requests of a version: read as written, and compared as exactly as bf16 allows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tests.golden import QUERY, REQUESTS, golden_for
from tests.samples import CATALOGUE, SCHEMA, SHIPPED, item_vectors, new_model

from interactrank.model.scorer import Scorer
from prerank.core.errors import DamagedError, StateError
from prerank.core.files import read_json, write_json
from prerank.registry.bundle import META, Bundle, Version, digest_of, load_bundle, save_bundle
from prerank.registry.golden import (
    GOLDEN,
    GOLDEN_DIGEST,
    Golden,
    load_golden,
    replay,
    save_golden,
)

THREE = Version("3", "run")
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("version") / "bundle"
    save_bundle(folder, new_model(SHIPPED), CATALOGUE, {})
    return load_bundle(folder)


@pytest.fixture(scope="module")
def golden(bundle: Bundle) -> Golden:
    return golden_for(bundle)


def scorer_of(bundle: Bundle, dtype: torch.dtype = torch.bfloat16) -> Scorer:
    with torch.no_grad():
        vectors = item_vectors(bundle.model, CATALOGUE)[1:].to(dtype)
    return Scorer(bundle.model, CATALOGUE, CATALOGUE.ids, vectors)


@pytest.fixture
def folder(tmp_path: Path, bundle: Bundle, golden: Golden) -> Path:
    save_bundle(tmp_path, bundle.model, CATALOGUE, {"run_id": "a"})
    save_golden(tmp_path, golden)
    return tmp_path


def loaded(folder: Path) -> Golden | None:
    found = load_bundle(folder)
    return load_golden(folder, found.schema, found.meta)


def test_they_are_read_as_they_were_written_and_agree_with_an_index_in_bf16(
    folder: Path, golden: Golden, bundle: Bundle
) -> None:
    found = loaded(folder)
    assert found is not None
    assert found.queries == (QUERY,) * REQUESTS
    np.testing.assert_array_equal(found.scores, golden.scores)
    assert found.scores.dtype == np.float32
    for name, array in golden.inputs.arrays().items():
        np.testing.assert_array_equal(getattr(found.inputs, name), array)
    for dtype in (torch.bfloat16, torch.float32):
        said = replay(found, scorer_of(bundle, dtype), THREE)
        assert said.requests == REQUESTS
        assert said.median_ms > 0


def test_vectors_of_the_candidates_are_kept_with_them(tmp_path: Path) -> None:
    model = new_model(SHIPPED, schema=replace(SCHEMA, graph=True))
    save_bundle(tmp_path, model, CATALOGUE, {})
    bundle = load_bundle(tmp_path)
    golden = golden_for(bundle)
    save_golden(tmp_path, golden)
    found = loaded(tmp_path)
    assert found is not None
    (kept,) = found.inputs.snapshots.values()
    assert kept.ids.tolist() == sorted(CATALOGUE.ids.tolist())[1:]
    assert replay(found, scorer_of(bundle), THREE).requests == REQUESTS
    turned = {at: replace(of, bits=of.bits[::-1]) for at, of in found.inputs.snapshots.items()}
    other = replace(found, inputs=replace(found.inputs, snapshots=turned))
    with pytest.raises(StateError, match="golden requests differ"):
        replay(other, scorer_of(bundle), THREE)


def test_a_version_registered_without_any_has_none(tmp_path: Path, bundle: Bundle) -> None:
    save_bundle(tmp_path, bundle.model, CATALOGUE, {})
    assert loaded(tmp_path) is None


def test_what_rounding_to_bf16_cannot_do_is_noticed(golden: Golden, bundle: Bundle) -> None:
    scorer = scorer_of(bundle)
    replay(golden, scorer, THREE)
    # Every number off by eight times as much, the way that moves the dots of a request most.
    b = 0
    own = slice(golden.offsets[b], golden.offsets[b + 1])
    side = scorer.query_side(golden.queries[b], golden.inputs.slice(b, b + 1), golden.weights)
    away = 1 + torch.sign(scorer.vectors.float() * side.query) * 2.0**-5
    moved = Scorer(bundle.model, CATALOGUE, CATALOGUE.ids, scorer.vectors.float() * away)
    scored = moved.score(
        golden.queries[b], golden.inputs.slice(b, b + 1), golden.candidates[own], golden.weights
    )
    assert np.abs(scored.scores - golden.scores[own]).max() > golden.tolerance[b]
    with pytest.raises(StateError, match="golden requests differ"):
        replay(golden, moved, THREE)


def test_vectors_of_other_weights_are_noticed_with_the_remedy(
    golden: Golden, bundle: Bundle
) -> None:
    vectors = scorer_of(bundle).vectors.roll(1, 0)
    wrong = Scorer(bundle.model, CATALOGUE, CATALOGUE.ids, vectors)
    with pytest.raises(StateError, match=r"model version 3 .*prerank index --version 3"):
        replay(golden, wrong, THREE)


def test_an_index_that_lacks_items_is_noticed(golden: Golden, bundle: Bundle) -> None:
    part = Scorer(bundle.model, CATALOGUE, CATALOGUE.ids[4:], scorer_of(bundle).vectors[4:])
    with pytest.raises(StateError, match="Request 1: the index lacks 4 of its 30 candidates"):
        replay(golden, part, THREE)


def test_scores_that_are_no_numbers_are_noticed(golden: Golden, bundle: Bundle) -> None:
    vectors = scorer_of(bundle).vectors.clone()
    vectors[3] = torch.nan
    wrong = Scorer(bundle.model, CATALOGUE, CATALOGUE.ids, vectors)
    with pytest.raises(StateError, match="Request 1: 1 of its 30 scores are no finite"):
        replay(golden, wrong, THREE)


def test_items_that_were_changed_on_purpose_are_not_compared(
    golden: Golden, bundle: Bundle
) -> None:
    vectors = scorer_of(bundle).vectors.clone()
    vectors[3] = -vectors[3]
    changed = Scorer(bundle.model, CATALOGUE, CATALOGUE.ids, vectors)
    with pytest.raises(StateError, match="item 1003 scores"):
        replay(golden, changed, THREE)
    replay(golden, changed, THREE, CATALOGUE.take(np.array([3])))


def rewrite(folder: Path, change: Callable[[Arrays, dict[str, str]], object]) -> None:
    """Write other golden requests, whose checksum holds."""
    path = folder / GOLDEN
    with safe_open(path, framework="numpy") as file:
        said = dict(file.metadata())
    arrays = load_file(path)
    change(arrays, said)
    save_file(arrays, path, metadata=said)
    write_json(folder / META, read_json(folder / META) | {GOLDEN_DIGEST: digest_of(path)})


WRONG: list[tuple[str, Callable[[Arrays, dict[str, str]], object]]] = [
    ("offsets must be", lambda a, _: a.update(offsets=a["offsets"] + 1)),
    ("offsets must be", lambda a, _: a.update(offsets=a["offsets"][:-1])),
    ("no candidates", lambda a, _: a["offsets"].__setitem__(1, 0)),
    ("scores must have the shape", lambda a, _: a.update(scores=a["scores"][1:])),
    ("scores holds", lambda a, _: a.update(scores=a["scores"] * np.float32(np.nan))),
    ("tolerance holds", lambda a, _: a.update(tolerance=a["tolerance"] + np.float32(np.inf))),
    ("scores has numbers of", lambda a, _: a.update(scores=a["scores"].astype(np.float64))),
    ("weights must have", lambda a, _: a.update(weights=a["weights"][:1])),
    ("retriever_features must", lambda a, _: a.update(retriever_features=np.zeros((1, 2), "f4"))),
    ("hist_offsets must be", lambda a, _: a.update({"inputs.hist_offsets": a["offsets"]})),
    ("a packed row", lambda a, _: a.update({"inputs.blocks": a["inputs.blocks"][8:]})),
    ("inputs.time", lambda a, _: a.pop("inputs.time")),
    ("time must be int64", lambda a, _: a.update({"inputs.time": np.zeros(REQUESTS, "f4")})),
    ("queries", lambda _, said: said.clear()),
    ("1 to 1000 requests", lambda _, said: said.update(queries="[]")),
    ("a query is no text", lambda _, said: said.update(queries=json.dumps([1] * REQUESTS))),
]


@pytest.mark.parametrize(("named", "change"), WRONG, ids=[name for name, _ in WRONG])
def test_what_cannot_be_is_refused_by_its_name_and_file(
    folder: Path, named: str, change: Callable[[Arrays, dict[str, str]], object]
) -> None:
    rewrite(folder, change)
    with pytest.raises(DamagedError) as caught:
        loaded(folder)
    assert f"{folder / GOLDEN} is damaged" in str(caught.value)
    assert named in str(caught.value)
    assert "it is then downloaded again" in str(caught.value)


def test_a_file_that_is_torn_or_lost_is_refused_by_name(folder: Path) -> None:
    path = folder / GOLDEN
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedError, match=rf"{GOLDEN} is damaged: it does not match its checksum"):
        loaded(folder)
    path.unlink()
    with pytest.raises(DamagedError, match=rf"{GOLDEN} is damaged: it is missing"):
        loaded(folder)
