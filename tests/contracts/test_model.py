"""What configurations of the model promise of their parts, missing input, and saving."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.samples import (
    CATALOGUE,
    HOUR,
    N_ITEMS,
    NOW,
    QUERIES,
    SCHEMA,
    SHIPPED,
    UNTRAINED,
    VARIANTS,
    arrays,
    batch,
    catalogue,
    close,
    item_vectors,
    new_model,
    requests_of,
)

from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import HISTORY_LENGTH
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.registry.bundle import load_bundle, save_bundle


def test_one_fused_dot_equals_the_weighted_logits(model: InteractRank) -> None:
    source = batch(arrays())
    output = model(source)
    fusion, of = model.fusion, source.candidate_request
    request = fusion.coefficients(source.request)
    for weights in (torch.tensor([0.3, 0.7]), torch.tensor([1.0, 0.0])):
        folded = fusion.fold(weights)
        fused = torch.einsum("h,bhd->bd", folded.heads, output.queries)
        dots = (fused[of] * output.items[source.candidate_item]).sum(1)
        cross_score = folded.cross * fusion.cross_score(source.x, request, of)
        one = request.scale[of] * dots + cross_score + folded.constant
        assert close(one, output.logits @ weights, 1e-4)


@pytest.mark.parametrize("raw_scale", [-20.0, 0.0, 50.0])
def test_the_dot_never_counts_against_a_candidate(raw_scale: float) -> None:
    model, source = new_model(SHIPPED), batch(arrays())
    model.fusion.raw_scale.data.fill_(raw_scale)
    scale = model.fusion.coefficients(source.request).scale
    assert (scale > 0).all()
    assert (scale <= 100).all()


def test_a_request_moves_its_own_weights_only_where_they_are_gated() -> None:
    source = batch(arrays())
    other = source.request.clone()
    other[0] += 1.0
    for name, config in VARIANTS.items():
        fusion = new_model(config).fusion
        before, after = fusion.coefficients(source.request), fusion.coefficients(other)
        gated = config.cross and config.gated
        assert (not torch.equal(before.scale[0], after.scale[0])) == gated, name
        assert (not torch.equal(before.weights[0], after.weights[0])) == gated, name
        assert torch.equal(before.scale[1:], after.scale[1:]), name
        assert torch.equal(before.weights[1:], after.weights[1:]), name


def test_top_items_items_count_where_they_are_on() -> None:
    source = arrays()
    moved = replace(source, top_items=np.roll(source.top_items, 1))
    for name, config in VARIANTS.items():
        model = new_model(config)
        base, changed = model(batch(source)).queries, model(batch(moved)).queries
        on = config.cross and config.top_items
        assert torch.equal(base, changed) != on, name
        assert torch.equal(base[2], changed[2]), name


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


def test_wider_padding_does_not_matter() -> None:
    model, source = new_model(SHIPPED), batch(requests_of(arrays(), [0, 1]))
    wider = {
        f: torch.nn.functional.pad(getattr(source, f), (0, 50))
        for f in ("hist_items", "hist_actions", "hist_hours", "hist_mask")
    }
    assert wider["hist_mask"].shape[1] <= HISTORY_LENGTH
    assert close(model(source).queries, model(source.replace(**wider)).queries)


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


def test_a_request_that_says_nothing_does_not_drown_the_others(model: InteractRank) -> None:
    source = requests_of(arrays(), [0, 1, 2])
    silent = replace(
        source,
        hist_items=source.hist_items[:3],
        hist_actions=source.hist_actions[:3],
        hist_times=source.hist_times[:3],
        hist_offsets=np.array([0, 3, 3, 3]),
    )
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
    rising = ModelConfig(rising=("user:count",), falling=("item:log_age_days",))
    assert ModelConfig.from_dict({**rising.to_dict(), "rising": ["user:count"]}) == rising


def test_a_feature_with_a_direction_exists_and_has_one() -> None:
    with pytest.raises(ValueError, match=r"rising and falling both name \['user:count'\]"):
        ModelConfig(rising=("user:count",), falling=("user:count",))
    wrong = ModelConfig(falling=("candidate:prize",))
    with pytest.raises(ValueError, match=r"model.falling: unknown \['candidate:prize'\]"):
        InteractRank(wrong, SCHEMA, CATALOGUE)
    right = replace(wrong, falling=(SCHEMA.cross[2],))
    signs = InteractRank(right, SCHEMA, CATALOGUE).fusion.signs
    assert signs.nonzero().tolist() == [[2]]
    assert signs[2] == -1


def test_a_saved_model_gives_identical_output(model: InteractRank, tmp_path: Path) -> None:
    save_bundle(tmp_path, model, CATALOGUE, {"note": 1})
    loaded = load_bundle(tmp_path)
    assert loaded.schema == SCHEMA
    assert loaded.meta["note"] == 1
    assert not loaded.model.training
    for f in dataclasses.fields(Catalogue):
        assert np.array_equal(
            getattr(loaded.catalogue, f.name),
            getattr(CATALOGUE, f.name),
            equal_nan=f.name in ("numeric", "embedding"),
        )
    base = model(batch(arrays()))
    again = loaded.model(batch(arrays(), loaded.catalogue))
    assert torch.equal(base.logits, again.logits)
    assert torch.equal(base.queries, again.queries)
    assert torch.equal(base.items, again.items)
