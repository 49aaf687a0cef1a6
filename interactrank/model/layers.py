"""Layers of both towers: mask blocks, and how numbers and given embeddings enter.

Shapes: B rows of a batch, F numbers, I width of an input, O width of an output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskBlock(nn.Module):
    """A block of the parallel MaskNet (reference code: 4 blocks of width 2048).

        block(v) = Dropout(ReLU(LN(W (M(v) * v)))),      M(v) = U2 ReLU(U1 v)

    M has a bottleneck of a tenth of v's width.

    Examples:
        >>> MaskBlock(inputs=40, width=8, dropout=0.0)(torch.randn(3, 40)).shape
        torch.Size([3, 8])
    """

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        bottleneck = max(inputs // 10, 4)
        self.mask = nn.Sequential(
            nn.Linear(inputs, bottleneck), nn.ReLU(), nn.Linear(bottleneck, inputs)
        )
        self.out = nn.Sequential(
            # LayerNorm's shift is the bias.
            nn.Linear(inputs, width, bias=False),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, v_BI: Tensor) -> Tensor:
        """[B, I] -> [B, O]."""
        crossed_BO: Tensor = self.out(self.mask(v_BI) * v_BI)
        return crossed_BO


class Numeric(nn.Module):
    """Numbers through a learned mix of three views: raw, log1p and z-score (as the reference code).

    A missing number (NaN) is 0 after the mix; an indicator beside each number says so. The
    statistics of the views are set once from training data (``fit``) and saved as weights are.

    Examples:
        >>> numeric = Numeric(features=1)
        >>> numeric.fit(torch.tensor([[0.0], [100.0]]))
        >>> numeric(torch.tensor([[100.0], [torch.nan]])).tolist()  # [the mix, is it missing]
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(features, 3))
        for name, start in (("low", 0.0), ("high", 1.0), ("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((features,), start))

    @property
    def width(self) -> int:
        """Output features: two for each number."""
        return 2 * self.mix.shape[0]

    def fit(self, sample_nF: Tensor) -> None:
        """Set ranges, means and deviations from a sample of n training rows."""
        for f in range(self.mix.shape[0]):
            known = sample_nF[:, f][sample_nF[:, f].isfinite()]
            if known.numel():
                self.low[f], self.high[f] = known.min(), known.max()
                self.mean[f] = known.mean()
                self.std[f] = known.std(unbiased=False).clamp(min=1e-6)

    def forward(self, values_BF: Tensor) -> Tensor:
        """[B, F] -> [B, 2 F]."""
        missing_BF = ~values_BF.isfinite()
        v_BF = torch.where(missing_BF, self.mean, values_BF).clamp(self.low, self.high)
        range_F = (self.high - self.low).clamp(min=1e-6)
        raw_BF = (v_BF - self.low) / range_F
        log_BF = torch.log1p(v_BF - self.low) / torch.log1p(range_F)
        z_BF = (v_BF - self.mean) / self.std
        views_BF3 = torch.stack((raw_BF, log_BF, z_BF), dim=-1)
        mixed_BF = (views_BF3 * self.mix.softmax(dim=-1)).sum(-1)
        return torch.cat((mixed_BF.masked_fill(missing_BF, 0.0), missing_BF.float()), dim=1)


class Precomputed(nn.Module):
    """A given embedding through LayerNorm and a linear map, and an indicator of a missing one.

    A missing embedding (any NaN in it) is zeros after the map. A catalogue without embeddings
    (``inputs`` 0) gives no columns at all.

    Examples:
        >>> Precomputed(inputs=3, out=8)(torch.tensor([[1.0, 2.0, 4.0], [torch.nan] * 3])).shape
        torch.Size([2, 9])
    """

    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.width = out + 1 if inputs else 0
        self.project = (
            nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, out)) if inputs else None
        )

    def forward(self, given_BI: Tensor) -> Tensor:
        """[B, I] -> [B, O + 1], or [B, 0] without embeddings."""
        if self.project is None:
            return given_BI
        missing_B1 = ~given_BI.isfinite().all(dim=1, keepdim=True)
        projected_BO = self.project(given_BI.masked_fill(missing_B1, 0.0))
        return torch.cat((projected_BO.masked_fill(missing_B1, 0.0), missing_B1.float()), dim=1)
