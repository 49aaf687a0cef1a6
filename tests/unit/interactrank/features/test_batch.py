"""Random negatives join a batch's items, and nothing but the sampled softmax sees them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.samples import BASELINES, CATALOGUE, HOUR, NOW, SHIPPED, arrays, catalogue, new_model

from interactrank.features.batch import Batch, RequestArrays, collate
from interactrank.features.catalogue import Catalogue
from interactrank.training.losses import sampled_softmax_loss

N_OF = len(CATALOGUE)
# arrays() has a request an hour, from NOW on: what starts at +2 h is known to the later ones only.
TIMED = catalogue(text_from=NOW + 2 * HOUR, category_from=NOW + 9 * HOUR)


def collated(
    source: RequestArrays, negatives: list[int] | None, of: Catalogue = CATALOGUE
) -> Batch:
    at = None if negatives is None else np.array(negatives, np.int64)
    return collate(source, of, of.table(), 2, at)


def inputs_of(batch: Batch, which: NDArray[np.int64]) -> list[tuple[object, ...]]:
    """What the item tower reads of items ``which``, comparable across batches."""
    items = {k: v.numpy() for k, v in batch.items.items()}
    ends = np.append(items["offsets"][1:], len(items["text"]))
    return [
        (
            int(items["rows"][i]),
            items["text"][items["offsets"][i] : ends[i]].tobytes(),
            *(items[k][i].tobytes() for k in ("category", "numeric", "embedding")),
        )
        for i in which
    ]


def test_negatives_join_the_items_and_leave_the_candidates_alone() -> None:
    source = replace(arrays(), candidates=np.full(46, 1004))
    alone, joined = collated(source, None), collated(source, [0, 3, 29, 3])
    assert alone.items["rows"].tolist() == [5]
    assert joined.items["rows"].tolist() == [1, 4, 5, 30]
    assert joined.candidate_item.tolist() == [2] * 46
    for name in ("x", "labels", "weights", "log_q", "candidate_request", "hist_items", "text"):
        assert torch.equal(getattr(alone, name), getattr(joined, name)), name


@pytest.mark.parametrize("of", [CATALOGUE, TIMED], ids=["timeless", "timed"])
def test_no_candidate_points_at_a_negative(of: Catalogue) -> None:
    source = arrays()
    alone, joined = (collated(source, n, of) for n in (None, list(range(N_OF))))
    for batch in (alone, joined):
        assert batch.candidate_item.shape == (46,)
    assert inputs_of(alone, alone.candidate_item.numpy()) == inputs_of(
        joined, joined.candidate_item.numpy()
    )
    assert set(joined.items["rows"].tolist()) >= set(range(1, N_OF + 1))


def test_a_negative_that_is_a_candidate_too_stands_once() -> None:
    source = arrays()
    alone = collated(source, None)
    rows = alone.items["rows"]
    again = [r - 1 for r in rows.tolist() if r]
    joined = collated(source, again + again)
    assert torch.equal(joined.items["rows"], rows)
    assert torch.equal(joined.candidate_item, alone.candidate_item)


def test_negatives_are_as_of_the_batchs_latest_request() -> None:
    source = arrays()
    negatives = list(range(N_OF))
    timeless = collated(source, negatives)
    latest = inputs_of(timeless, np.arange(len(timeless.items["rows"])))
    text_of = {row: text for row, text, *_ in latest}
    joined = collated(source, negatives, TIMED)
    pointed = set(joined.candidate_item.tolist())
    at = [i for i in range(len(joined.items["rows"])) if i not in pointed]
    assert len(at) > 3
    for row, text, category, *_ in inputs_of(joined, np.array(at)):
        assert text == text_of[row], "the text is known by the last request"
        assert category == np.int64(0).tobytes(), "the category is known to no request yet"
    early = replace(source, time=source.time - 3 * HOUR)
    assert not len(collated(early, negatives, TIMED).items["text"])


def test_no_requests_have_negatives_all_the_same() -> None:
    none = np.zeros(0, np.int64)
    empty = replace(
        arrays(),
        time=none,
        text_offsets=np.zeros(1, np.int64),
        candidates=none,
        offsets=np.zeros(1, np.int64),
        x=np.zeros((0, 3), np.float32),
        labels=none,
        hist_items=none,
        hist_offsets=np.zeros(1, np.int64),
        top_items=none,
        top_items_counts=none.astype(np.float32),
        top_items_offsets=np.zeros(1, np.int64),
        request=np.zeros((0, 7), np.float32),
        segments=np.zeros((0, 2), np.int64),
    )
    assert collated(empty, [2, 5]).items["rows"].tolist() == [3, 6]


@pytest.mark.parametrize("config", [SHIPPED, *BASELINES.values()], ids=["default", *BASELINES])
def test_negatives_move_no_logit_and_only_the_sampled_softmax(config: object) -> None:
    model = new_model(config)  # type: ignore[arg-type]
    source = replace(arrays(), candidates=CATALOGUE.ids[np.arange(46) % 4])
    alone, joined = collated(source, None), collated(source, list(range(N_OF)))
    with torch.no_grad():
        outputs = [model(b) for b in (alone, joined)]
        torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(outputs[0].queries, outputs[1].queries)
        assert len(outputs[1].items) == N_OF
        scale = torch.full((5,), 10.0)
        few, many = (
            sampled_softmax_loss(o, b, scale, torch.zeros(len(o.items)), 0)
            for o, b in zip(outputs, (alone, joined), strict=True)
        )
    assert many > few + 0.5, "more items to be told from the engaged one"
