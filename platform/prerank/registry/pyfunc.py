"""A model version behind MLflow's pyfunc interface: scores of requests whose features are given.

``mlflow.pyfunc.load_model("models:/prerank@champion")``, ``mlflow models serve`` and
``mlflow.models.evaluate`` use it. A row is a request; the online store is not asked, so a row
brings its feature inputs (``inputs_text``), as the golden requests of a version hold them. Scores
are those of ``Scorer``, over item vectors that are made here as those of the index are. It is for
looking at a version; callers ask the deployment.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interactrank.features.inputs import FeatureInputs, check_inputs
from interactrank.features.schema import FeatureSchema
from interactrank.model.scorer import Scorer
from prerank.core.errors import DataError
from prerank.registry.bundle import Bundle, load_bundle
from prerank.registry.golden import Golden
from prerank.registry.index import encode
from prerank.registry.stored_inputs import from_bytes, to_bytes

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

QUERY, CANDIDATES, INPUTS, GIVEN = "query", "candidates", "inputs", "given"
ITEMS, SCORES = "items", "scores"
AS_OF = "last_us"
"""Of a bundle's meta data: the end of the log, as of which its index was built first."""


class LoadedModel:
    """A bundle behind MLflow's pyfunc interface."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Rank the candidates of requests, by the first head.

        Args:
            data: a row per request: ``query`` (text, normalised), ``candidates`` (distinct item
                ids), ``inputs`` (``inputs_text``), and for a model that reads them ``given``, R
                numbers for each candidate, null or NaN for none.
            params: none are known.

        Returns:
            A row per request: ``items``, best first, and their ``scores``.

        Raises:
            DataError: a column is missing, or a row cannot be read; names both.
        """
        frame = pd.DataFrame(data)
        wanted = columns_of(self.bundle.schema)
        if missing := [name for name in wanted if name not in frame.columns]:
            raise DataError(f"the column `{missing[0]}` is missing; the columns are {wanted}.")
        rows = [self._row(row, n) for n, row in enumerate(frame[wanted].to_dict("records"), 1)]
        scorer = self._scorer(rows)
        weights = np.eye(1, len(self.bundle.schema.heads), dtype=np.float32)[0]
        ranked = []
        for query, inputs, candidates, given in rows:
            found = scorer.score(query, inputs, candidates, weights, given)
            order = found.top(len(candidates))
            ranked.append((candidates[order].tolist(), found.scores[order].astype(float).tolist()))
        return pd.DataFrame(ranked, columns=[ITEMS, SCORES], index=frame.index)

    def _row(self, row: dict[Any, Any], n: int) -> Row:
        schema, column = self.bundle.schema, CANDIDATES
        try:
            candidates = np.asarray(row[CANDIDATES], np.int64)
            if candidates.ndim != 1 or len(np.unique(candidates)) != candidates.size:
                raise ValueError("they must be distinct ids")
            column = INPUTS
            inputs = from_bytes(base64.b64decode(row[INPUTS], validate=True))
            check_inputs(schema, inputs)
            if len(inputs.time) != 1:
                raise ValueError(f"they are of {len(inputs.time)} requests, 1 expected")
            column, given = GIVEN, None
            if schema.given:
                given = np.array([list(own) for own in row[GIVEN]], np.float32)
                if given.shape != (candidates.size, len(schema.given)):
                    raise ValueError(
                        f"{candidates.size} candidates need {len(schema.given)} numbers each "
                        f"({', '.join(schema.given)}), found {given.shape}"
                    )
        except (ValueError, TypeError) as error:
            raise DataError(f"row {n}, `{column}`: {error}.") from None
        return str(row[QUERY]), inputs, candidates, given

    def _scorer(self, rows: Sequence[Row]) -> Scorer:
        """The model over those candidates of the rows that its catalogue has."""
        bundle, catalogue = self.bundle, self.bundle.catalogue
        asked = np.unique(np.concatenate([np.zeros(0, np.int64), *(own for _, _, own, _ in rows)]))
        places = catalogue.table().rows(asked)
        places = places[places >= 0]
        # Without the log's end, a version of an earlier release: as of the latest request.
        latest = max((int(inputs.time[0]) for _, inputs, _, _ in rows), default=0)
        vectors = encode(bundle, catalogue, places, int(bundle.meta.get(AS_OF, latest)))
        created = catalogue.created_at(places)
        return Scorer(bundle.model, catalogue, catalogue.ids[places], vectors, created)


Row = tuple[str, FeatureInputs, NDArray[np.int64], NDArray[np.float32] | None]


def columns_of(schema: FeatureSchema) -> list[str]:
    """The columns of a request."""
    return [QUERY, CANDIDATES, INPUTS] + [GIVEN] * bool(schema.given)


def inputs_text(inputs: FeatureInputs, b: int, candidates: NDArray[np.int64]) -> str:
    """Request ``b`` of ``inputs`` as a row's ``inputs``: safetensors in base 64.

    Text, since MLflow writes what it evaluates as JSON.
    """
    return base64.b64encode(to_bytes(inputs, b, candidates)).decode()


def frame_of(golden: Golden, schema: FeatureSchema, requests: int | None = None) -> pd.DataFrame:
    """The first golden requests as ``predict`` takes them."""
    rows = []
    for b in range(len(golden) if requests is None else min(requests, len(golden))):
        own = slice(golden.offsets[b], golden.offsets[b + 1])
        ids = golden.candidates[own]
        row = [golden.queries[b], ids.tolist(), inputs_text(golden.inputs, b, ids)]
        # Null and not NaN, which JSON has not.
        given = golden.retriever_features[own].astype(object)
        given[np.isnan(golden.retriever_features[own])] = None
        rows.append(row + [given.tolist()] * bool(schema.given))
    return pd.DataFrame(rows, columns=columns_of(schema))


def signature_of(schema: FeatureSchema) -> ModelSignature:
    """What MLflow says of the columns that go in and come out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    kinds: dict[str, Any] = {
        QUERY: DataType.string,
        CANDIDATES: Array(DataType.long),
        INPUTS: DataType.string,
        GIVEN: Array(Array(DataType.double)),
    }
    out: dict[str, Any] = {ITEMS: Array(DataType.long), SCORES: Array(DataType.double)}
    return ModelSignature(
        Schema([ColSpec(kinds[name], name) for name in columns_of(schema)]),
        Schema([ColSpec(kind, name) for name, kind in out.items()]),
    )


def _load_pyfunc(path: str) -> LoadedModel:
    """Called by MLflow with the data folder."""
    return LoadedModel(load_bundle(Path(path)))
