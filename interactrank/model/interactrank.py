"""InteractRank: query tower and item tower, fused with engagement cross features.

    logit_h(u, q, p) = a <q_h(u, q), p(p)> + g(x(u, q, p)) + c_h,     a > 0
(:mod:`interactrank.model.fusion`).

Shapes: B requests, N candidates of all of them, U distinct items, H heads, D width, X cross
features, R request statistics.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interactrank.features.batch import Batch
from interactrank.features.catalogue import CATEGORY_BUCKETS, Catalogue
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.features.text import SEGMENT_BUCKETS, TEXT_BUCKETS
from interactrank.model.fusion import Fusion
from interactrank.model.layers import Numeric, Precomputed, TowerBody
from interactrank.model.sequence import SequenceEncoder, TopItemsEncoder

SEGMENT_WIDTH = 8


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

    def __post_init__(self) -> None:
        if self.history and not (self.pooling or self.attention):
            raise ValueError("history needs pooling or attention; set history: false to drop it")

    @classmethod
    def paper(cls) -> ModelConfig:
        """Sizes of the public reference code: 4 blocks of 2048, MLP 512-256, 64-d output."""
        return cls(mask_blocks=4, mask_width=2048, hidden=(512, 256), text_width=256, id_width=64)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Rebuild from :meth:`to_dict`'s form.

        Raises:
            ValueError: a key is unknown; the message names it.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"model config: unknown {unknown}; known are {sorted(known)}")
        values = dict(data)
        if "hidden" in values:
            values["hidden"] = tuple(values["hidden"])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class ItemTower(nn.Module):
    """Item attributes -> unit vector [U, D]. Nothing of a request enters it."""

    def __init__(
        self, config: ModelConfig, catalogue: Catalogue, text: nn.EmbeddingBag, ids: nn.Embedding
    ) -> None:
        super().__init__()
        self.text, self.ids = text, ids
        self.id_dropout = config.id_dropout
        self.category = nn.Embedding(CATEGORY_BUCKETS, 16)
        self.numeric = Numeric(catalogue.numeric.shape[1])
        self.numeric.fit(torch.from_numpy(catalogue.numeric))
        self.embedding = Precomputed(catalogue.embedding.shape[1], config.text_width)
        inputs = config.text_width + config.id_width + 16 + self.numeric.width
        inputs += self.embedding.width
        self.body = TowerBody(
            inputs,
            config.mask_blocks,
            config.mask_width,
            config.hidden,
            config.width,
            config.dropout,
        )
        nn.init.normal_(self.category.weight, std=0.02)

    def forward(self, item: dict[str, Tensor]) -> Tensor:
        """Encode ``Batch.items`` (:func:`interactrank.features.batch.item_inputs`)."""
        return F.normalize(self.layers(item)[-1], dim=-1)

    def layers(self, item: dict[str, Tensor]) -> list[Tensor]:
        """Outputs of the body's layers (:meth:`interactrank.model.layers.TowerBody.layers`)."""
        rows = item["rows"]
        if self.training and self.id_dropout:
            # Some ids are hidden so that the out-of-vocabulary path learns what text can tell.
            keep = torch.rand(rows.shape, device=rows.device) >= self.id_dropout
            rows = rows * keep
        parts = [
            self.text(item["text"], item["offsets"]),
            self.ids(rows),
            self.category(item["category"]),
            self.numeric(item["numeric"]),
            self.embedding(item["embedding"]),
        ]
        return self.body.layers(torch.cat(parts, dim=1))


class QueryTower(nn.Module):
    """Query text, user history, request statistics and context -> unit vectors [B, H, D].

    No candidate enters it (invariant "decoupling"): its vector is the same whatever is scored.
    """

    def __init__(
        self, config: ModelConfig, schema: FeatureSchema, text: nn.EmbeddingBag, ids: nn.Embedding
    ) -> None:
        super().__init__()
        self.text = text
        self.heads, self.width = len(schema.heads), config.width
        self.sequence: SequenceEncoder | None = None
        inputs = config.text_width
        if config.history:
            self.sequence = SequenceEncoder(
                ids,
                len(schema.actions),
                config.text_width,
                config.pooling,
                config.attention,
                config.time_encoding,
            )
            inputs += self.sequence.width
        self.top_items: TopItemsEncoder | None = None
        if config.cross and config.top_items:
            self.top_items = TopItemsEncoder(ids, config.text_width)
            inputs += 2 * config.id_width
        self.numeric = Numeric(len(REQUEST_NUMERIC)) if config.cross else None
        inputs += self.numeric.width if self.numeric else 0
        self.segments = nn.ModuleList(
            nn.Embedding(SEGMENT_BUCKETS, SEGMENT_WIDTH) for _ in schema.segments
        )
        for table in self.segments:
            nn.init.normal_(table.weight, std=0.02)
        inputs += SEGMENT_WIDTH * len(self.segments)
        self.body = TowerBody(
            inputs,
            config.mask_blocks,
            config.mask_width,
            config.hidden,
            self.heads * config.width,
            config.dropout,
        )

    def forward(self, batch: Batch) -> Tensor:
        """[B, H, D]."""
        out = self.layers(batch)[-1].view(-1, self.heads, self.width)
        return F.normalize(out, dim=-1)

    def layers(self, batch: Batch) -> list[Tensor]:
        """Outputs of the body's layers; the last is [B, H D]."""
        text = self.text(batch.text, batch.text_offsets)
        parts = [text]
        if self.sequence is not None:
            parts.append(
                self.sequence(
                    text, batch.hist_items, batch.hist_actions, batch.hist_hours, batch.hist_mask
                )
            )
        if self.top_items is not None:
            parts.append(self.top_items(text, batch.top_items, batch.top_items_share))
        if self.numeric is not None:
            parts.append(self.numeric(batch.request))
        parts += [table(batch.segments[:, s]) for s, table in enumerate(self.segments)]
        return self.body.layers(torch.cat(parts, dim=1))


