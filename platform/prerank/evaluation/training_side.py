"""The training side of requests: their features, and the model's forward pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from interactrank.features.batch import collate, item_inputs
from interactrank.features.inputs import FeatureInputs
from prerank.dataset.candidates import Candidates
from prerank.dataset.examples import request_arrays
from prerank.evaluation.live import Sent
from prerank.registry.bundle import Bundle
from prerank.registry.index import known_at
from prerank.serving.fields import weights_of

Expected = dict[str, Any]
"""Of one request: ``ids`` [n], ``x`` [n, X] and its ``names``; ``cross_score``, ``dot`` and
``score`` [n];
``request`` statistics [R]; the fusion's ``scale``; ``slope``, how much the head weights with
the calibration in them stretch a head's parts."""


BY_CANDIDATE = ("ids", "x", "cross_score", "dot", "score")
"""Parts of ``Expected`` that have a row for each candidate."""


def training_side(
    bundle: Bundle,
    queries: list[str],
    inputs: FeatureInputs,
    sent: Sequence[Sent],
    items_as_of_us: int | None = None,
) -> list[Expected]:
    """Features and scores of requests, as training computes them, with the default head weights.

    Args:
        bundle: the model version.
        queries: normalised, of B requests.
        inputs: of the B requests.
        sent: candidates of each request, and what the caller gave of them.
        items_as_of_us: when the items are looked at; None for the time of each request.
    """
    schema, model, table = bundle.schema, bundle.model, bundle.catalogue.table()
    ids = [own for own, _ in sent]
    said = [own for _, own in sent if own is not None and own.shape[1]]
    lengths = np.array([len(i) for i in ids], np.int64)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    n = int(offsets[-1])
    candidates = Candidates(
        np.concatenate(ids),
        offsets,
        np.zeros(n, np.int64),
        np.ones(n, np.float32),
        np.zeros(n, np.float32),
        np.zeros(len(ids), np.int64),
        np.concatenate(said) if said else None,
    )
    arrays = request_arrays(schema, queries, inputs, candidates, bundle.catalogue, table)
    weights = torch.from_numpy(weights_of(None, schema))
    with torch.inference_mode():
        batch = collate(arrays, bundle.catalogue, table, len(schema.heads))
        if items_as_of_us is not None:
            rows = batch.items["rows"].numpy()
            since = known_at(bundle.catalogue, len(rows), items_as_of_us)
            batch = batch.replace(items=item_inputs(bundle.catalogue, rows, *since))
        output = model(batch)
        scores = (output.logits @ weights).numpy()
        folded, of = model.fusion.fold(weights), batch.candidate_request
        coefficients = model.fusion.coefficients(batch.request)
        cross_scores = (folded.cross * model.fusion.cross_score(batch.x, coefficients, of)).numpy()
        scale, slope = coefficients.scale.numpy(), float(folded.heads.abs().sum())
        dots = (scores - cross_scores - float(folded.constant)) / scale[of.numpy()]
    return [
        {
            "names": schema.cross,
            "ids": arrays.candidates[low:high],
            "x": arrays.x[low:high],
            "cross_score": cross_scores[low:high],
            "dot": dots[low:high],
            "score": scores[low:high],
            "request": arrays.request[b],
            "scale": float(scale[b]),
            "slope": slope,
        }
        for b, (low, high) in enumerate(pairwise(offsets))
    ]
