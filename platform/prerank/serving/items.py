"""``GET /v1/items/{id}``: what a deployment knows of an item."""

from __future__ import annotations

from typing import Any

import numpy as np

from prerank.core.ids import JSON_SAFE
from prerank.core.times import iso
from prerank.serving.answer import Loaded
from prerank.serving.candidates import item_key
from prerank.serving.fields import RequestError, shown


def item_of(id: str, loaded: Loaded) -> dict[str, Any]:
    """Whether the index holds an item, whether the model was trained with it, when it was created.

    Args:
        id: the item's id in its text form.
        loaded: the version that is served.

    Raises:
        RequestError: 400 for what can be no id of this log, 404 for an item that neither the
            index nor the model's catalogue holds.
    """
    ids, scorer = loaded.limits.ids, loaded.scorer
    key = item_key(id, "id", ids)
    one = np.array([key], np.int64)
    at, row = int(scorer.table.rows(one)[0]), int(scorer.rows.rows(one)[0])
    if at < 0 and row < 0:
        raise RequestError(
            "id",
            f"{shown(id)} is no item that model version {loaded.wanted.version} knows: items enter "
            "with the catalogue that a model is trained on, or by `prerank add-items`",
            404,
        )
    created = int(scorer.created[at] if at >= 0 else scorer.catalogue.created[row])
    as_number = ids.kind == "integer" and abs(key) <= JSON_SAFE
    return {
        "id": key if as_number else id,
        "indexed": at >= 0,
        # Row 0 of the model is the unknown item.
        "trained": row >= 0 and bool(scorer.model.trained[row + 1]),
        "created": iso(created) if created else None,
        "model_version": loaded.wanted.version.number,
    }
