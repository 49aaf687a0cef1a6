"""The query tower's sequences: the searcher's engagements, and the query's top items.

Shapes: B requests, L events (most recent first), K top items, d width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from interactrank.features.schema import HISTORY_LENGTH

TIME_EDGES = 14
"""Log-spaced edges: 0 h, then e^0 … e^13 h."""


MIN_SHARE = 1e-6


class SequenceEncoder(nn.Module):
    """Learned weighted pooling plus query cross-attention over the last engagements.

    pool(X) = sum_t w_t x_t over positions; attend(q, X) = sum_t softmax_t(q·x_t / sqrt d) x_t.
    Unlike the public reference code, padding is masked in both, and the result of an empty
    sequence is exactly zero. Either half, and the time embedding, may be left out.
    """

    def __init__(
        self,
        items: nn.Embedding,
        actions: int,
        query_width: int,
        pooling: bool = True,
        attention: bool = True,
        time_encoding: bool = True,
    ) -> None:
        super().__init__()
        self.pooling, self.attention, self.time_encoding = pooling, attention, time_encoding
        width = items.embedding_dim
        self.items = items
        self.actions = nn.Embedding(actions, width)
        self.time = nn.Embedding(TIME_EDGES + 2, width)
        self.position_weight = nn.Parameter(torch.full((HISTORY_LENGTH,), 1.0 / HISTORY_LENGTH))
        self.query = nn.Linear(query_width, width)
        nn.init.normal_(self.actions.weight, std=0.02)
        nn.init.normal_(self.time.weight, std=0.02)

    @property
    def width(self) -> int:
        """Width of the output: d for each half."""
        return (self.pooling + self.attention) * self.items.embedding_dim

    def forward(
        self, query: Tensor, items: Tensor, actions: Tensor, hours: Tensor, mask: Tensor
    ) -> Tensor:
        """Encode histories.

        Args:
            query: [B, query_width], the text of the query.
            items: int64 [B, L] item rows.
            actions: int64 [B, L] action codes.
            hours: float32 [B, L] hours between the event and the request.
            mask: bool [B, L], true where there is an event.

        Returns:
            [B, width]: pooled, then attended.
        """
        x = self.items(items) + self.actions(actions)
        if self.time_encoding:
            bucket = (hours.clamp(min=0).log().floor().clamp(-1, TIME_EDGES) + 1).long()
            x = x + self.time(bucket)
        x = x * mask.unsqueeze(-1)
        parts = []
        if self.pooling:
            weight = self.position_weight[: x.shape[1]].to(x.dtype)
            parts.append(torch.einsum("bld,l->bd", x, weight))
        if self.attention:
            scores = torch.einsum("bld,bd->bl", x, self.query(query)) / math.sqrt(x.shape[-1])
            scores = scores.masked_fill(~mask, float("-inf"))
            # A row that is all padding would be softmax of nothing, NaN: it attends to zeros.
            parts.append(torch.einsum("bld,bl->bd", x, torch.nan_to_num(scores.softmax(dim=1))))
        return torch.cat(parts, dim=1)


class TopItemsEncoder(nn.Module):
    """Items that perform for the query: their expected embedding, and attention from the query.

    pool(X) = sum_t s_t x_t for shares s of the query's engagements; attention adds log s_t to its
    scores. Where the reference code learns a weight per position, the shares are known.
    """

    def __init__(self, items: nn.Embedding, query_width: int) -> None:
        super().__init__()
        self.items = items
        self.query = nn.Linear(query_width, items.embedding_dim)

    def forward(self, query: Tensor, items: Tensor, share: Tensor) -> Tensor:
        """Encode [B, K] item rows with ``share`` [B, K] (0 is padding) as [B, 2 d]."""
        x = self.items(items)
        pooled = torch.einsum("bkd,bk->bd", x, share.to(x.dtype))
        scores = torch.einsum("bkd,bd->bk", x, self.query(query)) / math.sqrt(x.shape[-1])
        scores = scores + share.clamp(min=MIN_SHARE).log()
        # Masked last, so that the NaN of a softmax over padding alone reaches no gradient.
        attention = torch.nan_to_num(scores.masked_fill(share <= 0, float("-inf")).softmax(dim=1))
        return torch.cat((pooled, torch.einsum("bkd,bk->bd", x, attention.to(x.dtype))), dim=1)
