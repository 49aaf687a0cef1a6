"""Untrained models of every configuration; contract tests differentiate where they say so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.samples import BASELINES, VARIANTS, new_model

from interactrank.model.interactrank import InteractRank


@pytest.fixture(params=VARIANTS, scope="module")
def model(request: pytest.FixtureRequest) -> InteractRank:
    """InteractRank, with parts left out."""
    return new_model(VARIANTS[request.param])


@pytest.fixture(params=[*VARIANTS, *BASELINES], scope="module")
def neural(request: pytest.FixtureRequest) -> InteractRank:
    """InteractRank and the baselines of another architecture."""
    return new_model((VARIANTS | BASELINES)[request.param])


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
