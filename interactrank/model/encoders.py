"""Encoders of sequences of items: a user's history, and the items that perform for a query.

Letters of shapes as in ``interactrank.model.interactrank``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from interactrank.features.schema import HISTORY_LENGTH
from interactrank.model.config import ModelConfig

TIME_BUCKETS = 16
"""Ages of events: bucket 0 is under an hour, bucket k from e^(k-1) hours, the last without end."""
MIN_SHARE = 1e-6


class HistoryEncoder(nn.Module):
    """The user's last engagements, pooled and attended to by the query (paper: user sequence).

        z_t = item_t + action_t + age_t
        pool = sum_t w_t z_t                                    w_t: one learned weight per position
        attend = sum_t softmax_t(<W q, z_t> / sqrt E) z_t

    The result of an empty history is exactly zero.

    Examples:
        >>> encoder = HistoryEncoder(nn.Embedding(10, 32), actions=2, config=ModelConfig())
        >>> empty = torch.zeros(1, 5, dtype=torch.int64)
        >>> out = encoder(torch.randn(1, 64), empty, empty, empty.float(), mask_BL=empty.bool())
        >>> out.shape, bool(out.any())
        (torch.Size([1, 64]), False)
    """

    def __init__(self, ids: nn.Embedding, actions: int, config: ModelConfig) -> None:
        super().__init__()
        self.pooling, self.attention = config.pooling, config.attention
        self.time_encoding = config.time_encoding
        width = ids.embedding_dim
        self.width = (self.pooling + self.attention) * width
        self.items = ids
        self.actions = nn.Embedding(actions, width)
        self.time = nn.Embedding(TIME_BUCKETS, width)
        self.position_weight = nn.Parameter(torch.full((HISTORY_LENGTH,), 1.0 / HISTORY_LENGTH))
        self.query = nn.Linear(config.text_width, width)
        nn.init.normal_(self.actions.weight, std=0.02)
        nn.init.normal_(self.time.weight, std=0.02)

    def forward(
        self,
        query_BT: Tensor,
        items_BL: Tensor,
        actions_BL: Tensor,
        hours_BL: Tensor,
        mask_BL: Tensor,
    ) -> Tensor:
        """Encode histories as [B, E] or, of both halves, [B, 2 E].

        Args:
            query_BT: text embedding of the query.
            items_BL: int64, item rows. actions_BL: int64, action codes.
            hours_BL: float32, hours from the event to the request.
            mask_BL: bool, true where there is an event.
        """
        z_BLE = self.items(items_BL) + self.actions(actions_BL)
        if self.time_encoding:
            # The logarithm of no time at all is -inf, and clamped as any time under an hour is.
            age_BL = hours_BL.clamp(min=0).log().floor().clamp(-1, TIME_BUCKETS - 2) + 1
            z_BLE = z_BLE + self.time(age_BL.long())
        # Unlike in the reference code, padding takes no part in either half.
        z_BLE = z_BLE * mask_BL.unsqueeze(-1)
        halves = []
        if self.pooling:
            weight_L = self.position_weight[: z_BLE.shape[1]].to(z_BLE.dtype)
            halves.append(torch.einsum("bld,l->bd", z_BLE, weight_L))
        if self.attention:
            scores_BL = torch.einsum("bld,bd->bl", z_BLE, self.query(query_BT))
            scores_BL = scores_BL / math.sqrt(z_BLE.shape[-1])
            scores_BL = scores_BL.masked_fill(~mask_BL, float("-inf"))
            # A row that is all padding would be softmax of nothing, NaN: it attends to zeros.
            share_BL = torch.nan_to_num(scores_BL.softmax(dim=1))
            halves.append(torch.einsum("bld,bl->bd", z_BLE, share_BL))
        return torch.cat(halves, dim=1)


class TopItemsEncoder(nn.Module):
    """Items that perform for the query, pooled and attended to (reference code: xperf sequence).

        pool = sum_t s_t e_t                    s_t: the item's share of the query's engagement
        attend = sum_t softmax_t(<W q, e_t> / sqrt E + log s_t) e_t

    Where the reference code learns a weight per position, the shares are known.

    Examples:
        >>> encoder = TopItemsEncoder(nn.Embedding(10, 32), ModelConfig())
        >>> share = torch.tensor([[0.75, 0.25, 0.0]])  # the third is padding
        >>> encoder(torch.randn(1, 64), torch.tensor([[4, 7, 0]]), share).shape
        torch.Size([1, 64])
    """

    def __init__(self, ids: nn.Embedding, config: ModelConfig) -> None:
        super().__init__()
        self.width = 2 * ids.embedding_dim
        self.items = ids
        self.query = nn.Linear(config.text_width, ids.embedding_dim)

    def forward(self, query_BT: Tensor, items_BK: Tensor, share_BK: Tensor) -> Tensor:
        """Encode int64 item rows with their shares (0 is padding) as [B, 2 E]."""
        x_BKE = self.items(items_BK)
        pooled_BE = torch.einsum("bkd,bk->bd", x_BKE, share_BK.to(x_BKE.dtype))
        scores_BK = torch.einsum("bkd,bd->bk", x_BKE, self.query(query_BT))
        scores_BK = scores_BK / math.sqrt(x_BKE.shape[-1]) + share_BK.clamp(min=MIN_SHARE).log()
        # Masked last, so that the NaN of a softmax over padding alone reaches no gradient.
        scores_BK = scores_BK.masked_fill(share_BK <= 0, float("-inf"))
        attention_BK = torch.nan_to_num(scores_BK.softmax(dim=1)).to(x_BKE.dtype)
        return torch.cat((pooled_BE, torch.einsum("bkd,bk->bd", x_BKE, attention_BK)), dim=1)
