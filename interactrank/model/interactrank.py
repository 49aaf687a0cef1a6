"""InteractRank, the whole model: a query tower and an item tower that meet in one dot product,
and cross features beside it (arXiv 2504.06609).

         QUERY TOWER, once per request                 ITEM TOWER, once per item, ahead of time
    text  history  top items  statistics  segments   text     id    category  numbers  embedding
      |      |         |          |          |         |       |        |        |         |
     bag  pool and attend      Numeric     embed      bag   embed     embed   Numeric  Precomputed
      +------+-------concat-------+----------+         +-------+---- concat -----+---------+
         TowerBody (MaskNet, MLP), L2                      TowerBody (MaskNet, MLP), L2
                       |                                                 |
                 q_h [B, H, D]                                       p [U, D]
                       +---------------- <q_h, p> [N, H] ----------------+
                                               |
       cross features x [N, X]  ->  a(r) <q_h, p> + g(x; r) + c_h  <-  statistics r [B, R]
                                               |
                                         logits [N, H]

No candidate enters the query tower and nothing of a request enters the item tower. Item vectors
can therefore stand in an index, and a candidate costs one dot product and g(x).

Names of tensors end in their shape, one letter for each dimension:

    B requests      N candidates of all requests      U distinct items among them
    H heads         D width of the towers' output     X cross features     R request statistics
    L events of a history, most recent first          K top items of a query
    T width of a text embedding                       E width of an id embedding
    I width of a tower body's input                   O width of its output

The body of the paper was not at hand. Parts are named as the paper's figure and the public
reference code name them; where ours differ from those, and why, is said in docs/model.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interactrank.features.batch import Batch, Requests
from interactrank.features.catalogue import CATEGORY_BUCKETS, Catalogue
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.features.text import SEGMENT_BUCKETS, TEXT_BUCKETS
from interactrank.model.config import ModelConfig
from interactrank.model.encoders import HistoryEncoder, TopItemsEncoder
from interactrank.model.fusion import Fusion
from interactrank.model.layers import MeanBag, Numeric, Precomputed, TowerBody

SEGMENT_WIDTH = 8
CATEGORY_WIDTH = 16


class QueryTower(nn.Module):
    """Query text, history, top items, statistics and context -> unit vectors [B, H, D].

    Examples:
        >>> from interactrank.model.example import example
        >>> schema, catalogue, batch = example()
        >>> tower = InteractRank(ModelConfig(), schema, catalogue).query_tower
        >>> tower(batch).shape  # two requests, one head
        torch.Size([2, 1, 64])
    """

    def __init__(
        self, config: ModelConfig, schema: FeatureSchema, text: nn.EmbeddingBag, ids: nn.Embedding
    ) -> None:
        super().__init__()
        self.heads, self.width = len(schema.heads), config.width
        self.text = text
        # The history's encoder; saved versions have its weights under this name.
        self.sequence = HistoryEncoder(ids, len(schema.actions), config) if config.history else None
        from_counts = config.cross and config.top_items
        self.top_items = TopItemsEncoder(ids, config) if from_counts else None
        self.numeric = Numeric(len(REQUEST_NUMERIC)) if config.cross else None
        tables = [nn.Embedding(SEGMENT_BUCKETS, SEGMENT_WIDTH) for _ in schema.segments]
        for table in tables:
            nn.init.normal_(table.weight, std=0.02)
        self.segments = nn.ModuleList(tables)
        optional = (self.sequence, self.top_items, self.numeric)
        inputs = config.text_width + SEGMENT_WIDTH * len(self.segments)
        inputs += sum(part.width for part in optional if part is not None)
        self.body = TowerBody(inputs, self.heads * config.width, config)

    def forward(self, requests: Requests) -> Tensor:
        """[B, H, D]."""
        out_BHD = self.layers(requests)[-1].view(-1, self.heads, self.width)
        return F.normalize(out_BHD, dim=-1)

    def layers(self, requests: Requests) -> list[Tensor]:
        """Outputs of the body's layers (``TowerBody.layers``); the last is [B, H D]."""
        text_BT = self.text(requests.text, requests.text_offsets)
        parts = [text_BT]
        if self.sequence is not None:
            history = (
                requests.hist_items,
                requests.hist_actions,
                requests.hist_hours,
                requests.hist_mask,
            )
            parts.append(self.sequence(text_BT, *history))
        if self.top_items is not None:
            parts.append(self.top_items(text_BT, requests.top_items, requests.top_items_share))
        if self.numeric is not None:
            parts.append(self.numeric(requests.request))
        parts += [table(requests.segments[:, s]) for s, table in enumerate(self.segments)]
        return self.body.layers(torch.cat(parts, dim=1))


