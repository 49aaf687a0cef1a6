"""Sizes and parts of the model, as a job's configuration and a saved version name them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and parts. Defaults suit two CPU cores; the paper's towers are ``paper()``.

    ``cross`` and ``history`` off is the vanilla two-tower.

    Attributes:
        width: width of the query and item vectors, whose dot product is scored.
        text_width: width of text embeddings (title and query).
        id_width: width of item id embeddings.
        mask_blocks: mask blocks at the bottom of each tower body; 0 makes the bodies plain MLPs.
        mask_width: width of a mask block's output.
        hidden: widths of the MLP layers above the mask blocks.
        dropout: share of a tower body's units that a training step drops.
        id_dropout: share of items whose id a training step hides, so that text alone is learned
            too.
        cross: use what comes from engagement rows: cross features, query statistics and top items.
        history: use the user's sequence of engagements.
        pooling: pool that sequence with learned weights.
        attention: let the query attend to that sequence.
        time_encoding: embed how long ago each engagement of that sequence was.
        top_items: show the query tower the items that this query engaged most.
        gated: let the fusion's weights depend on the request.
        fusion_hidden: hidden units of g(x); 0 keeps g linear in x.
        rising: cross features that may only raise a score as they grow, whatever the request and
            all else; such a feature has one weight of its own, outside of gates and hidden units.
        falling: cross features that may only lower it, such as "candidate:price".

    Examples:
        >>> ModelConfig.from_dict({"hidden": [256, 128]}).hidden
        (256, 128)
    """

    width: int = 64
    text_width: int = 64
    id_width: int = 32
    mask_blocks: int = 2
    mask_width: int = 128
    hidden: tuple[int, ...] = (128,)
    dropout: float = 0.005
    id_dropout: float = 0.1
    cross: bool = True
    history: bool = True
    pooling: bool = True
    attention: bool = True
    time_encoding: bool = True
    top_items: bool = True
    gated: bool = True
    fusion_hidden: int = 16
    rising: tuple[str, ...] = ()
    falling: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.history and not (self.pooling or self.attention):
            raise ValueError("history needs pooling or attention; set history: false to drop it")
        if both := sorted(set(self.rising) & set(self.falling)):
            raise ValueError(f"rising and falling both name {both}; leave each in one of them")

    def signs(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """For each of the cross features ``names``: 1 if rising, -1 if falling, else 0.

        Raises:
            ValueError: a feature that is to rise or fall does not exist; the message names it.
        """
        for key, wanted in (("rising", self.rising), ("falling", self.falling)):
            if unknown := sorted(set(wanted) - set(names)):
                raise ValueError(f"model.{key}: unknown {unknown}; the log has {list(names)}")
        return tuple((n in self.rising) - (n in self.falling) for n in names)

    @classmethod
    def paper(cls) -> ModelConfig:
        """Sizes of the public reference code: 4 blocks of 2048, MLP 512-256, 64-d output."""
        return cls(mask_blocks=4, mask_width=2048, hidden=(512, 256), text_width=256, id_width=64)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Rebuild from ``to_dict``'s form.

        Raises:
            ValueError: a key is unknown; the message names it.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"model config: unknown {unknown}; known are {sorted(known)}")
        values = dict(data)
        for name in {"hidden", "rising", "falling"} & set(values):
            values[name] = tuple(values[name])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)
