"""Random negatives join a batch's items, and nothing but the sampled softmax sees them."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.samples import (
    BASELINES,
    CATALOGUE,
    HOUR,
    NOW,
    SHIPPED,
    arrays,
    catalogue,
    new_model,
    requests_of,
)

from interactrank.features.batch import Batch, RequestArrays, collate
from interactrank.features.catalogue import Catalogue
from interactrank.training.sampled_softmax import sampled_softmax_loss

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


@pytest.mark.parametrize("of", [CATALOGUE, TIMED], ids=["timeless", "timed"])
def test_a_batch_is_a_plain_reading_of_its_requests(of: Catalogue) -> None:
    source, rows = arrays(), {int(i): at + 1 for at, i in enumerate(of.ids)}
    found = collated(source, None, of)
    inputs = inputs_of(found, found.candidate_item.numpy())
    labels = found.labels.tolist()
    for b in range(len(source)):
        now = source.time[b]
        past = range(source.hist_offsets[b + 1] - 1, source.hist_offsets[b] - 1, -1)[:100]
        mask = found.hist_mask[b].tolist()
        assert mask == [True] * len(past) + [False] * (100 - len(past))
        for at, e in enumerate(past):
            assert found.hist_items[b, at] == rows.get(int(source.hist_items[e]), 0)
            assert found.hist_actions[b, at] == source.hist_actions[e]
            assert found.hist_hours[b, at] == np.float32((now - source.hist_times[e]) / HOUR)
        for padded in (found.hist_items, found.hist_actions, found.hist_hours):
            assert not padded[b, len(past) :].any()
        best = slice(source.top_items_offsets[b], source.top_items_offsets[b + 1])
        counts = source.top_items_counts[best]
        wanted = [rows.get(int(i), 0) for i in source.top_items[best]]
        assert found.top_items[b].tolist() == wanted + [0] * (20 - len(wanted))
        shares = counts / max(counts.sum(), 1)
        np.testing.assert_allclose(found.top_items_share[b, : len(wanted)], shares, rtol=1e-6)
        assert not found.top_items_share[b, len(wanted) :].any()
        for c in range(source.offsets[b], source.offsets[b + 1]):
            row = rows.get(int(source.candidates[c]), 0)
            at, real = row - 1, row > 0
            text = of.text[of.offsets[at] : of.offsets[at + 1]] if real else of.text[:0]
            text = text if now >= of.text_from[0] else of.text[:0]
            category = of.category[at] if real and now >= of.category_from[0] else np.int64(0)
            nan = np.float32("nan")
            numeric, embedding = (
                values[at] if real else np.full_like(values[0], nan)
                for values in (of.numeric, of.embedding)
            )
            expected = (text.astype(np.int64), category, numeric, embedding)
            assert inputs[c] == (row, *(part.tobytes() for part in expected))
            assert labels[c] == [float(source.labels[c] >> h & 1) for h in range(2)]
            assert found.candidate_request[c] == b


def test_an_embedding_is_known_from_its_time_on() -> None:
    source = arrays()
    late = collated(source, None, replace(CATALOGUE, embedding_from=np.array([NOW + HOUR])))
    known = late.items["embedding"][late.candidate_item].isfinite().all(1)
    always = collated(source, None)
    given = always.items["embedding"][always.candidate_item].isfinite().all(1)
    before = torch.from_numpy(source.time)[late.candidate_request] < NOW + HOUR
    assert before.any()
    assert torch.equal(known, given & ~before)


def test_equal_queries_have_one_code() -> None:
    found = collated(arrays(), None).query.tolist()
    assert len(set(found)) == len(found)
    twice = requests_of(arrays(), [2, 0, 2])
    one, other, again = collated(twice, None).query.tolist()
    assert one == again != other


def test_what_a_request_lacks_is_empty() -> None:
    bare = RequestArrays(
        *(getattr(arrays(), f.name) for f in fields(RequestArrays) if f.default_factory is MISSING)
    )
    assert bare.labels.shape == bare.weights.shape == bare.log_q.shape == (0,)
    assert bare.segments.shape == (0, 0)
    none = requests_of(arrays(), [1])
    found = collated(none, None)
    assert found.hist_items.shape == found.hist_mask.shape == (1, 1)
    assert not found.hist_mask.any()
    # Where nobody has a past, there is one column all the same, of padding.
    assert found.hist_hours.tolist() == [[0.0]]


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
        few, many = (
            sampled_softmax_loss(
                replace(o, scale=torch.full((5,), 10.0)), b, torch.zeros(len(o.items)), 0
            )
            for o, b in zip(outputs, (alone, joined), strict=True)
        )
    assert many > few + 0.5, "more items to be told from the engaged one"
