"""The tower body: parallel MaskNet blocks on one input, then an MLP (paper's feature crossing)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskBlock(nn.Module):
    """block(v) = Dropout(ReLU(LN(W (M(v) * v)))), M(v) = U2 ReLU(U1 v), bottleneck 0.1 dim(v)."""

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        bottleneck = max(inputs // 10, 4)
        self.mask = nn.Sequential(
            nn.Linear(inputs, bottleneck), nn.ReLU(), nn.Linear(bottleneck, inputs)
        )
        self.out = nn.Sequential(
            nn.Linear(inputs, width, bias=False),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, v: Tensor) -> Tensor:
        """[B, inputs] -> [B, width]."""
        crossed: Tensor = self.out(self.mask(v) * v)
        return crossed


class TowerBody(nn.Module):
    """LayerNorm, ``blocks`` parallel MaskNet blocks on the same input, MLP, linear output.

    No blocks leaves a plain MLP.
    """

    def __init__(
        self,
        inputs: int,
        blocks: int,
        width: int,
        hidden: tuple[int, ...],
        out: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.blocks = nn.ModuleList(MaskBlock(inputs, width, dropout) for _ in range(blocks))
        layers: list[nn.Module] = []
        size = blocks * width or inputs
        for h in hidden:
            layers += [nn.Linear(size, h), nn.ReLU(), nn.LayerNorm(h)]
            size = h
        self.mlp = nn.Sequential(*layers, nn.Linear(size, out))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Without it, an input that says nothing comes out as the zero vector, at which normalising
        # has a gradient of 1e12.
        nn.init.normal_(self.mlp[-1].bias, std=0.1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs] -> [B, out]."""
        return self.layers(features)[-1]

    def layers(self, features: Tensor) -> list[Tensor]:
        """Every layer's output, [B, its width]: the blocks', each hidden layer's, [B, out]."""
        v = self.norm(features)
        found = []
        if self.blocks:
            v = torch.cat([block(v) for block in self.blocks], dim=1)
            found.append(v)
        for step in self.mlp:
            v = step(v)
            if isinstance(step, nn.LayerNorm):
                found.append(v)
        return [*found, v]

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of :meth:`layers`."""
        linear = [m for m in self.mlp if isinstance(m, nn.Linear)]
        blocks = (linear[0].in_features,) if self.blocks else ()
        return (*blocks, *(m.out_features for m in linear))


class Numeric(nn.Module):
    """Numeric features through a learned mix of three views: raw, log1p and z-score.

    Statistics are set once from training data (:meth:`fit`) and saved with the weights. Missing
    values (NaN) become 0 after the mix, with an indicator beside each feature.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(features, 3))
        for name, start in (("low", 0.0), ("high", 1.0), ("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((features,), start))

    @property
    def width(self) -> int:
        """Output features: two for each input."""
        return 2 * self.mix.shape[0]

    def fit(self, sample: Tensor) -> None:
        """Set ranges from a sample [n, F] of training values."""
        for f in range(self.mix.shape[0]):
            known = sample[:, f][sample[:, f].isfinite()]
            if known.numel():
                self.low[f], self.high[f] = known.min(), known.max()
                self.mean[f] = known.mean()
                self.std[f] = known.std(unbiased=False).clamp(min=1e-6)

    def forward(self, values: Tensor) -> Tensor:
        """[B, F] -> [B, 2 F]."""
        missing = ~values.isfinite()
        v = torch.where(missing, self.mean, values).clamp(self.low, self.high)
        reach = (self.high - self.low).clamp(min=1e-6)
        raw = (v - self.low) / reach
        log = torch.log1p(v - self.low) / torch.log1p(reach)
        z = (v - self.mean) / self.std
        mixed = (torch.stack((raw, log, z), dim=-1) * self.mix.softmax(dim=-1)).sum(-1)
        return torch.cat((mixed.masked_fill(missing, 0.0), missing.float()), dim=1)


class Precomputed(nn.Module):
    """A given embedding, LayerNorm and a linear map, with an indicator of a missing one beside it.

    A missing embedding (NaN) is zeros after the map. Without embeddings the output has no columns.
    """

    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.width = out + 1 if inputs else 0
        self.project = (
            nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, out)) if inputs else None
        )

    def forward(self, values: Tensor) -> Tensor:
        """[B, inputs] -> [B, width]."""
        if self.project is None:
            return values
        missing = ~values.isfinite().all(dim=1, keepdim=True)
        given = self.project(values.masked_fill(missing, 0.0)).masked_fill(missing, 0.0)
        return torch.cat((given, missing.float()), dim=1)
