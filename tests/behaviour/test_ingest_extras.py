"""Optional inputs of a log: pre-computed item embeddings, and what the retriever said."""

from __future__ import annotations

from typing import Any

import numpy as np

from prerank.dataset.candidates import shown_candidates
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.requests import read_requests

Case = Any
"""The class of that name in conftest.py, which a test module cannot import."""

VECTORS = [[1.0, 2.0], None, [3.0, float("nan")], [5.0, float("inf")], [], [7, 8], [9, 10]]


def test_embeddings_are_kept_and_bad_ones_set_aside(case: Case) -> None:
    listed = case.items.assign(vec=VECTORS)
    report = case.ingest(case.log(), listed, items={"embedding": "vec"})
    found = [
        None if v is None else np.frombuffer(v, "<f4").tolist()
        for v in case.catalogue()["embedding"]
    ]
    assert found == [[1, 2], None, None, None, None, [7, 8], [9, 10]]
    assert report.manifest.embedding == ("vec",)
    assert "2 embeddings hold NaN or infinite" in str(report)
    bad = case.quarantine()
    assert bad["source"].tolist() == ["items.parquet:2", "items.parquet:3"]
    assert set(bad["reason"]) == {"embedding holds NaN or an infinite number"}
    catalogue = load_catalogue(case.home)
    assert catalogue.embedding.shape == (7, 2)
    assert np.isnan(catalogue.embedding).all(axis=1).tolist() == [False, *[True] * 4, *[False] * 2]
    assert report.manifest.schema.item_embedding == ("vec",)

    pairs = [v if v else [None, None] for v in VECTORS]
    several = case.items.assign(x=[p[0] for p in pairs], y=[p[1] for p in pairs])
    case.ingest(case.log(), several, items={"embedding": ["x", "y"]}, replace=True)
    again = load_catalogue(case.home).embedding
    np.testing.assert_array_equal(again[:2], catalogue.embedding[:2])
    np.testing.assert_array_equal(again[4:], catalogue.embedding[4:])


def test_another_embedding_is_another_log(case: Case) -> None:
    prints = [
        case.ingest(
            case.log(),
            case.items.assign(vec=[[1.0, x]] * 7),
            items={"embedding": "vec"},
            replace=True,
        ).manifest.fingerprint
        for x in (2.0, 3.0, 2.0)
    ]
    assert prints[0] == prints[2] != prints[1]


def test_the_retrievers_words_reach_the_candidates(case: Case) -> None:
    frame = case.log().assign(place=[float(i % 5) for i in range(40)], retriever_score=0.25)
    clicks = frame["action"] == "click"
    frame.loc[clicks, "place"] = None
    frame.loc[2:3, "retriever_score"] = None
    frame.loc[4, "retriever_score"] = float("inf")
    frame.loc[6, "place"] = 1.5
    report = case.ingest(frame, events={"retriever_rank": "place"})
    assert report.reasons == {"bad retriever_rank": 1, "retriever_score is no finite number": 1}
    manifest = report.manifest
    schema = manifest.schema
    assert schema.retriever == ("score", "rank")
    assert {"retriever:score", "retriever:log_rank", "retriever:absent"} < set(schema.given_cross)
    files = sorted(case.home.events.glob("day=*/*.parquet"))
    requests = read_requests(files, manifest)
    told = shown_candidates(requests).retriever_features
    assert told is not None
    assert told.dtype == np.float32
    found = dict(
        zip(
            requests["request_id"].to_pylist(),
            np.split(told, requests["items"].combine_chunks().offsets[1:-1]),
            strict=True,
        )
    )
    nan = float("nan")
    # By position: the item shown, then the one clicked, whose row names no rank.
    np.testing.assert_array_equal(found["r0"], np.array([[0.25, 0], [0.25, nan]], np.float32))
    np.testing.assert_array_equal(found["r1"], np.array([[nan, 2], [nan, nan]], np.float32))
    plain = case.ingest(case.log(), replace=True)
    assert plain.manifest.retriever == ()
    files = sorted(case.home.events.glob("day=*/*.parquet"))
    assert shown_candidates(read_requests(files, plain.manifest)).retriever_features is None


def test_without_impressions_the_retriever_would_tell_the_label(case: Case) -> None:
    report = case.ingest(case.log().assign(action="click", retriever_score=1.0))
    assert report.manifest.retriever == ()
    assert "the log has no impressions" in str(report)
