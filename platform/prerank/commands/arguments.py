"""Every option of the command line, by name: what `argparse` is told of it.

A verb may say otherwise of one (``prerank.commands.verb``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prerank.core.home import ENV

OPTIONS: dict[str, dict[str, Any]] = {
    "events": {
        "required": True,
        "help": "events as Parquet, CSV or JSON lines: a file, a folder, a glob in quotes, or a "
        "URI (s3://bucket/log/); or a Delta or Iceberg table",
    },
    "items": {"required": True, "help": "the catalogue, likewise"},
    "mapping": {
        "type": Path,
        "help": "YAML from your columns to the canonical ones, see examples/ (default: they have "
        "the canonical names)",
    },
    "replace": {
        "action": "store_true",
        "help": "start the log over, with another mapping or log (default: add to its events)",
    },
    "out": {"type": Path, "required": True, "help": "folder to write; it holds no simulation yet"},
    "preset": {
        "help": "tiny, demo, reference, sequential, priced, impressions or stream (default: demo; "
        "with --rows or --days stream)"
    },
    "rows": {"type": int, "help": "events of the log, about (default: what the preset says)"},
    "days": {"type": int, "help": "days that it spans (default: what the preset says)"},
    "spammers": {
        "type": float,
        "help": "share of accounts that boost items, 0 to 0.5 (default: what the preset says)",
    },
    "full-ranker": {
        "type": float,
        "metavar": "DEVIATION",
        "help": "write a full ranker's scores too, `l2_score`: logits of true relevance, with this "
        "much noise (default: none are written)",
    },
    "format": {"default": "parquet", "help": "parquet, csv, jsonl or ubi (default: parquet)"},
    "seed": {"type": int, "default": 7, "help": "seed of all random draws (default: 7)"},
    "restate": {
        "help": "build a history of its own, named LABEL, in which late events and flags count "
        "from when they happened on; published rows stay (default: the history as it became known)",
        "metavar": "LABEL",
    },
    "until": {"help": "ISO time (UTC) of the last snapshot to publish (default: the log's end)"},
    "config": {"type": Path, "help": "YAML of the job (default: what `prerank config` prints)"},
    "schema": {"action": "store_true", "help": "print the YAML's JSON Schema, for editors"},
    "oracles": {
        "type": Path,
        "help": "folder of `prerank simulate`, whose oracles are measured too (default: none)",
    },
    "version": {"help": "model version (default: the challenger)"},
    "split": {
        "choices": ("validation", "test"),
        "default": "test",
        "help": "requests to measure on (default: %(default)s)",
    },
    "seeds": {"type": int, "default": 3, "help": "trainings of each variant (default: 3)"},
    "only": {
        "action": "append",
        "default": [],
        "metavar": "VARIANT",
        "help": 'a variant to train beside the whole model, such as "no history"; may be given '
        "again (default: all of them)",
    },
    "url": {"help": "of the deployment (default: $PRERANK_URL, else http://127.0.0.1:8000)"},
    "requests": {
        "type": int,
        "default": 100,
        "help": "searches of the log to ask again (default: 100)",
    },
    "served": {
        "action": "store_true",
        "help": "the new events are what deployments wrote down, `log_share` (default: --events)",
    },
    "through": {"help": "with --served: last day to read, YYYY-MM-DD (default: yesterday, UTC)"},
    "warm": {
        "action": "store_true",
        "help": "begin with the champion's towers (default: from nothing)",
    },
    "auto-promote": {
        "action": "store_true",
        "help": "make the version the champion if it passes the gate (default: a person does)",
    },
    "max-bad": {
        "type": float,
        "default": 0.1,
        "metavar": "SHARE",
        "help": "of the new rows, how many may be quarantined before it stops (default: 0.1)",
    },
    "log": {
        "type": Path,
        "help": "folder of a served log's answers (default: what the deployments of this home "
        "wrote down)",
    },
    "trials": {
        "type": int,
        "default": 30,
        "help": "settings to try, those of before included (default: 30)",
    },
    "minutes": {
        "type": float,
        "help": "after which nothing further is begun; run again, it goes on (default: no limit)",
    },
    "space": {
        "type": Path,
        "help": "YAML of settings to try: it replaces, adds or (null) takes out (default: those "
        "of prerank/evaluation/search_space.py)",
    },
    "since": {
        "help": "ISO time (UTC) at which the compared requests begin (default: 24 hours before the "
        "log's end)"
    },
    "psi": {
        "type": float,
        "default": 0.25,
        "help": "drift of a feature or the score from which the check fails (default: 0.25)",
    },
    "margin": {
        "type": float,
        "help": "by how much MRR and recall@cut may be below the champion's (default: 0.02, or as "
        "--config says)",
    },
    "day": {
        "help": "day (UTC) whose requests are measured, YYYY-MM-DD (default: the newest 24 hours "
        "whose labels are known)"
    },
    "undecided": {
        "choices": ("fail", "pass"),
        "help": "what a check counts as that could not be decided (default: fail, or as --config "
        "says)",
    },
    "without-gate": {
        "action": "store_true",
        "help": "promote it whatever the gate says; a tag of the version says so (default: it must "
        "pass)",
    },
    "export": {
        "action": "store_true",
        "help": "write the snapshots as the Parquet table of Feast's view item_neighbours, those "
        "that it has not (default: they are files of the platform's own)",
    },
    "item": {"metavar": "ID"},
    "query": {"metavar": "TEXT", "help": "text of a query (default: none)"},
    "register": {
        "action": "store_true",
        "help": "register the last snapshot's vectors in MLflow, as a version of the model "
        "prerank-embedding (default: items are printed)",
    },
    "user": {"help": "id of a user, as the log has it (default: those of --users)"},
    "users": {"type": Path, "help": "text file of ids, one per line (default: --user)"},
    "flag": {
        "required": True,
        "help": "flags as Parquet, CSV or JSON lines: rows of user_id, weight (0 to 1), known_at",
    },
    "experiment": {"required": True, "metavar": "NAME", "help": "name of the experiment"},
    "from": {
        "dest": "begins",
        "metavar": "TIME",
        "help": "ISO time (UTC) of the first request to read (default: the experiment's first)",
    },
    "to": {
        "dest": "ends",
        "metavar": "TIME",
        "help": "ISO time (UTC) before which requests are read (default: all there are)",
    },
    "window-hours": {
        "type": float,
        "default": 24.0,
        "help": "how long after its request an event counts (default: 24)",
    },
    "planned": {
        "type": int,
        "default": 10_000,
        "metavar": "REQUESTS",
        "help": "requests at which intervals are narrowest; say so before the first look, and "
        "leave it (default: 10000)",
    },
    "slower-ms": {
        "type": float,
        "default": 5.0,
        "metavar": "MS",
        "help": "a variant may be slower than the control by so much in the mean, and by 10%% in "
        "any case (default: 5)",
    },
    "vespa": {"type": Path, "required": True, "help": "file to write: a feed of JSON lines"},
    "workdir": {"help": f"state folder, or its URI (default: ${ENV})"},
}
