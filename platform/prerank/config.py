"""The job's configuration: one typed YAML, every key optional, unknown keys refused by name.

What a key means stands once: in the docstring of the dataclass that owns it. `prerank config`
prints it as comments, `prerank config --schema` as descriptions for editors.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, TypeAdapter

from interactrank.model.config import ModelConfig
from interactrank.training.losses import LossConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.settings import read_yaml, typed
from prerank.evaluation.baselines.suite import BASELINES, DEFAULT
from prerank.features.config import FeatureConfig
from prerank.promotion.config import GateConfig

SECTIONS: dict[str, type] = {
    "features": FeatureConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "gate": GateConfig,
}
CONFIGS: tuple[type, ...] = (*SECTIONS.values(), LossConfig)
WIDTH = 96


def _known_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [n for n in names if n not in BASELINES]:
        raise ValueError(f"unknown {unknown}; known are {sorted(BASELINES)}")
    return tuple(dict.fromkeys(names))


Name = Annotated[str, Field(json_schema_extra={"enum": list(BASELINES)})]


@dataclass(frozen=True)
class JobConfig:
    """What a job builds, trains and compares.

    Attributes:
        features: how snapshots of the engagement features are taken.
        model: sizes and parts of InteractRank.
        train: optimiser, schedule and losses.
        baselines: fitted and measured beside InteractRank: any of linear, trees, two_tower,
            two_tower_sequence and inttower. Popularity, BM25 and IQP need no fitting and are
            always measured.
        gate: what a version must pass to become the champion.
    """

    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    baselines: Annotated[tuple[Name, ...], AfterValidator(_known_once)] = DEFAULT
    gate: GateConfig = field(default_factory=GateConfig)

    @classmethod
    def load(cls, path: Path | None) -> JobConfig:
        """Read a YAML file; None gives the defaults.

        Raises:
            ConfigError: unreadable, or a key is unknown; the message names it and the known ones.
        """
        if path is None:
            return cls()
        return cls.of(read_yaml(path, "config"), f"config {path}")

    @classmethod
    def of(cls, data: Any, what: str = "config") -> JobConfig:
        """From the YAML's plain mapping; errors as in ``load``, beginning with ``what``."""
        if isinstance(data, dict):
            # A section whose keys are all commented out.
            data = {k: v for k, v in data.items() if v is not None or k not in SECTIONS}
        return typed(cls, data, what=what)

    def to_yaml(self) -> str:
        """Every key with its value and, as a comment, its meaning; ``load`` reads it."""
        return "\n".join(_lines(self, 0)).lstrip("\n") + "\n"


def _lines(config: Any, indent: int) -> Iterator[str]:
    docs, pad = field_docs(type(config)), " " * indent
    for f in fields(config):
        value = getattr(config, f.name)
        if not indent:
            yield ""
        yield from textwrap.wrap(
            docs[f.name], WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# "
        )
        if is_dataclass(value):
            yield f"{pad}{f.name}:"
            yield from _lines(value, indent + 2)
        else:
            plain = list(value) if isinstance(value, tuple) else value
            # A value alone is followed by the end of a document ("...").
            text = yaml.safe_dump(plain, default_flow_style=True, width=1 << 20)
            yield f"{pad}{f.name}: {text.splitlines()[0]}"


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the YAML, for editors; unknown keys are wrong."""
    schema = TypeAdapter(JobConfig).json_schema()
    nodes = {"JobConfig": schema, **schema["$defs"]}
    for kind in (JobConfig, *CONFIGS):
        node, docs = nodes[kind.__name__], field_docs(kind)
        node["description"] = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
        node["additionalProperties"] = False
        for name, described in node["properties"].items():
            described["description"] = docs[name]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def field_docs(kind: type) -> dict[str, str]:
    """Field -> what the "Attributes:" section of the class's docstring says of it."""
    _, _, section = (inspect.getdoc(kind) or "").partition("\nAttributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if begin := re.match(r"    (\w+): (.+)", line):
            name = begin[1]
            found[name] = begin[2]
        elif line.startswith("        "):
            found[name] += f" {line.strip()}"
        else:
            break
    return {name: text.replace("``", "`") for name, text in found.items()}
