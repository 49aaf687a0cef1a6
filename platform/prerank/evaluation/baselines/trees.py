"""Gradient-boosted trees (LightGBM's LambdaMART) on all features: the costly upper reference.

It sees x, the request's statistics and the item's numbers, but no vector of a trained model. On
logs without impressions its candidates were sampled, and LightGBM knows nothing of log Q: left
alone, the sampler's hard negatives decide. A sampled negative is therefore weighted by Q^-p. p is
chosen on validation and the trees are stopped there, by the estimate of the whole catalogue's MRR
(``prerank.evaluation.baselines.samples.expected_mrr``). On MovieLens tags (validation, 5,000
training requests, one seed) p = .5 gave .350, 1 gave .349 and 0 gave .331; the listwise loss's
way, log Q added to the score in training (LightGBM's ``init_score``), did worse than nothing.
p = 0 is no choice: with 20,000 requests it can tie on validation (.3542, .3541 for .5) and be far
worse later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from prerank.core.home import Home
from prerank.dataset.catalogue import load_catalogue
from prerank.evaluation.baselines.ranker import Parts
from prerank.evaluation.baselines.samples import (
    LOG_Q_POWERS,
    Read,
    expected_mrr,
    owners,
    stored,
)
from prerank.registry.bundle import CATALOGUE, read_meta, write_meta

REQUESTS = 20_000
PARAMETERS = {
    "objective": "lambdarank",
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 200,
    "metric": "None",
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
    "num_threads": 1,
}
ROUNDS, PATIENCE = 200, 20
TREES = "trees.txt"
NODE_BYTES, VALUE_BYTES = 16, 4
"""A node visited: feature, threshold and child; and the feature's value."""


def features(
    arrays: RequestArrays, catalogue: Catalogue, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Features of N candidates, [N, F]: x, request statistics, item numbers (NaN: unknown item)."""
    numeric = catalogue.numeric[np.maximum(rows, 0)]
    numeric = np.where(rows[:, None] >= 0, numeric, np.float32("nan"))
    return np.hstack((arrays.x, arrays.request[owners(arrays)], numeric))


def columns(schema: FeatureSchema) -> tuple[str, ...]:
    """Names of ``features``' columns."""
    return (*schema.cross, *REQUEST_NUMERIC, *(f"item:{n}" for n in schema.item_numeric))


def feature_names(schema: FeatureSchema) -> list[str]:
    """``columns``, as LightGBM takes them: no ":"."""
    return [n.replace(":", "_") for n in columns(schema)]


def boosted(
    power: float,
    sets: Sequence[tuple[RequestArrays, NDArray[np.float32]]],
    names: list[str],
    seed: int,
    **parameters: Any,
) -> tuple[Any, float]:
    """A booster and its MRR on validation.

    Args:
        power: p; a sampled negative is weighted by Q^-p.
        sets: training and validation requests, each with its ``features``.
        names: ``feature_names``.
        seed: of LightGBM.
        parameters: LightGBM's, beyond or in place of PARAMETERS.
    """
    import lightgbm

    (train, x), (validation, vx) = sets
    weight = np.exp(-power * train.log_q.astype(np.float64)) if power else None
    fitted = lightgbm.Dataset(
        x,
        (train.labels & 1).astype(np.float32),
        weight=weight,
        group=np.diff(train.offsets),
        feature_name=names,
    )
    checked = lightgbm.Dataset(
        vx,
        (validation.labels & 1).astype(np.float32),
        reference=fitted,
        group=np.diff(validation.offsets),
    )
    booster = lightgbm.train(
        {**PARAMETERS, **parameters, "seed": seed},
        fitted,
        ROUNDS,
        valid_sets=[checked],
        feval=lambda score, _: ("mrr", expected_mrr(score, validation), True),
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    return booster, float(booster.best_score["valid_0"]["mrr"])


def fit(
    home: Home, schema: FeatureSchema, folder: Path, seed: int, read: Read = stored
) -> list[dict[str, Any]]:
    """Fit on stored examples, choose p on validation, save as LightGBM's text.

    Returns:
        One entry for each trial: ``log_q_power``, ``trees``, ``validation_mrr``.
    """
    catalogue = load_catalogue(home)
    table, sets = catalogue.table(), []
    for split in ("train", "validation"):
        arrays = read(home, schema, split, REQUESTS, seed)
        sets.append((arrays, features(arrays, catalogue, table.rows(arrays.candidates))))
    trials: list[dict[str, Any]] = []
    best, kept = -1.0, None
    for power in LOG_Q_POWERS if sets[0][0].log_q.any() else (0.0,):
        booster, mrr = boosted(power, sets, feature_names(schema), seed)
        trials.append(
            {"log_q_power": power, "trees": booster.best_iteration, "validation_mrr": mrr}
        )
        if kept is None or mrr > best:
            best, kept = mrr, booster
    assert kept is not None
    save(folder, schema, catalogue, kept)
    return trials


def save(folder: Path, schema: FeatureSchema, catalogue: Catalogue, booster: Any) -> None:
    """Write what ``TreesRanker`` reads: LightGBM's text model up to its best round."""
    write_meta(folder, schema, {"architecture": "trees"})
    booster.save_model(str(folder / TREES), num_iteration=booster.best_iteration)
    catalogue.save(folder / CATALOGUE)


def visits(booster: Any) -> float:
    """Mean nodes visited for a candidate: over the trees, path lengths weighted by training rows.

    A tree's mean path is the sum over its inner nodes of the share of rows that pass them.
    """
    total = 0.0
    for tree in booster.dump_model()["tree_info"]:
        root = tree["tree_structure"]
        waiting = [root]
        while waiting:
            node = waiting.pop()
            if "split_index" in node:
                total += node["internal_count"] / root["internal_count"]
                waiting += [node["left_child"], node["right_child"]]
    return total


class TreesRanker:
    """The saved trees. One comparison a node visited and one addition a tree."""

    def __init__(self, name: str, folder: Path) -> None:
        import lightgbm

        self.schema, _ = read_meta(folder)
        self.name = name
        self.booster = lightgbm.Booster(model_file=str(folder / TREES))
        self.catalogue = Catalogue.load(folder / CATALOGUE)
        self.table = self.catalogue.table()
        trees, nodes = self.booster.num_trees(), visits(self.booster)
        self.flops = nodes + trees
        self.bytes = (NODE_BYTES + VALUE_BYTES) * nodes + VALUE_BYTES * trees

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Sum of the trees."""
        if not len(arrays.candidates):
            return np.zeros(0, np.float32)
        raw = self._predicted(self._features(arrays))
        return raw.astype(np.float32)

    def parts(self, arrays: RequestArrays) -> Parts:
        """SHAP values, as LightGBM computes them of trees; the base is the mean of training."""
        x = self._features(arrays)
        found = self._predicted(x, pred_contrib=True)
        return Parts(columns(self.schema), x, found[:, :-1], float(found[0, -1]))

    def _features(self, arrays: RequestArrays) -> NDArray[np.float32]:
        return features(arrays, self.catalogue, self.table.rows(arrays.candidates))

    def _predicted(self, x: NDArray[np.float32], **how: Any) -> NDArray[np.float64]:
        return cast("NDArray[np.float64]", self.booster.predict(x, num_threads=1, **how))
