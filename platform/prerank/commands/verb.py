"""What a verb of the command line is made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prerank.summaries import Summary

SEEDS = {
    "default": 1,
    "help": "trainings of each model, whose means are shown; the best on validation is registered "
    "(default: 1)",
}
"""Of ``--seeds``, where a version comes of it."""


@dataclass(frozen=True)
class Verb:
    """What ``--help`` tells of a verb, the function that it calls, and the names of its options.

    ``changed`` is what the verb says otherwise of an option than ``prerank.commands.arguments``.
    """

    name: str
    function: Callable[[argparse.Namespace], Summary | None]
    purpose: str
    example: str
    then: str
    options: tuple[str, ...]
    changed: Mapping[str, dict[str, Any]]


def verb(
    name: str,
    function: Callable[[argparse.Namespace], Summary | None],
    purpose: str,
    example: str,
    then: str,
    *options: str,
    **changed: dict[str, Any],
) -> Verb:
    """A verb, its options one after the other."""
    return Verb(name, function, purpose, example, then, options, changed)