class InteractRank(nn.Module):
    """The model. ``trained`` [n + 1] marks item rows whose id embedding was trained."""

    def __init__(self, config: ModelConfig, schema: FeatureSchema, catalogue: Catalogue) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        self.text = nn.EmbeddingBag(TEXT_BUCKETS, config.text_width, mode="mean")
        self.ids = nn.Embedding(len(catalogue) + 1, config.id_width)
        nn.init.normal_(self.text.weight, std=0.1)
        nn.init.normal_(self.ids.weight, std=0.05)
        self.query_tower = QueryTower(config, schema, self.text, self.ids)
        self.item_tower = ItemTower(config, catalogue, self.text, self.ids)
        self.fusion = Fusion(
            len(schema.cross) if config.cross else 0,
            len(REQUEST_NUMERIC),
            len(schema.heads),
            config.gated,
            config.fusion_hidden,
        )
        self.register_buffer("trained", torch.zeros(len(catalogue) + 1, dtype=torch.bool))

    def mask_untrained_items(self, item: dict[str, Tensor]) -> dict[str, Tensor]:
        """``item`` with ids that were never trained sent down the unknown-id path."""
        return {**item, "rows": item["rows"] * self.trained[item["rows"]]}

    def mask_untrained_sequences(self, batch: Batch) -> Batch:
        """``batch`` with its sequences' untrained ids sent down the unknown-id path."""
        history, top_items = batch.hist_items, batch.top_items
        return batch.replace(
            hist_items=history * self.trained[history],
            top_items=top_items * self.trained[top_items],
        )

    def encode_items(self, item: dict[str, Tensor]) -> Tensor:
        """Unit item vectors [U, D]."""
        return self.item_tower(self.mask_untrained_items(item))

    def encode_queries(self, batch: Batch) -> Tensor:
        """Unit query vectors [B, H, D]."""
        return self.query_tower(self.mask_untrained_sequences(batch))

    def match(self, batch: Batch, items: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What the towers say of each candidate [N, H], from unit vectors [B, H, D] and [U, D].

        ``items``: what :meth:`encode_items` gave for ``batch.items``, where the caller has it.
        """
        queries = self.encode_queries(batch)
        items = self.encode_items(batch.items) if items is None else items
        chosen = items.index_select(0, batch.candidate_item).unsqueeze(1)
        dots = torch.linalg.vecdot(queries.index_select(0, batch.candidate_request), chosen)
        return dots, queries, items

    def forward(self, batch: Batch, items: Tensor | None = None) -> Output:
        """Logits of every candidate of the batch, with the vectors they came from."""
        dots, queries, items = self.match(batch, items)
        logits = self.fusion.logits(dots, batch.x, batch.request, batch.candidate_request)
        return Output(logits, queries, items)

    def cost(self) -> tuple[float, float]:
        """FLOPs and bytes read per candidate, after the towers.

        A multiply-add is two FLOPs, as in torch's own counter; element-wise steps, and what folds
        into per-request constants, are not counted. 64 dimensions and 7 cross features make the
        paper's 142. Item vectors are bf16, cross features fp32.
        """
        crosses = self.fusion.crosses
        hidden = self.config.fusion_hidden
        g = crosses + (crosses * hidden + hidden if crosses else 0)
        return 2.0 * (self.config.width + g), 2.0 * self.config.width + 4.0 * crosses


@dataclass
class Output:
    """``logits`` [N, H], ``queries`` [B, H, D], ``items`` [U, D]."""

    logits: Tensor
    queries: Tensor
    items: Tensor
