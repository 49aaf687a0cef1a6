"""Every verb of the command line, in the order of ``prerank --help``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prerank.commands import daily, forget, graph, online, stages, versions, whole
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


VERBS = (
    verb(
        "demo",
        whole.demo,
        "go the whole way on a simulated world, then deploy and ask live requests",
        "prerank demo",
        "prerank run, on your own log",
        "workdir",
        workdir={"help": "where to work (default: a temporary folder)"},
    ),
    verb(
        "run",
        whole.run,
        "go from a log to a registered, evaluated model",
        "prerank run --events log/ --items items.parquet --mapping mapping.yaml --workdir work",
        "prerank promote",
        "events",
        "items",
        "mapping",
        "config",
        "oracles",
        "seeds",
        "workdir",
        seeds=SEEDS,
        mapping={
            "help": "YAML from your columns to the canonical ones (default: what is unambiguous is "
            "assumed, and said; see prerank inspect)"
        },
    ),
    verb(
        "inspect",
        stages.inspect,
        "look at a log and its catalogue, and write a mapping of its columns",
        "prerank inspect --events log/ --items items.parquet --out mapping.yaml",
        "prerank run --mapping mapping.yaml",
        "events",
        "items",
        "out",
        out={"required": False, "help": "mapping to write (default: it is printed)"},
    ),
    verb(
        "simulate",
        stages.simulate,
        "write the log and catalogue of a simulated pin board",
        "prerank simulate --out world --preset tiny",
        "prerank run --events world/events --items world/items.parquet --workdir work",
        "out",
        "preset",
        "rows",
        "days",
        "spammers",
        "full-ranker",
        "format",
        "seed",
    ),
    verb(
        "ingest",
        stages.ingest,
        "validate and normalise a log and its catalogue, or add to the log that is there",
        "prerank ingest --events log/ --items items.parquet --mapping mapping.yaml",
        "prerank features",
        "events",
        "items",
        "mapping",
        "replace",
        "workdir",
    ),
    verb(
        "features",
        stages.features,
        "build the feature tables: engagement rows and user histories",
        "prerank features",
        "prerank training-set, for training; prerank materialise, for serving",
        "config",
        "restate",
        "workdir",
    ),
    verb(
        "graph",
        graph.graph,
        "list the snapshots of the item graph, or an item's neighbours in the last one",
        "prerank graph --item 42",
        "prerank embed, for what is alike without having been found together",
        "export",
        "item",
        "workdir",
        item={
            "help": "id of an item, whose neighbours are printed with their weights as parts of "
            "the nearest one's (default: snapshots with items, edges and bytes)"
        },
    ),
    verb(
        "embed",
        graph.embed,
        "print the items that are most like an item, a query's top items or a user's last ones",
        'prerank embed --query "red shoe"',
        "prerank graph --item, for what the same users, queries and words led to",
        "item",
        "query",
        "register",
        "user",
        "workdir",
        item={"help": "id of an item (default: none)"},
        user={"help": "id of a user of the log (default: none)"},
    ),
    verb(
        "materialise",
        stages.materialise,
        "bring the features into the online store, from which requests are served",
        "prerank materialise",
        "prerank train, or prerank promote where a model is trained",
        "until",
        "workdir",
    ),
    verb(
        "update",
        daily.update,
        "do a day's work: add new events and items, bring features and index up to date",
        "prerank update --events log/day=2026-11-26",
        "prerank training-set and prerank train, when it is time for a new model",
        "events",
        "items",
        "mapping",
        "served",
        "through",
        "config",
        "workdir",
        events={
            "required": False,
            "help": "Parquet file or folder of the new events (default: --served)",
        },
        items={"required": False, "help": "new and changed items (default: none are)"},
        mapping={"help": "YAML of the columns (default: the mapping by which the log was read)"},
    ),
    verb(
        "users",
        daily.users,
        "say how much what some users do counts, from a time on",
        "prerank users --flag flags.csv",
        "prerank features, or prerank update, which counts by it from its next snapshot on",
        "flag",
        "workdir",
    ),
    verb(
        "training-set",
        stages.training_set,
        "write training examples with the features as of each request's time",
        "prerank training-set",
        "prerank train",
        "workdir",
    ),
    verb(
        "train",
        stages.train,
        "train the model and its baselines, evaluate, register as challenger, index",
        "prerank train --config job.yaml",
        "prerank promote",
        "config",
        "oracles",
        "seeds",
        "workdir",
        seeds=SEEDS,
    ),
    verb(
        "evaluate",
        versions.evaluate,
        "measure a registered version and the baselines, print all tables, write the report",
        "prerank evaluate --version 3",
        "prerank ablate, or prerank promote",
        "version",
        "split",
        "oracles",
        "workdir",
    ),
    verb(
        "ablate",
        versions.ablate,
        "train the model without one part at a time, and measure what is lost",
        "prerank ablate --seeds 3",
        "prerank evaluate, whose report shows the ablations too",
        "config",
        "only",
        "seeds",
        "split",
        "workdir",
        split={"default": "validation"},
    ),
    verb(
        "curve",
        versions.learning_curve,
        "train on a fiftieth of the requests to all, beside linear model and trees",
        "prerank curve --seeds 3",
        "prerank evaluate, whose report shows the curve too",
        "config",
        "seeds",
        "split",
        "workdir",
        split={"default": "validation"},
    ),
    verb(
        "index",
        versions.index,
        "encode the catalogue with a registered version, and what was added to it",
        "prerank index --version 3",
        "prerank promote",
        "version",
        "workdir",
    ),
    verb(
        "add-items",
        versions.add_items,
        "let live replicas score items that joined the catalogue or changed, within seconds",
        "prerank add-items --items new_items.parquet",
        "prerank index, when many were added; prerank ingest, for the next training",
        "items",
        "version",
        "workdir",
        version={"help": "model version (default: the champion)"},
    ),
    verb(
        "promote",
        versions.promote,
        "make a version the champion, after checking that it can be served",
        "prerank promote --version 3",
        "serve deploy deployments/prerank.yaml, unless it is deployed",
        "version",
        "workdir",
    ),
    verb(
        "export",
        versions.export,
        "write the item index for a search engine that scores by itself",
        "prerank export --vespa items.jsonl",
        "vespa feed items.jsonl, see examples/integrations/vespa",
        "vespa",
        "version",
        "workdir",
        version={"help": "model version (default: the champion)"},
    ),
    verb(
        "parity",
        versions.parity,
        "compare a live deployment's features and scores with the offline ones",
        "prerank parity --url http://127.0.0.1:8000",
        "nothing, if they are equal; else the message says what to look at",
        "url",
        "requests",
        "workdir",
    ),
    verb(
        "online-report",
        online.online_report,
        "compare the variants of a live experiment, of what the deployment wrote down",
        "prerank online-report --experiment ranker-2 --from 2026-03-01",
        "prerank promote, once the verdict convinces; experiment: null in the Serve file ends it",
        "experiment",
        "from",
        "to",
        "window-hours",
        "planned",
        "out",
        "workdir",
        out={"help": "folder for the page and its JSON (default: online/ of the state folder)"}
        | {"required": False},
    ),
    verb(
        "check",
        daily.check,
        "compare the log's last requests with the training data; look for leaks and faults",
        "prerank check --since 2025-03-01",
        "prerank run, on the grown log, where features drifted",
        "since",
        "psi",
        "events",
        "version",
        "workdir",
        events={
            "required": False,
            "help": "raw files, such as a new day's, whose columns are looked at (default: none)",
        },
        version={"help": "model version whose scores are compared (default: none)"},
    ),
    verb(
        "forget",
        forget.forget,
        "take users out of the log, the features, the online store and all else that the home has",
        "prerank forget --user u42",
        "prerank training-set and prerank train; the receipt names what else remains",
        "user",
        "users",
        "workdir",
    ),
    verb(
        "config",
        whole.config,
        "print the full configuration as YAML, each key with its meaning",
        "prerank config > job.yaml",
        "prerank run --config job.yaml, or prerank train --config job.yaml",
        "config",
        "schema",
        config={"help": "YAML whose keys take the place of the defaults (default: none)"},
    ),
    verb(
        "env",
        whole.env,
        "print the environment that every process of an installation must share",
        'eval "$(prerank env)"',
        "ray start --head, as the README says",
        "workdir",
    ),
)