class ItemTower(nn.Module):
    """Item text, id, category, numbers and given embedding -> unit vectors [U, D].

    Examples:
        >>> from interactrank.model.example import example
        >>> schema, catalogue, batch = example()
        >>> tower = InteractRank(ModelConfig(), schema, catalogue).item_tower
        >>> tower(batch.items).shape  # three distinct items
        torch.Size([3, 64])
    """

    def __init__(
        self, config: ModelConfig, catalogue: Catalogue, text: nn.EmbeddingBag, ids: nn.Embedding
    ) -> None:
        super().__init__()
        self.id_dropout = config.id_dropout
        self.text, self.ids = text, ids
        self.category = nn.Embedding(CATEGORY_BUCKETS, CATEGORY_WIDTH)
        self.numeric = Numeric(catalogue.numeric.shape[1])
        self.numeric.fit(torch.from_numpy(catalogue.numeric))
        self.embedding = Precomputed(catalogue.embedding.shape[1], config.text_width)
        inputs = config.text_width + config.id_width + CATEGORY_WIDTH
        inputs += self.numeric.width + self.embedding.width
        self.body = TowerBody(inputs, config.width, config)
        nn.init.normal_(self.category.weight, std=0.02)

    def forward(self, item: dict[str, Tensor]) -> Tensor:
        """Encode ``Batch.items`` (``interactrank.features.batch.item_inputs``) as [U, D]."""
        return F.normalize(self.layers(item)[-1], dim=-1)

    def layers(self, item: dict[str, Tensor]) -> list[Tensor]:
        """Outputs of the body's layers (``TowerBody.layers``); the last is [U, D]."""
        rows_U = item["rows"]
        if self.training and self.id_dropout:
            # Some ids are hidden so that row 0, the unknown item, learns what text can tell.
            rows_U = rows_U * (torch.rand(rows_U.shape, device=rows_U.device) >= self.id_dropout)
        parts = [
            self.text(item["text"], item["offsets"]),
            self.ids(rows_U),
            self.category(item["category"]),
            self.numeric(item["numeric"]),
            self.embedding(item["embedding"]),
        ]
        return self.body.layers(torch.cat(parts, dim=1))


@dataclass
class Output:
    """``logits`` [N, H], ``queries`` [B, H, D], ``items`` [U, D]; the fusion's ``scale`` [B]."""

    logits: Tensor
    queries: Tensor
    items: Tensor
    scale: Tensor

    def float(self) -> Output:
        """In float32."""
        return Output(*(tensor.float() for tensor in vars(self).values()))


class InteractRank(nn.Module):
    """The model. ``trained`` bool [items + 1] marks the item rows whose id embedding was trained.

    Examples:
        >>> from interactrank.model.example import example
        >>> schema, catalogue, batch = example()
        >>> model = InteractRank(ModelConfig(), schema, catalogue).eval()
        >>> model(batch).logits.shape  # four candidates of the two requests
        torch.Size([4, 1])
    """

    trained: Tensor

    def __init__(self, config: ModelConfig, schema: FeatureSchema, catalogue: Catalogue) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        # One table of words and one of ids for queries, histories and items alike.
        self.text = MeanBag(TEXT_BUCKETS, config.text_width)
        self.ids = nn.Embedding(len(catalogue) + 1, config.id_width)
        nn.init.normal_(self.text.weight, std=0.1)
        nn.init.normal_(self.ids.weight, std=0.05)
        self.query_tower = QueryTower(config, schema, self.text, self.ids)
        self.item_tower = ItemTower(config, catalogue, self.text, self.ids)
        signs = config.signs(schema.cross)
        self.fusion = Fusion(
            len(schema.cross) if config.cross else 0,
            len(REQUEST_NUMERIC),
            len(schema.heads),
            config.gated,
            config.fusion_hidden,
            len(schema.candidate_features),
            signs if config.cross else (),
        )
        self.register_buffer("trained", torch.zeros(len(catalogue) + 1, dtype=torch.bool))

    def forward(self, batch: Batch, items_UD: Tensor | None = None) -> Output:
        """Logits of every candidate of the batch, with the vectors they came from."""
        dots_NH, queries_BHD, items_UD = self.match(batch, items_UD)
        coefficients = self.fusion.coefficients(batch.request)
        logits_NH = self.fusion.joined(dots_NH, batch.x, coefficients, batch.candidate_request)
        return Output(logits_NH, queries_BHD, items_UD, coefficients.scale)

    def match(self, batch: Batch, items_UD: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What the towers say of each candidate [N, H], from unit vectors [B, H, D] and [U, D].

        ``items_UD``: what ``encode_items`` gave for ``batch.items``, where the caller has it.
        """
        queries_BHD = self.encode_queries(batch)
        items_UD = self.encode_items(batch.items) if items_UD is None else items_UD
        queries_NHD = queries_BHD.index_select(0, batch.candidate_request)
        items_N1D = items_UD.index_select(0, batch.candidate_item).unsqueeze(1)
        return torch.linalg.vecdot(queries_NHD, items_N1D), queries_BHD, items_UD

    def encode_queries(self, requests: Requests) -> Tensor:
        """Unit query vectors [B, H, D]."""
        return self.query_tower(self.mask_untrained_sequences(requests))

    def encode_items(self, item: dict[str, Tensor]) -> Tensor:
        """Unit item vectors [U, D]."""
        return self.item_tower(self.mask_untrained_items(item))

    def mask_untrained_items(self, item: dict[str, Tensor]) -> dict[str, Tensor]:
        """``item`` with ids that were never trained sent to row 0, the unknown item."""
        return {**item, "rows": item["rows"] * self.trained[item["rows"]]}

    def mask_untrained_sequences(self, requests: Requests) -> Requests:
        """``requests`` with their sequences' untrained ids sent to row 0, the unknown item."""
        history_BL, top_items_BK = requests.hist_items, requests.top_items
        return requests.replace(
            hist_items=history_BL * self.trained[history_BL],
            top_items=top_items_BK * self.trained[top_items_BK],
        )
