"""What every scorer promises, whatever it is: one contract, one suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.samples import (
    CATALOGUE,
    QUERIES,
    SCHEMA,
    SHIPPED,
    TABLE,
    arrays,
    batch,
    new_model,
    requests_of,
)
from torch.utils.flop_counter import FlopCounterMode

from interactrank.features.batch import RequestArrays
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.features.text import normalise, ragged, tokens
from interactrank.model.architectures import build
from interactrank.model.config import ModelConfig
from interactrank.model.cost import cost
from interactrank.model.interactrank import InteractRank
from interactrank.model.inttower import IntTower, IntTowerConfig
from interactrank.training.trainer import TrainConfig
from prerank.evaluation.baselines import linear, trees
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.samples import owners
from prerank.evaluation.baselines.simple import Bm25Ranker, ColumnRanker, LastTouchedRanker
from prerank.evaluation.baselines.suite import NEURAL, load_ranker
from prerank.registry.bundle import save_bundle

Make = Callable[[Path], Ranker]
TITLES = ["red shoe", "blue canvas bag", "winter boots", "red bag", "shoe shoe red"] * 6
SMALL_TREES = {"objective": "lambdarank", "min_data_in_leaf": 3, "num_leaves": 6, "verbosity": -1}


def train_features() -> tuple[RequestArrays, NDArray[np.float32]]:
    source = arrays(5)
    return source, trees.features(source, CATALOGUE, TABLE.rows(source.candidates))


def booster() -> lightgbm.Booster:
    source, x = train_features()
    data = lightgbm.Dataset(
        x,
        source.labels & 1,
        group=np.diff(source.offsets),
        feature_name=trees.feature_names(SCHEMA),
    )
    return lightgbm.train(SMALL_TREES, data, 12)


def save_trees(folder: Path) -> Ranker:
    trees.save(folder, SCHEMA, CATALOGUE, booster())
    return load_ranker("trees", folder)


def save_linear(folder: Path) -> Ranker:
    linear.save(folder, SCHEMA, weights())
    return load_ranker("linear", folder)


def weights() -> NDArray[np.float32]:
    return np.random.default_rng(2).normal(size=len(SCHEMA.cross)).astype(np.float32)


def config_of(name: str) -> ModelConfig:
    if name == "interactrank":
        return SHIPPED
    return NEURAL[name].configs(SHIPPED, TrainConfig())[0]


def saver(name: str) -> Make:
    def save(folder: Path) -> Ranker:
        save_bundle(folder, new_model(config_of(name)), CATALOGUE, {})
        return load_ranker(name, folder)

    return save


def save_bm25(folder: Path) -> Ranker:
    Bm25Ranker.fit(CATALOGUE, TITLES).save(folder / "bm25")
    return Bm25Ranker.load(CATALOGUE, folder / "bm25")


NETWORKS = ("interactrank", *NEURAL)
SCORERS: dict[str, Make] = {
    "popularity": lambda _: ColumnRanker("popularity", SCHEMA, "a:engage:all"),
    "iqp": lambda _: ColumnRanker("iqp", SCHEMA, "q:engage:all"),
    "bm25": save_bm25,
    "last_touched": lambda _: LastTouchedRanker(SCHEMA),
    "linear": save_linear,
    "trees": save_trees,
    **{name: saver(name) for name in NETWORKS},
}


@pytest.fixture(params=SCORERS, scope="module")
def scorer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    return SCORERS[request.param](tmp_path_factory.mktemp(request.param))


def close(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=1e-5))


def test_it_answers_to_the_name_it_is_asked_for(
    scorer: Ranker, request: pytest.FixtureRequest
) -> None:
    assert scorer.name == request.node.callspec.params["scorer"]
    scores = scorer.score(arrays(), QUERIES)
    assert scores.shape == arrays().candidates.shape
    assert scores.dtype == np.float32
    assert scores.std() > 0


def test_permuting_candidates_permutes_scores(scorer: Ranker) -> None:
    source = arrays()
    whole = scorer.score(source, QUERIES)
    rng = np.random.default_rng(4)
    order = np.lexsort((rng.random(len(whole)), owners(source)))
    permuted = replace(source, candidates=source.candidates[order], x=source.x[order])
    assert (order != np.arange(len(order))).any()
    assert close(scorer.score(permuted, QUERIES), whole[order])


def test_batch_mates_and_other_candidates_do_not_matter(scorer: Ranker) -> None:
    source = arrays()
    whole = scorer.score(source, QUERIES)
    for b in range(len(source)):
        alone = scorer.score(requests_of(source, [b]), [QUERIES[b]])
        assert close(alone, whole[source.offsets[b] : source.offsets[b + 1]])
    first = requests_of(source, [0])
    one = replace(
        first,
        candidates=first.candidates[:1],
        x=first.x[:1],
        labels=first.labels[:1],
        weights=first.weights[:1],
        log_q=first.log_q[:1],
        offsets=np.array([0, 1]),
    )
    assert close(scorer.score(one, QUERIES[:1]), whole[:1])


def test_labels_weights_and_log_q_are_not_looked_at(scorer: Ranker) -> None:
    source = arrays()
    changed = replace(
        source, labels=3 - source.labels, weights=source.weights + 1, log_q=source.log_q - 2
    )
    base = scorer.score(source, QUERIES)
    assert np.array_equal(scorer.score(changed, QUERIES), base)
    unlabelled = replace(source, labels=source.labels * 0)
    assert np.array_equal(scorer.score(unlabelled, QUERIES), base)


def test_scores_are_finite_where_nothing_is_known(scorer: Ranker) -> None:
    source = arrays()
    text, text_offsets = ragged(["nobody ever asked this"] * len(source))
    none = np.zeros(0, np.int64)
    unknown = replace(
        source,
        text=text,
        text_offsets=text_offsets,
        hist_items=none,
        hist_actions=none,
        hist_times=none,
        hist_offsets=np.zeros(len(source) + 1, np.int64),
        candidates=np.arange(90_000, 90_000 + len(source.candidates)),
        request=np.full_like(source.request, np.nan),
        x=np.zeros_like(source.x),
        labels=source.labels * 0,
        top_items=none,
        top_items_counts=none.astype(np.float32),
        top_items_offsets=np.zeros(len(source) + 1, np.int64),
    )
    scores = scorer.score(unknown, ["nobody ever asked this"] * len(source))
    assert np.isfinite(scores).all()
    empty = requests_of(source, [1])
    assert not len(empty.hist_items)
    assert np.isfinite(scorer.score(empty, [QUERIES[1]])).all()


def test_a_request_without_candidates_has_no_scores(scorer: Ranker) -> None:
    first = requests_of(arrays(), [0])
    bare = replace(
        first,
        candidates=first.candidates[:0],
        x=first.x[:0],
        labels=first.labels[:0],
        weights=first.weights[:0],
        log_q=first.log_q[:0],
        offsets=np.zeros(2, np.int64),
    )
    assert scorer.score(bare, QUERIES[:1]).shape == (0,)


def test_cost_of_a_column_is_its_read() -> None:
    ranker = ColumnRanker("iqp", SCHEMA, "q:engage:all")
    assert (ranker.flops, ranker.bytes) == (1.0, np.dtype(np.float32).itemsize)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_scores_as_before(name: str, tmp_path: Path) -> None:
    loaded = SCORERS[name](tmp_path).score(arrays(), QUERIES)
    with torch.no_grad():
        fresh = new_model(config_of(name))(batch(arrays())).logits[:, 0].numpy()
    assert np.array_equal(loaded, fresh)


def test_saved_weights_and_trees_score_as_before(tmp_path: Path) -> None:
    source, x = train_features()
    loaded = save_linear(tmp_path / "linear").score(source, QUERIES)
    np.testing.assert_allclose(loaded, source.x @ weights(), atol=1e-5)
    kept = save_trees(tmp_path / "trees").score(source, QUERIES)
    np.testing.assert_allclose(kept, booster().predict(x), atol=1e-5)
    assert not list(tmp_path.glob("**/*.pkl"))


@pytest.mark.parametrize("name", NETWORKS)
def test_requests_move_no_item_vector_and_candidates_no_query_vector(name: str) -> None:
    model, source = new_model(config_of(name)), arrays()
    _, queries, items = model.match(batch(source))
    rolled = replace(source, candidates=np.roll(source.candidates, 5), x=source.x * 3)
    assert torch.equal(model.match(batch(rolled))[1], queries)
    request = np.random.default_rng(9).normal(size=source.request.shape).astype(np.float32)
    other = replace(
        source,
        text=np.roll(source.text, 3),
        request=request,
        hist_items=source.hist_items[::-1].copy(),
    )
    _, changed, same = model.match(batch(other))
    assert torch.equal(same, items)
    assert not torch.allclose(changed, queries, atol=1e-3)


ONE_HEAD = FeatureSchema(("click",), (), ("engagement",), ("price", "rating"))


def counted(function: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("cross", [True, False])
def test_cost_of_a_dot_and_its_fusion_is_what_torch_counts(cross: bool, hidden: int) -> None:
    model = build(ModelConfig(cross=cross, fusion_hidden=hidden), ONE_HEAD, CATALOGUE)
    coefficients = model.fusion.coefficients(torch.zeros(1, len(REQUEST_NUMERIC)))

    def flops(n: int) -> float:
        queries, items = torch.randn(n, 1, model.config.width), torch.randn(n, model.config.width)
        x, of = torch.rand(n, len(ONE_HEAD.cross)), torch.zeros(n, dtype=torch.int64)
        dot = counted(lambda: torch.einsum("nhd,nd->nh", queries, items))
        return dot + counted(lambda: model.fusion.cross_score(x, coefficients, of))

    declared, _ = cost(model)
    # What is done once per request is no cost of a candidate.
    assert declared == (flops(20) - flops(10)) / 10


def test_seven_cross_features_cost_what_the_paper_says() -> None:
    model = InteractRank(replace(SHIPPED, fusion_hidden=0), SCHEMA, CATALOGUE)
    model.fusion.crosses = 7
    assert cost(model) == (142.0, 2 * 64 + 4 * 7)


def test_cost_of_early_interaction_is_what_torch_counts() -> None:
    config = IntTowerConfig()
    model = build(config, ONE_HEAD, CATALOGUE)
    assert isinstance(model, IntTower)
    heads, width, layers, n = config.interaction_heads, config.interaction_width, 3, 10
    queries, items = torch.randn(n, layers, heads, width), torch.randn(n, heads, width)
    assert cost(model) == (counted(lambda: model.interact(queries, items)) / n, 2 * heads * width)


def test_early_interaction_is_the_best_pair_of_each_layer_and_part() -> None:
    torch.manual_seed(1)
    config = IntTowerConfig(interaction_heads=2, interaction_width=3)
    model = build(config, ONE_HEAD, CATALOGUE)
    assert isinstance(model, IntTower)
    queries, items = torch.randn(4, 3, 2, 3), torch.randn(4, 2, 3)
    best = [
        [
            max(float(queries[n, layer, m] @ items[n, k]) for k in range(2))
            for layer in range(3)
            for m in range(2)
        ]
        for n in range(4)
    ]
    assert torch.allclose(model.interact(queries, items), model.mlp(torch.tensor(best)), atol=1e-5)


def test_early_interaction_refuses_cross_features() -> None:
    with pytest.raises(ValueError, match="cross: false"):
        IntTowerConfig(cross=True)


def test_cost_of_the_linear_model_is_what_torch_counts(tmp_path: Path) -> None:
    w, x = torch.from_numpy(weights())[:, None], torch.from_numpy(arrays().x)
    ranker = save_linear(tmp_path)
    assert ranker.flops == counted(lambda: x @ w) / len(x)


def test_cost_of_the_trees_is_the_mean_path(tmp_path: Path) -> None:
    """Walk every training row down every tree, node by node."""
    _, x = train_features()
    visited = 0
    info = booster().dump_model()["tree_info"]
    for tree in info:
        for row in x:
            node = tree["tree_structure"]
            while "split_index" in node:
                visited += 1
                value = row[node["split_feature"]]
                left = node["default_left"] if np.isnan(value) else value <= node["threshold"]
                node = node["left_child"] if left else node["right_child"]
    ranker = save_trees(tmp_path)
    assert ranker.flops == pytest.approx(visited / len(x) + len(info))
    assert ranker.bytes > ranker.flops


def test_bm25_is_the_same_from_its_files(tmp_path: Path) -> None:
    fitted, loaded = Bm25Ranker.fit(CATALOGUE, TITLES), save_bm25(tmp_path)
    scores = fitted.score(arrays(), QUERIES)
    assert scores.any()
    np.testing.assert_array_equal(loaded.score(arrays(), QUERIES), scores)
    assert (loaded.flops, loaded.bytes) == (fitted.flops, fitted.bytes)


def test_bm25_of_titles_without_a_word_scores_nothing(tmp_path: Path) -> None:
    Bm25Ranker.fit(CATALOGUE, [""] * len(CATALOGUE)).save(tmp_path / "bm25")
    ranker = Bm25Ranker.load(CATALOGUE, tmp_path / "bm25")
    assert not ranker.score(arrays(), QUERIES).any()
    assert ranker.flops == 1.0


def test_cost_of_bm25_is_its_postings() -> None:
    words = [set(tokens(normalise(t))) for t in TITLES]
    additions = sum(len(a & b) for a in words for b in words) / len(words) ** 2
    assert Bm25Ranker.fit(CATALOGUE, TITLES).flops == pytest.approx(1 + additions)
