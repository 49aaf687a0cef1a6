"""IntTower-style early interaction (Li et al. 2022): towers that meet before their last layer.

Every layer of the query tower and the item tower's last layer are cut into M sub-vectors of width
d, by a learned projection and L2. Layer l and query sub-vector m give one feature,
    s_lm = max_m' <q_lm, p_m'>,
and a small MLP over the L M features gives the logits. Items are still precomputed (M d values
each), but each candidate costs L M M dots of width d and the MLP instead of one dot. The paper's
contrastive regulariser of the two last layers is the in-batch sampled softmax of
``interactrank.training.losses``. As published, it has no cross features. Towers, inputs and
losses are otherwise the model's own, so that the difference measured is the interaction's.

Shapes: B requests, N candidates, U distinct items, L query layers, M sub-vectors of width d, H
heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interactrank.features.batch import Batch
from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import FeatureSchema
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank

CANDIDATES_AT_ONCE = 16_384
"""Query sub-vectors are gathered for each candidate: 1.5 kB each at the default sizes."""


@dataclass(frozen=True)
class IntTowerConfig(ModelConfig):
    """Sizes of the interaction; the defaults cost about what the paper's 3069 FLOPs do."""

    cross: bool = False
    interaction_heads: int = 4
    interaction_width: int = 32
    interaction_hidden: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross:
            raise ValueError("the IntTower baseline has no cross features: set cross: false")


class IntTower(InteractRank):
    """The early-interaction baseline, under the model's own contract.

    Examples:
        >>> from interactrank.model.example import example
        >>> schema, catalogue, batch = example()
        >>> model = IntTower(IntTowerConfig(), schema, catalogue).eval()
        >>> model(batch).logits.shape  # four candidates of the two requests
        torch.Size([4, 1])
    """

    config: IntTowerConfig

    def __init__(self, config: ModelConfig, schema: FeatureSchema, catalogue: Catalogue) -> None:
        assert isinstance(config, IntTowerConfig)
        super().__init__(config, schema, catalogue)
        out = config.interaction_heads * config.interaction_width
        widths = self.query_tower.body.widths
        self.query_views = nn.ModuleList(nn.Linear(w, out) for w in widths)
        self.item_view = nn.Linear(config.width, out)
        self.mlp = nn.Sequential(
            nn.Linear(len(widths) * config.interaction_heads, config.interaction_hidden),
            nn.ReLU(),
            nn.Linear(config.interaction_hidden, len(schema.heads)),
        )

    def _cut(self, views_nO: Tensor) -> Tensor:
        """[n, M d] -> unit sub-vectors [n, M, d]."""
        heads = self.config.interaction_heads
        return F.normalize(views_nO.unflatten(-1, (heads, -1)), dim=-1)

    def query_side(self, layers: list[Tensor]) -> Tensor:
        """Sub-vectors of the query tower's layers, [B, L, M, d]."""
        pairs = zip(self.query_views, layers, strict=True)
        return torch.stack([self._cut(view(layer)) for view, layer in pairs], dim=1)

    def interact(self, queries_NLMd: Tensor, items_NMd: Tensor) -> Tensor:
        """What is computed per candidate: [N, H]."""
        pairs_NLMM = torch.einsum("nlmd,nkd->nlmk", queries_NLMd, items_NMd)
        out_NH: Tensor = self.mlp(pairs_NLMM.amax(-1).flatten(1))
        return out_NH

    def encode_items(self, item: dict[str, Tensor]) -> Tensor:
        """The item tower's last layer [U, D], which is cut and normalised afterwards."""
        return self.item_tower.layers(self.mask_untrained_items(item))[-1]

    def match(self, batch: Batch, items_UD: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The interaction's output [N, H], and the last layers' unit vectors [B, H, D], [U, D]."""
        query_layers = self.query_tower.layers(self.mask_untrained_sequences(batch))
        items_UD = self.encode_items(batch.items) if items_UD is None else items_UD
        queries_BLMd = self.query_side(query_layers)
        items_UMd = self._cut(self.item_view(items_UD))
        pairs = zip(
            batch.candidate_request.split(CANDIDATES_AT_ONCE),
            batch.candidate_item.split(CANDIDATES_AT_ONCE),
            strict=True,
        )
        parts = [self.interact(queries_BLMd[r], items_UMd[i]) for r, i in pairs]
        last_BHD = query_layers[-1].view(-1, len(self.schema.heads), self.config.width)
        return torch.cat(parts), F.normalize(last_BHD, dim=-1), F.normalize(items_UD, dim=-1)
