"""What every configuration of the model promises: decoupling, own request only, one dot."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from interactrank.batch import Batch, RequestArrays, collate, item_inputs
from interactrank.catalogue import Catalogue
from interactrank.engagement import FeatureInputs, cross_features, level_code, request_features
from interactrank.model import InteractRank, ModelConfig
from interactrank.rows import pack
from interactrank.schema import HISTORY_LENGTH, LEVELS, REQUEST_NUMERIC, FeatureSchema
from interactrank.scorer import Scored, Scorer
from interactrank.text import engagement_keys, ragged, segment_bucket, tokens
from prerank.bundle import load_bundle, save_bundle

SCHEMA = FeatureSchema(
    ("view", "click", "save"), ("view",), ("engagement", "save"), ("price", "rating"),
    segments=("country", "device"), retriever=("score", "rank"),
)  # fmt: skip
CONTEXT = {"country": "de", "device": ""}
HOUR = 3_600_000_000
NOW = 1_600_000_000_000_000
N_ITEMS = 30
UNTRAINED = 1029
"""An item of the catalogue that no training request engaged."""
# Widths as shipped: in much narrower towers a dying mask block lets LayerNorm blow rounding up.
SHIPPED = ModelConfig()
VARIANTS = {
    "default": SHIPPED,
    "no-cross": replace(SHIPPED, cross=False),
    "no-history": replace(SHIPPED, history=False),
    "two-tower": replace(SHIPPED, cross=False, history=False),
    "fusion-4": replace(SHIPPED, fusion_hidden=4),
}
QUERIES = ["red shoe", "blue canvas bag", "", "winter boots for men", "shoe"]


def catalogue(**changes: Any) -> Catalogue:
    rng = np.random.default_rng(1)
    words = ["red", "blue", "shoe", "bag", "boots", "winter", "canvas"]
    numeric = rng.random((N_ITEMS, 2)).astype(np.float32) * 50
    numeric[rng.random(numeric.shape) < 0.2] = np.nan
    born = NOW - rng.integers(1, 99, N_ITEMS) * HOUR
    embedding = rng.normal(size=(N_ITEMS, 3)).astype(np.float32) * 20
    embedding[rng.random(N_ITEMS) < 0.2] = np.nan
    values: dict[str, Any] = {
        "ids": np.arange(1000, 1000 + N_ITEMS),
        "titles": [" ".join(rng.choice(words, 3)) if i != 7 else "" for i in range(N_ITEMS)],
        "categories": [["", "a", "b"][i % 3] for i in range(N_ITEMS)],
        "numeric": numeric,
        "created": np.where(rng.random(N_ITEMS) < 0.3, 0, born),
        "embedding": embedding,
    }
    return Catalogue.build(**(values | changes))


CATALOGUE = catalogue()
TABLE = CATALOGUE.table()


def arrays(seed: int = 0) -> RequestArrays:
    rng = np.random.default_rng(seed)
    b = len(QUERIES)
    text, text_offsets = ragged(QUERIES)
    history = np.array([3, 0, 130, 1, 40])
    sizes = np.array([12, 1, 5, 20, 8])
    n, events = int(sizes.sum()), int(history.sum())
    # 2000 stands in no catalogue.
    pool = np.append(CATALOGUE.ids, 2000)
    request = rng.normal(size=(b, len(REQUEST_NUMERIC))).astype(np.float32)
    request[1, 6] = np.nan
    return RequestArrays(
        time=NOW + np.arange(b) * HOUR,
        text=text,
        text_offsets=text_offsets,
        hist_items=rng.choice(pool, events),
        hist_actions=rng.integers(0, 3, events),
        hist_times=NOW - np.sort(rng.integers(0, 3000 * HOUR, events))[::-1],
        hist_offsets=np.concatenate(([0], np.cumsum(history))),
        request=request,
        candidates=np.concatenate([rng.choice(pool, s, replace=False) for s in sizes]),
        offsets=np.concatenate(([0], np.cumsum(sizes))),
        x=rng.random((n, len(SCHEMA.cross))).astype(np.float32),
        labels=rng.integers(0, 4, n),
        weights=rng.random(n).astype(np.float32),
        log_q=-rng.random(n).astype(np.float32),
        segments=rng.integers(0, 9, (b, 2)),
    )


def requests_of(source: RequestArrays, chosen: list[int]) -> RequestArrays:
    """Some requests of a batch, in the order given."""

    def cut(values: NDArray[Any], bounds: NDArray[np.int64]) -> NDArray[Any]:
        return np.concatenate([values[bounds[b] : bounds[b + 1]] for b in chosen])

    def bounds(of: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate(([0], np.cumsum(np.diff(of)[chosen])))

    s = source
    return RequestArrays(
        time=s.time[chosen],
        text=cut(s.text, s.text_offsets),
        text_offsets=bounds(s.text_offsets),
        request=s.request[chosen],
        segments=s.segments[chosen],
        hist_offsets=bounds(s.hist_offsets),
        offsets=bounds(s.offsets),
        **{f: cut(getattr(s, f), s.hist_offsets)
           for f in ("hist_items", "hist_actions", "hist_times")},
        **{f: cut(getattr(s, f), s.offsets)
           for f in ("candidates", "x", "labels", "weights", "log_q")},
    )  # fmt: skip


def batch(source: RequestArrays, of: Catalogue = CATALOGUE) -> Batch:
    return collate(source, of, of.table(), len(SCHEMA.heads))


def new_model(config: ModelConfig, of: Catalogue = CATALOGUE) -> InteractRank:
    torch.manual_seed(3)
    model = InteractRank(config, SCHEMA, of)
    model.known[1:] = True
    model.known[UNTRAINED - 1000 + 1] = False
    model.fusion.bias.data = torch.tensor([0.3, -0.7])
    if config.cross:
        rng = torch.Generator().manual_seed(0)
        model.fusion.fit(torch.rand(100, len(SCHEMA.cross), generator=rng))
        assert model.query_tower.numeric is not None
        model.query_tower.numeric.fit(torch.randn(100, len(REQUEST_NUMERIC), generator=rng))
    return model.eval()


@pytest.fixture(params=VARIANTS, scope="module")
def model(request: pytest.FixtureRequest) -> InteractRank:
    return new_model(VARIANTS[request.param])


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def item_vectors(model: InteractRank, of: Catalogue, text: bool = True, cat: bool = True,
                 rows: NDArray[np.int64] | None = None) -> torch.Tensor:  # fmt: skip
    rows = np.arange(len(of) + 1) if rows is None else rows
    n = len(rows)
    return model.encode_items(
        item_inputs(of, rows, np.full(n, text), np.full(n, cat), np.full(n, True))
    )


def close(a: torch.Tensor, b: torch.Tensor, within: float = 1e-5) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=within)


def test_vectors_are_unit_and_logits_differ(model: InteractRank) -> None:
    output = model(batch(arrays()))
    assert output.logits.shape == (46, 2)
    assert close(output.queries.norm(dim=-1), torch.ones(5, 2))
    assert close(output.items.norm(dim=-1), torch.ones(len(output.items)))
    assert output.logits.isfinite().all()
    assert output.logits.std() > 0.1


def test_candidates_and_labels_move_no_query_vector(model: InteractRank) -> None:
    source = arrays()
    base = model(batch(source)).queries
    n = len(source.candidates)
    rng = np.random.default_rng(8)
    others = {
        "candidates": replace(source, candidates=np.roll(source.candidates, 5)),
        "x": replace(source, x=rng.normal(size=source.x.shape).astype(np.float32) * 9),
        "labels": replace(source, labels=3 - source.labels, weights=source.weights * 7,
                          log_q=source.log_q - 4),
        "none": replace(source, candidates=source.candidates[:0], x=source.x[:0],
                        offsets=np.zeros(6, np.int64), labels=source.labels[:0],
                        weights=source.weights[:0], log_q=source.log_q[:0]),
    }  # fmt: skip
    assert n > 0
    for name, changed in others.items():
        assert torch.equal(model(batch(changed)).queries, base), name


def test_item_attributes_move_no_query_vector_and_do_move_items(model: InteractRank) -> None:
    other = catalogue(
        titles=["other words"] * N_ITEMS, categories=["z"] * N_ITEMS,
        numeric=np.ones((N_ITEMS, 2), np.float32), created=np.zeros(N_ITEMS, np.int64),
    )  # fmt: skip
    base, changed = model(batch(arrays())), model(batch(arrays(), other))
    assert torch.equal(base.queries, changed.queries)
    assert not close(item_vectors(model, CATALOGUE), item_vectors(model, other), 1e-2)


def test_an_embedding_moves_its_item_from_its_time_on(model: InteractRank) -> None:
    late = catalogue(embedding_from=NOW + 2 * HOUR)
    never = catalogue(embedding=np.full((N_ITEMS, 3), np.nan, np.float32))
    source = arrays()
    with_, without = (model(batch(source, of)).logits for of in (CATALOGUE, never))
    mixed = model(batch(source, late)).logits
    # Requests stand an hour apart from NOW on, so the third is the first that knows it.
    known = source.offsets[2]
    assert close(mixed[:known], without[:known])
    assert close(mixed[known:], with_[known:])
    assert not close(with_[:known], without[:known], 1e-3)


def test_another_context_moves_the_query_vector(model: InteractRank) -> None:
    source = arrays()
    base = model(batch(source)).queries
    moved = replace(source, segments=source.segments + np.array([[0, 1]]))
    assert not close(model(batch(moved)).queries, base, 1e-4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_count_as_missing(model: InteractRank, wrong: float) -> None:
    numeric, embedding = CATALOGUE.numeric.copy(), CATALOGUE.embedding.copy()
    numeric[3:9, 0], embedding[3:9, 1] = np.nan, np.nan
    missing = replace(CATALOGUE, numeric=numeric, embedding=embedding)
    numeric, embedding = numeric.copy(), embedding.copy()
    numeric[3:9, 0], embedding[3:9, 1] = wrong, wrong
    odd = replace(CATALOGUE, numeric=numeric, embedding=embedding)
    assert torch.equal(item_vectors(model, odd), item_vectors(model, missing))
    source = arrays()
    request = source.request.copy()
    request[:, 6] = np.nan
    expected = model(batch(replace(source, request=request))).logits
    request[:, 6] = wrong
    found = model(batch(replace(source, request=request))).logits
    assert torch.equal(found, expected)
    assert found.isfinite().all()


def test_a_request_and_its_labels_move_no_item_vector(model: InteractRank) -> None:
    source = arrays()
    rng = np.random.default_rng(9)
    other = replace(
        source, text=np.roll(source.text, 3), hist_items=source.hist_items[::-1].copy(),
        request=rng.normal(size=source.request.shape).astype(np.float32),
        labels=3 - source.labels, weights=source.weights + 1, x=source.x * 2,
    )  # fmt: skip
    base, changed = model(batch(source)), model(batch(other))
    assert torch.equal(base.items, changed.items)
    assert not close(base.queries, changed.queries, 1e-3)


def test_labels_move_no_logit(model: InteractRank) -> None:
    source = arrays()
    changed = replace(source, labels=3 - source.labels, weights=source.weights * 3)
    assert torch.equal(model(batch(source)).logits, model(batch(changed)).logits)


def test_alone_and_in_a_batch_score_the_same(model: InteractRank) -> None:
    source = arrays()
    whole = model(batch(source)).logits
    for b in range(len(source)):
        alone = model(batch(requests_of(source, [b]))).logits
        assert close(alone, whole[source.offsets[b] : source.offsets[b + 1]])
    order = [3, 1, 4]
    some = model(batch(requests_of(source, order))).logits
    expected = [whole[source.offsets[b] : source.offsets[b + 1]] for b in order]
    assert close(some, torch.cat(expected))


def test_permuting_candidates_permutes_scores(model: InteractRank) -> None:
    source = arrays()
    whole = model(batch(source)).logits
    rng = np.random.default_rng(4)
    order = np.concatenate([
        rng.permutation(np.arange(lo, hi))
        for lo, hi in zip(source.offsets[:-1], source.offsets[1:], strict=True)
    ])  # fmt: skip
    permuted = replace(source, candidates=source.candidates[order], x=source.x[order])
    assert close(model(batch(permuted)).logits, whole[order])


def test_one_fused_dot_equals_the_weighted_logits(model: InteractRank) -> None:
    source = batch(arrays())
    output = model(source)
    for weights in (torch.tensor([0.3, 0.7]), torch.tensor([1.0, 0.0])):
        fused = torch.einsum("h,bhd->bd", weights, output.queries)
        candidates = output.items[source.candidate_item]
        dots = (fused[source.candidate_request] * candidates).sum(1)
        one = model.fusion.scale * dots + model.fusion.prior(source.x)
        assert close(one + weights @ model.fusion.bias, output.logits @ weights, 1e-4)


@pytest.mark.parametrize("log_scale", [-20.0, 0.0, 50.0])
def test_the_dot_never_counts_against_a_candidate(log_scale: float) -> None:
    model = new_model(SHIPPED)
    model.fusion.log_scale.data.fill_(log_scale)
    assert 0 < float(model.fusion.scale) <= 100


def test_only_x_moves_the_prior_and_only_with_cross() -> None:
    source = arrays()
    moved = replace(source, x=source.x + np.float32(1))
    for name, config in VARIANTS.items():
        model = new_model(config)
        same = close(model(batch(source)).logits, model(batch(moved)).logits)
        assert same != config.cross, name


def test_history_counts_where_it_is_on() -> None:
    source = arrays()
    moved = replace(source, hist_items=np.roll(source.hist_items, 1))
    for name, config in VARIANTS.items():
        model = new_model(config)
        base, changed = model(batch(source)).queries, model(batch(moved)).queries
        assert torch.equal(base, changed) != config.history, name
        assert torch.equal(base[1], changed[1]), name


def test_padding_content_does_not_matter(model: InteractRank) -> None:
    source = batch(arrays())
    off = ~source.hist_mask
    assert off[1].all()
    dirty = source.replace(
        hist_items=source.hist_items.masked_fill(off, 17),
        hist_actions=source.hist_actions.masked_fill(off, 2),
        hist_hours=source.hist_hours.masked_fill(off, 123.0),
    )
    assert torch.equal(model(source).queries, model(dirty).queries)


def test_wider_padding_does_not_matter() -> None:
    model, source = new_model(SHIPPED), batch(requests_of(arrays(), [0, 1]))
    wider = {
        f: torch.nn.functional.pad(getattr(source, f), (0, 50))
        for f in ("hist_items", "hist_actions", "hist_hours", "hist_mask")
    }
    assert wider["hist_mask"].shape[1] <= HISTORY_LENGTH
    assert close(model(source).queries, model(source.replace(**wider)).queries)


def test_only_the_last_engagements_count(model: InteractRank) -> None:
    source = requests_of(arrays(), [2])
    last = {f: getattr(source, f)[-HISTORY_LENGTH:]
            for f in ("hist_items", "hist_actions", "hist_times")}  # fmt: skip
    short = replace(source, **last, hist_offsets=np.array([0, HISTORY_LENGTH]))
    assert torch.equal(model(batch(source)).queries, model(batch(short)).queries)
    hist = batch(source).hist_hours[0]
    assert (hist[1:] >= hist[:-1]).all()


def test_no_history_at_all_is_finite(model: InteractRank) -> None:
    source = requests_of(arrays(), [1])
    assert not len(source.hist_items)
    assert model(batch(source)).logits.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30, 1e30])
def test_missing_and_absurd_numbers_stay_finite(model: InteractRank, value: float) -> None:
    source = arrays()
    absurd = catalogue(numeric=np.full((N_ITEMS, 2), value, np.float32))
    full = replace(source, request=np.full_like(source.request, value))
    assert model(batch(full, absurd)).logits.isfinite().all()


def test_missing_is_not_the_mean() -> None:
    model = new_model(SHIPPED)
    assert model.query_tower.numeric is not None
    mean = model.query_tower.numeric.mean.repeat(5, 1)
    missing = torch.full_like(mean, float("nan"))
    source = batch(arrays())
    assert not close(
        model(source.replace(request=mean)).queries, model(source.replace(request=missing)).queries
    )


def test_training_on_missing_numbers_gives_finite_gradients() -> None:
    with torch.enable_grad():
        model = new_model(SHIPPED).train()
        source = arrays()
        model(
            batch(replace(source, request=np.full_like(source.request, np.nan)))
        ).logits.sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


def test_a_request_that_says_nothing_does_not_drown_the_others(model: InteractRank) -> None:
    source = requests_of(arrays(), [0, 1, 2])
    silent = replace(
        source, hist_items=source.hist_items[:3], hist_actions=source.hist_actions[:3],
        hist_times=source.hist_times[:3], hist_offsets=np.array([0, 3, 3, 3]),
    )  # fmt: skip
    assert QUERIES[2] == ""
    with torch.enable_grad():
        output = model(batch(silent))
        last = list(model.query_tower.parameters())[-1]
        (gradient,) = torch.autograd.grad(output.logits.square().sum(), last)
    assert close(output.queries.detach().norm(dim=-1), torch.ones(3, 2))
    assert float(gradient.norm()) < 1e5


def with_id_embedding(model: InteractRank, row: int, value: float) -> InteractRank:
    changed = InteractRank(model.config, model.schema, CATALOGUE)
    changed.load_state_dict(model.state_dict())
    changed.ids.weight.data[row] = value
    return changed.eval()


def test_an_untrained_id_takes_the_unknown_embedding(model: InteractRank) -> None:
    row = UNTRAINED - 1000 + 1
    base = item_vectors(model, CATALOGUE)
    own = item_vectors(with_id_embedding(model, row, 5.0), CATALOGUE)
    assert torch.equal(base, own)
    moved = (item_vectors(with_id_embedding(model, 0, 5.0), CATALOGUE) - base).abs().amax(1) > 1e-4
    assert moved.nonzero().flatten().tolist() == [0, row]
    trained = (item_vectors(with_id_embedding(model, 4, 5.0), CATALOGUE) - base).abs().amax(1)
    assert (trained > 1e-4).nonzero().flatten().tolist() == [4]


def test_untrained_items_in_a_history_are_unknown_ones() -> None:
    model = new_model(SHIPPED)
    source = requests_of(arrays(), [0])
    several = [
        model(batch(replace(source, hist_items=np.full(3, item)))).queries
        for item in (UNTRAINED, 2000, 1003)
    ]
    assert torch.equal(several[0], several[1])
    assert not close(several[0], several[2], 1e-4)


def test_an_item_of_no_catalogue_is_scored_as_unknown(model: InteractRank) -> None:
    source = replace(arrays(), candidates=np.arange(5000, 5046))
    output = model(batch(source))
    nothing = item_vectors(model, CATALOGUE, rows=np.zeros(1, np.int64))
    assert output.logits.isfinite().all()
    # One vector for each of the kinds of time a candidate is seen at.
    assert close(output.items, nothing.expand_as(output.items))


def test_text_hidden_by_time_is_no_text() -> None:
    model = new_model(SHIPPED)
    since = NOW + 2 * HOUR
    dated, bare = catalogue(text_from=since), catalogue(titles=[""] * N_ITEMS)
    source = arrays()
    seen, full, none = (model(batch(source, c)).logits for c in (dated, CATALOGUE, bare))
    early = batch(source).candidate_request < 2
    assert close(seen[early], none[early])
    assert close(seen[~early], full[~early])
    assert not close(full[early], none[early], 1e-3)
    assert close(item_vectors(model, CATALOGUE, text=False), item_vectors(model, bare))


def test_a_category_hidden_by_time_is_no_category() -> None:
    model = new_model(SHIPPED)
    model.item_tower.category.weight.data *= 50
    dated = catalogue(category_from=NOW + 2 * HOUR)
    bare = catalogue(categories=[""] * N_ITEMS)
    source = arrays()
    seen, full, none = (model(batch(source, c)).logits for c in (dated, CATALOGUE, bare))
    early = batch(source).candidate_request < 2
    assert close(seen[early], none[early])
    assert close(seen[~early], full[~early])
    assert not close(full[early], none[early], 1e-3)


def test_config_round_trip_and_unknown_keys() -> None:
    config = ModelConfig(hidden=(8, 4), fusion_hidden=3)
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert ModelConfig.from_dict({"hidden": [8, 4]}).hidden == (8, 4)
    with pytest.raises(ValueError, match="widht"):
        ModelConfig.from_dict({"widht": 3})


def test_a_saved_model_gives_identical_output(model: InteractRank, tmp_path: Path) -> None:
    save_bundle(tmp_path, model, CATALOGUE, {"note": 1})
    loaded = load_bundle(tmp_path)
    assert loaded.schema == SCHEMA
    assert loaded.meta["note"] == 1
    assert not loaded.model.training
    for f in dataclasses.fields(Catalogue):
        assert np.array_equal(getattr(loaded.catalogue, f.name), getattr(CATALOGUE, f.name),
                              equal_nan=f.name in ("numeric", "embedding"))  # fmt: skip
    base = model(batch(arrays()))
    again = loaded.model(batch(arrays(), loaded.catalogue))
    assert torch.equal(base.logits, again.logits)
    assert torch.equal(base.queries, again.queries)
    assert torch.equal(base.items, again.items)


# The scorer: the serving path of the same model.


def request_inputs(query: str, events: int, seed: int = 0) -> FeatureInputs:
    rng = np.random.default_rng(seed)
    keys = engagement_keys(query, CONTEXT)
    blocks = []
    for key in keys:
        level = LEVELS[level_code(key)]
        columns = SCHEMA.columns(level)
        ids = np.sort(rng.choice(CATALOGUE.ids, 10, replace=False))
        blocks.append(pack(ids, rng.integers(0, 9, (10, len(columns))) * 1.0, columns, level))
    sizes = np.array([len(b) for b in blocks])
    return FeatureInputs(
        time=np.array([NOW]),
        blocks=np.frombuffer(b"".join(blocks), np.uint8),
        block_start=np.cumsum(sizes) - sizes,
        block_size=sizes,
        key_block=np.arange(len(keys)),
        key_level=np.array([level_code(k) for k in keys]),
        key_offsets=np.array([0, len(keys)]),
        hist_items=rng.choice(CATALOGUE.ids, events),
        hist_actions=rng.integers(1, 3, events),
        hist_times=NOW - np.arange(events, 0, -1) * HOUR,
        hist_offsets=np.array([0, events]),
        tokens=np.array([len(tokens(query))]),
        segments=np.array([[segment_bucket(v) for v in CONTEXT.values()]]),
    )


def scorer_of(model: InteractRank) -> Scorer:
    vectors = item_vectors(model, CATALOGUE)[1:].to(torch.bfloat16)
    return Scorer(model, CATALOGUE, CATALOGUE.ids, vectors)


WEIGHTS = np.array([0.6, 0.4], np.float32)


@pytest.mark.parametrize(("query", "events"), [("red shoe", 5), ("", 0)])
def test_served_scores_are_the_models(model: InteractRank, query: str, events: int) -> None:
    inputs = request_inputs(query, events)
    candidates = CATALOGUE.ids[::-1][:20].copy()
    text, text_offsets = ragged([query])
    created = CATALOGUE.created[TABLE.rows(candidates)]
    offsets = np.array([0, len(candidates)])
    told = np.random.default_rng(3).random((20, 2)).astype(np.float32)
    told[::3] = np.nan
    source = RequestArrays(
        time=inputs.time, text=text, text_offsets=text_offsets, hist_items=inputs.hist_items,
        hist_actions=inputs.hist_actions, hist_times=inputs.hist_times,
        hist_offsets=inputs.hist_offsets, request=request_features(SCHEMA, inputs),
        candidates=candidates, offsets=offsets,
        x=cross_features(SCHEMA, inputs, candidates, offsets, created, told),
        labels=np.zeros(20, np.int64), segments=inputs.segments,
    )  # fmt: skip
    scale = float(model.fusion.scale)
    expected = model(batch(source)).logits @ torch.from_numpy(WEIGHTS)
    scored = scorer_of(model).score(query, inputs, candidates, WEIGHTS, told)
    # An unknown candidate in front must not shift what was said of the others.
    shifted = scorer_of(model).score(
        query, inputs, np.append(77, candidates), WEIGHTS, np.vstack(([[9, 9]], told))
    )
    np.testing.assert_allclose(shifted.priors, scored.priors, atol=1e-5)
    assert scored.ids.tolist() == candidates.tolist()
    # Within 2e-2 of the dot, which bf16 rounds; g(x) and the bias are exact.
    assert np.abs(scored.scores - expected.numpy()).max() <= 2e-2 * scale
    assert np.abs(scored.dots).max() <= 1.01
    parts = scale * scored.dots + scored.priors + WEIGHTS @ model.fusion.bias.numpy()
    np.testing.assert_allclose(scored.scores, parts, atol=1e-5)


def test_a_served_score_depends_on_its_candidate_only(model: InteractRank) -> None:
    scorer, inputs = scorer_of(model), request_inputs("red shoe", 5)
    whole = scorer.score("red shoe", inputs, CATALOGUE.ids, WEIGHTS)
    order = np.random.default_rng(0).permutation(N_ITEMS)
    permuted = scorer.score("red shoe", inputs, CATALOGUE.ids[order], WEIGHTS)
    within = 2e-2 * float(model.fusion.scale)
    assert np.abs(permuted.scores - whole.scores[order]).max() <= within
    for i in (0, 13, N_ITEMS - 1):
        alone = scorer.score("red shoe", inputs, CATALOGUE.ids[i : i + 1], WEIGHTS)
        assert abs(alone.scores[0] - whole.scores[i]) <= within
        assert alone.priors[0] == pytest.approx(whole.priors[i], abs=1e-5)


def test_unknown_and_no_candidates_are_answered(model: InteractRank) -> None:
    scorer, inputs = scorer_of(model), request_inputs("red shoe", 5)
    scored = scorer.score("red shoe", inputs, np.array([77, 1003, -5, 1001]), WEIGHTS)
    assert scored.ids.tolist() == [1003, 1001]
    assert scored.unknown.tolist() == [77, -5]
    for nothing in (np.array([77]), np.zeros(0, np.int64)):
        empty = scorer.score("red shoe", inputs, nothing, WEIGHTS)
        assert len(empty.scores) == len(empty.ids) == 0
        assert len(empty.top(10)) == 0


def scored_as(ids: list[int], scores: list[float]) -> Scored:
    values = np.array(scores, np.float32)
    return Scored(np.array(ids), values, values, values, np.zeros(0, np.int64))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6, 50])
def test_top_is_a_stable_sort_with_ties_by_id(k: int) -> None:
    ids, scores = [5, 3, 9, 1, 7, 2], [1.0, 2.0, 2.0, 1.0, 1.0, 0.5]
    expected = sorted(range(6), key=lambda i: (-scores[i], ids[i]))[:k]
    assert scored_as(ids, scores).top(k).tolist() == expected


def test_top_of_many_ties() -> None:
    rng = np.random.default_rng(0)
    ids, scores = rng.permutation(500).tolist(), rng.integers(0, 5, 500).astype(float).tolist()
    expected = sorted(range(500), key=lambda i: (-scores[i], ids[i]))
    for k in (1, 99, 100, 250, 499, 500, 501):
        assert scored_as(ids, scores).top(k).tolist() == expected[:k]
