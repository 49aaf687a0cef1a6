"""The examples in the docstrings of the model package run, and every layer and model has one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest
from torch import nn

import interactrank.model

MODULES = [
    importlib.import_module(f"interactrank.model.{m.name}")
    for m in pkgutil.iter_modules(interactrank.model.__path__)
]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rsplit(".", 1)[1])
def test_examples_give_what_they_show(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_every_layer_and_model_has_an_example() -> None:
    own = {
        value
        for module in MODULES
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }
    named = {c for c in own if c.__module__.startswith("interactrank.model.")}
    assert {c.__name__ for c in named} >= {"InteractRank", "QueryTower", "ItemTower", "Fusion"}
    assert {c.__name__ for c in named if ">>> " not in (c.__doc__ or "")} == set()
