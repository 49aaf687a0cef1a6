"""``POST /v1/rerank``: a ranking in the shape that callers of rerankers know.

Cohere and Jina gave this shape to the reranking of texts; search engines and libraries speak it.
Here a document stands for an item: it is the item's id, or an object that holds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.serving.candidates import candidates_of, first_appearances, not_too_many
from prerank.serving.experiment import TOLD
from prerank.serving.fields import Limits, RequestError, flag_of, json_object, name_of, shown
from prerank.serving.request import COMMON_FIELDS, PrerankRequest, common_of, opened

USER_HEADER = "X-User-Id"
ANONYMOUS = ""
"""User of a request that names none: neither a log nor an event can name them, so nothing is ever
in their history."""

IGNORED = frozenset(
    (
        "model",
        "max_chunks_per_doc",
        "max_tokens_per_doc",
        "rank_fields",
        "priority",
        "truncation",
        "input_type",
        "return_embeddings",
    )
)
"""What clients send to rerankers of text; it has no meaning for items."""

_FIELDS = COMMON_FIELDS | IGNORED | {"documents", "top_n", "return_documents"}
_LEAST = int(np.finfo(np.float32).tiny.view(np.int32))
_UNRANKED = 0.0
"""Relevance of an item without a score; that of every other item lies above it."""


@dataclass(frozen=True)
class Rerank:
    """A request to rerank, and how its answer is told.

    Attributes:
        request: the ranking that is asked for.
        places: key of an item -> where it stands in the caller's list.
        documents: the caller's list, where it is to be returned.
        top_n: results to return.
    """

    request: PrerankRequest
    places: Mapping[int, list[int]]
    documents: list[Any] | None
    top_n: int

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, from the ``body`` of that to ``request``.

        Every document has a place: a client may expect as many results as it sent documents. An
        item that stands in the list several times has each of its places, with one score. Items
        without a score come last.
        """
        keys = self.request.keys
        key_of = dict(zip(self.request.shown(keys), keys.tolist(), strict=True))
        scores = np.array([item["score"] for item in body["items"]], np.float32)
        told = {item["id"] for item in body["items"]}
        ranked = [
            *zip((item["id"] for item in body["items"]), relevance(scores).tolist(), strict=True),
            # Of a shard of the index that did not answer.
            *((id, _UNRANKED) for id in key_of if id not in told),
        ]
        results = [(at, score) for id, score in ranked for at in self.places[key_of[id]]]
        return {
            "id": body["request_id"],
            "results": [self._result(at, score) for at, score in results[: self.top_n]],
            "meta": {
                "model_version": body["model_version"],
                "unknown": body["unknown_ids"],
                "degraded": body["degraded"],
                "snapshot_cutoff": body["snapshot_cutoff"],
                **{name: body[name] for name in TOLD if name in body},
            },
        }

    def _result(self, at: int, score: float) -> dict[str, Any]:
        result: dict[str, Any] = {"index": at, "relevance_score": score}
        if self.documents is not None:
            document = self.documents[at]
            result["document"] = document if isinstance(document, dict) else {"text": str(document)}
        return result


def relevance(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logistic function of ``scores`` float32 [n], as float32 [n] in [0, 1].

    Scores are logits, so this is the predicted probability. Near 0 and 1 the function makes equal
    what was not; a score below another one is therefore moved below its relevance, to the next
    float32 where need be. Callers often keep scores as float32.

    Args:
        scores: best first; those that are no finite numbers come last, and are worth 0.
    """
    found = np.full(len(scores), _UNRANKED, np.float32)
    finite = scores[np.isfinite(scores)]
    # One value per distinct score, so that equal scores stay equal.
    new = np.append(True, finite[1:] != finite[:-1])[: len(finite)]
    with np.errstate(over="ignore"):
        logistic = 1 / (1 + np.exp(-finite[new].astype(np.float64)))
    step = np.arange(len(logistic))
    # Positive floats are ordered as their bits are, and a step of the bits is the next float.
    bits = np.maximum(logistic.astype(np.float32).view(np.int32), _LEAST + step[::-1])
    strict = np.minimum.accumulate(bits + step) - step
    found[: len(finite)] = strict.astype(np.int32).view(np.float32)[np.cumsum(new) - 1]
    return found


def parse_rerank(body: bytes, user: str | None, limits: Limits, now_us: int) -> Rerank:
    """Read a request.

    Args:
        body: JSON.
        user: value of the header X-User-Id, if there is one; the body's ``user_id`` goes first.
        limits: of the deployment.
        now_us: its clock, microseconds since 1970.

    Raises:
        RequestError: naming the field and the fix.
    """
    data = opened(json_object(body), _FIELDS)
    documents = data.get("documents")
    if not isinstance(documents, list):
        raise RequestError("documents", "send a list of item ids, or of objects with an `id`")
    not_too_many(len(documents), limits, "documents")
    ids = [_id_of(document, at) for at, document in enumerate(documents)]
    keys, originals = candidates_of(ids, limits, "documents")
    places: dict[int, list[int]] = {}
    for at, key in enumerate(keys.tolist()):
        places.setdefault(key, []).append(at)
    top_n = _top_n(data.get("top_n"), len(documents), limits)
    returned = data.get("return_documents")
    request = PrerankRequest(
        user_id=_user_of(data.get("user_id"), user),
        **common_of(data, limits, now_us),
        keys=keys[first_appearances(keys)],
        originals=originals,
        # Each item has a place at least: so many are enough. None is what a ranking cannot ask for.
        k=max(top_n, 1),
        explain=False,
        as_text=originals is None and bool(ids) and isinstance(ids[0], str),
    )
    echo = returned is not None and flag_of(returned, "return_documents")
    return Rerank(request, places, documents if echo else None, top_n)


def _id_of(document: Any, at: int) -> Any:
    """The item id of a document; what else an object holds is the caller's."""
    if not isinstance(document, dict):
        return document
    if (found := document.get("id")) is None:
        raise RequestError(
            f"documents[{at}].id",
            "missing: a document is an item's id as text, or an object with an `id`",
        )
    return found


def _top_n(value: Any, n: int, limits: Limits) -> int:
    """How many of ``n`` documents to return: all by default, as all that ask for more get."""
    if value is not None and (type(value) is not int or value < 1):
        raise RequestError("top_n", f"{shown(value)} is no positive integer")
    found = n if value is None else min(value, n)
    if found > limits.max_k:
        raise RequestError(
            "top_n", f"{found} results; a request gets at most {limits.max_k} (max_k)"
        )
    return found


def _user_of(field: Any, header: str | None) -> str:
    """The user whom the body names, else the header; else nobody."""
    if field not in (None, ""):
        return name_of(field, "user_id")
    if not header:
        return ANONYMOUS
    try:
        # The bytes of a header are shown to us as Latin-1.
        return name_of(header.encode("latin-1").decode(), USER_HEADER)
    except UnicodeDecodeError:
        raise RequestError(USER_HEADER, "is no UTF-8") from None
