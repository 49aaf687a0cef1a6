"""A log small enough to look at, for the examples in the docstrings of this package."""

from __future__ import annotations

import numpy as np

from interactrank.features.batch import Batch, RequestArrays, collate
from interactrank.features.catalogue import Catalogue
from interactrank.features.inputs import HOUR_US
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.features.text import ragged


def example() -> tuple[FeatureSchema, Catalogue, Batch]:
    """Three items with prices, and two requests with two candidates each.

    The first request's user engaged items 10 and 12 before; nothing is known of the second's.
    """
    schema = FeatureSchema(("view", "click"), ("view",), ("engagement",), ("price",))
    catalogue = Catalogue.build(
        ids=np.array([10, 11, 12]),
        titles=["red shoe", "blue shoe", "canvas bag"],
        categories=["shoes", "shoes", ""],
        numeric=np.array([[49.0], [59.0], [np.nan]], np.float32),
        created=np.zeros(3, np.int64),
    )
    hours = (1_000_000 + np.array([0, 1, 30, 31])) * np.int64(HOUR_US)
    text, text_offsets = ragged(["shoe", "bag"])
    arrays = RequestArrays(
        time=hours[2:],
        text=text,
        text_offsets=text_offsets,
        hist_items=np.array([12, 10]),
        hist_actions=np.array([0, 1]),
        hist_times=hours[:2],
        hist_offsets=np.array([0, 2, 2]),
        top_items=np.array([10, 11]),
        top_items_counts=np.array([3, 1], np.float32),
        top_items_offsets=np.array([0, 2, 2]),
        request=np.zeros((2, len(REQUEST_NUMERIC)), np.float32),
        candidates=np.array([10, 11, 12, 11]),
        offsets=np.array([0, 2, 4]),
        x=np.zeros((4, len(schema.cross)), np.float32),
        labels=np.array([1, 0, 1, 0]),
    )
    return schema, catalogue, collate(arrays, catalogue, catalogue.table(), len(schema.heads))
