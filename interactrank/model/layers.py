"""Layers of both towers: mask blocks, the body that they stand in, and how numbers and given
embeddings enter.

Shapes: B rows of a batch, F numbers, I width of an input, O width of an output.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from interactrank.kernels import kernel
from interactrank.model.config import ModelConfig


@kernel
def _add_means(
    out: NDArray[np.float32],
    words: NDArray[np.int64],
    offsets: NDArray[np.int64],
    of_means: NDArray[np.float32],
) -> None:
    for b in range(offsets.size):
        first = offsets[b]
        end = offsets[b + 1] if b + 1 < offsets.size else words.size
        if end > first:
            share = of_means[b] / of_means.dtype.type(end - first)
            for k in range(first, end):
                out[words[k]] += share


class _Means(torch.autograd.Function):
    """Means of the rows of a table, bag by bag."""

    @staticmethod
    def forward(ctx: Any, table_VT: Tensor, words: Tensor, offsets_B: Tensor) -> Tensor:
        ctx.save_for_backward(words, offsets_B)
        ctx.rows = len(table_VT)
        return F.embedding_bag(words, table_VT, offsets_B, mode="mean")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_means_BT: Tensor) -> tuple[Tensor, None, None]:
        words, offsets_B = ctx.saved_tensors
        of_table_VT = of_means_BT.new_zeros(ctx.rows, of_means_BT.shape[1])
        given = (words, offsets_B, of_means_BT.contiguous())
        _add_means(of_table_VT.numpy(), *(tensor.numpy() for tensor in given))
        return of_table_VT, None, None


class MeanBag(nn.EmbeddingBag):
    """torch's bag of embeddings, their mean, with a backward pass of our own on a processor.

    torch's sorts all words of the batch first, and takes eight times as long.

    Examples:
        >>> bag = MeanBag(words=9, width=4)
        >>> bag(torch.tensor([1, 5, 5]), torch.tensor([0, 1, 3])).shape  # the third bag is empty
        torch.Size([3, 4])
    """

    def __init__(self, words: int, width: int) -> None:
        super().__init__(words, width, mode="mean")

    def forward(self, words: Tensor, offsets_B: Tensor) -> Tensor:  # type: ignore[override]
        """Int64 ``words`` of bags that begin at ``offsets_B`` -> [B, T]."""
        learns = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if learns and self.weight.device.type == "cpu":
            means_BT: Tensor = _Means.apply(self.weight, words, offsets_B)  # type: ignore[no-untyped-call]
            return means_BT
        return super().forward(words, offsets_B)


class Dropout(nn.Dropout):
    """torch's dropout, with the few units that it drops drawn one by one on a processor.

    Each draw hits any unit. Their number has a Poisson distribution, so every unit is spared, by
    itself, with probability exp(-draws / units) = 1 - p. A draw for each unit, as torch has it,
    takes three times as long where p is small.

    Examples:
        >>> float((Dropout(0.25)(torch.ones(1000, 1000)) == 0).float().mean().round(decimals=2))
        0.25
    """

    def forward(self, v: Tensor) -> Tensor:
        """Of any shape."""
        if not (self.training and 0 < self.p < 1 and v.device.type == "cpu"):
            return super().forward(v)
        draws = torch.poisson(torch.tensor(-v.numel() * math.log1p(-self.p)))
        kept = torch.full_like(v, 1 / (1 - self.p), requires_grad=False)
        kept.view(-1)[torch.randint(v.numel(), (int(draws),))] = 0.0
        return v * kept


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
            Dropout(dropout),
        )

    def forward(self, v_BI: Tensor) -> Tensor:
        """[B, I] -> [B, O]."""
        crossed_BO: Tensor = self.out(self.mask(v_BI) * v_BI)
        return crossed_BO


class TowerBody(nn.Module):
    """LayerNorm, parallel mask blocks, an MLP, a linear output (paper's figure: feature crossing).

    The blocks all read the same input and are concatenated; with none, a plain MLP is left.

    Examples:
        >>> body = TowerBody(inputs=40, out=64, config=ModelConfig(mask_width=10, hidden=(30, 20)))
        >>> [layer.shape[1] for layer in body.layers(torch.randn(3, 40))]
        [20, 30, 20, 64]
    """

    def __init__(self, inputs: int, out: int, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.blocks = nn.ModuleList(
            MaskBlock(inputs, config.mask_width, config.dropout) for _ in range(config.mask_blocks)
        )
        size = config.mask_blocks * config.mask_width or inputs
        self.widths = (*((size,) if self.blocks else ()), *config.hidden, out)
        steps: list[nn.Module] = []
        for width in config.hidden:
            steps += [nn.Linear(size, width), nn.ReLU(), nn.LayerNorm(width)]
            size = width
        last = nn.Linear(size, out)
        self.mlp = nn.Sequential(*steps, last)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # A zero bias would make an input that says nothing the zero vector, and L2 normalisation
        # has a gradient of 1e12 there.
        nn.init.normal_(last.bias, std=0.1)

    def forward(self, features_BI: Tensor) -> Tensor:
        """[B, I] -> [B, O]."""
        return self.layers(features_BI)[-1]

    def layers(self, features_BI: Tensor) -> list[Tensor]:
        """Every layer's output, of ``widths``: the blocks', each hidden layer's, the last."""
        v = self.norm(features_BI)
        found = []
        if self.blocks:
            v = torch.cat([block(v) for block in self.blocks], dim=1)
            found.append(v)
        for step in self.mlp:
            v = step(v)
            if isinstance(step, nn.LayerNorm):  # the end of a hidden layer
                found.append(v)
        return [*found, v]


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

    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

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
