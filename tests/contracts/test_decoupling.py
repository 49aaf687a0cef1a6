"""Invariants 2 and 3 for every neural model: towers apart, and a score of its own request only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from tests.samples import (
    CATALOGUE,
    HOUR,
    N_ITEMS,
    NOW,
    arrays,
    batch,
    catalogue,
    close,
    item_vectors,
    requests_of,
)

from interactrank.features.schema import HISTORY_LENGTH
from interactrank.model.interactrank import InteractRank


def test_vectors_are_unit_and_logits_differ(neural: InteractRank) -> None:
    output = neural(batch(arrays()))
    assert output.logits.shape == (46, 2)
    assert close(output.queries.norm(dim=-1), torch.ones(5, 2))
    assert close(output.items.norm(dim=-1), torch.ones(len(output.items)))
    assert output.logits.isfinite().all()
    assert output.logits.std() > 0.1


def test_candidates_and_labels_move_no_query_vector(neural: InteractRank) -> None:
    source = arrays()
    base = neural(batch(source)).queries
    n = len(source.candidates)
    rng = np.random.default_rng(8)
    others = {
        "candidates": replace(source, candidates=np.roll(source.candidates, 5)),
        "x": replace(source, x=rng.normal(size=source.x.shape).astype(np.float32) * 9),
        "labels": replace(
            source, labels=3 - source.labels, weights=source.weights * 7, log_q=source.log_q - 4
        ),
        "none": replace(
            source,
            candidates=source.candidates[:0],
            x=source.x[:0],
            offsets=np.zeros(6, np.int64),
            labels=source.labels[:0],
            weights=source.weights[:0],
            log_q=source.log_q[:0],
        ),
    }
    assert n > 0
    for name, changed in others.items():
        assert torch.equal(neural(batch(changed)).queries, base), name


def test_item_attributes_move_no_query_vector_and_do_move_items(neural: InteractRank) -> None:
    other = catalogue(
        titles=["other words"] * N_ITEMS,
        categories=["z"] * N_ITEMS,
        numeric=np.ones((N_ITEMS, 2), np.float32),
        created=np.zeros(N_ITEMS, np.int64),
    )
    base, changed = neural(batch(arrays())), neural(batch(arrays(), other))
    assert torch.equal(base.queries, changed.queries)
    assert not close(item_vectors(neural, CATALOGUE), item_vectors(neural, other), 1e-2)


def test_an_embedding_moves_its_item_from_its_time_on(neural: InteractRank) -> None:
    late = catalogue(embedding_from=NOW + 2 * HOUR)
    never = catalogue(embedding=np.full((N_ITEMS, 3), np.nan, np.float32))
    source = arrays()
    with_, without = (neural(batch(source, of)).logits for of in (CATALOGUE, never))
    mixed = neural(batch(source, late)).logits
    # Requests stand an hour apart from NOW on, so the third is the first that knows it.
    known = source.offsets[2]
    assert close(mixed[:known], without[:known])
    assert close(mixed[known:], with_[known:])
    assert not close(with_[:known], without[:known], 1e-3)


def test_another_context_moves_the_query_vector(neural: InteractRank) -> None:
    source = arrays()
    base = neural(batch(source)).queries
    moved = replace(source, segments=source.segments + np.array([[0, 1]]))
    assert not close(neural(batch(moved)).queries, base, 1e-4)


def test_a_request_and_its_labels_move_no_item_vector(neural: InteractRank) -> None:
    source = arrays()
    rng = np.random.default_rng(9)
    other = replace(
        source,
        text=np.roll(source.text, 3),
        hist_items=source.hist_items[::-1].copy(),
        request=rng.normal(size=source.request.shape).astype(np.float32),
        labels=3 - source.labels,
        weights=source.weights + 1,
        x=source.x * 2,
    )
    base, changed = neural(batch(source)), neural(batch(other))
    assert torch.equal(base.items, changed.items)
    assert not close(base.queries, changed.queries, 1e-3)


def test_labels_move_no_logit(neural: InteractRank) -> None:
    source = arrays()
    changed = replace(source, labels=3 - source.labels, weights=source.weights * 3)
    assert torch.equal(neural(batch(source)).logits, neural(batch(changed)).logits)


def test_alone_and_in_a_batch_score_the_same(neural: InteractRank) -> None:
    source = arrays()
    whole = neural(batch(source)).logits
    for b in range(len(source)):
        alone = neural(batch(requests_of(source, [b]))).logits
        assert close(alone, whole[source.offsets[b] : source.offsets[b + 1]])
    order = [3, 1, 4]
    some = neural(batch(requests_of(source, order))).logits
    expected = [whole[source.offsets[b] : source.offsets[b + 1]] for b in order]
    assert close(some, torch.cat(expected))


def test_permuting_candidates_permutes_scores(neural: InteractRank) -> None:
    source = arrays()
    whole = neural(batch(source)).logits
    rng = np.random.default_rng(4)
    order = np.concatenate(
        [
            rng.permutation(np.arange(lo, hi))
            for lo, hi in zip(source.offsets[:-1], source.offsets[1:], strict=True)
        ]
    )
    permuted = replace(source, candidates=source.candidates[order], x=source.x[order])
    assert close(neural(batch(permuted)).logits, whole[order])


def test_padding_content_does_not_matter(neural: InteractRank) -> None:
    source = batch(arrays())
    off = ~source.hist_mask
    assert off[1].all()
    dirty = source.replace(
        hist_items=source.hist_items.masked_fill(off, 17),
        hist_actions=source.hist_actions.masked_fill(off, 2),
        hist_hours=source.hist_hours.masked_fill(off, 123.0),
    )
    assert torch.equal(neural(source).queries, neural(dirty).queries)


def test_only_the_last_engagements_count(neural: InteractRank) -> None:
    source = requests_of(arrays(), [2])
    last = {
        f: getattr(source, f)[-HISTORY_LENGTH:]
        for f in ("hist_items", "hist_actions", "hist_times")
    }
    short = replace(source, **last, hist_offsets=np.array([0, HISTORY_LENGTH]))
    assert torch.equal(neural(batch(source)).queries, neural(batch(short)).queries)
    hist = batch(source).hist_hours[0]
    assert (hist[1:] >= hist[:-1]).all()


def test_no_history_at_all_is_finite(neural: InteractRank) -> None:
    source = requests_of(arrays(), [1])
    assert not len(source.hist_items)
    assert neural(batch(source)).logits.isfinite().all()
