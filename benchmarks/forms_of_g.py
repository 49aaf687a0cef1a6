"""Forms that g(x) could have, fitted without a dot as a job fits it.

Each is InteractRank's ``Fusion`` over columns that are made of x: products of two of its columns,
or hinges, which bend a column at its quantiles. ``gated`` replaces each two hidden units by one
that is the product of a linear unit and a sigmoid of another (Dauphin et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interactrank.features.batch import RequestArrays
from interactrank.features.schema import FeatureSchema
from interactrank.model.config import ModelConfig
from interactrank.model.cost import flops_of_g
from interactrank.model.fusion import REACH, Coefficients, Fusion
from interactrank.training.losses import LossConfig
from interactrank.training.stacking import HeldOut, refit
from prerank.evaluation.baselines.samples import owners

KNOTS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Form:
    """A form of g: hidden units, products of the trees' strongest pairs, hinges, gated units.

    ``first_head`` fits the ranking head alone, as the trees do; all heads share g. ``rising`` and
    ``falling`` columns are held to their direction, where the log has all of them.
    """

    name: str
    hidden: int = ModelConfig.fusion_hidden
    products: int = 0
    hinges: bool = False
    gated: bool = False
    first_head: bool = False
    rising: tuple[str, ...] = ()
    falling: tuple[str, ...] = ()

    def suits(self, schema: FeatureSchema) -> bool:
        """Whether a log has what the form needs."""
        known = {*self.rising, *self.falling} <= set(schema.cross)
        return known and (not self.first_head or len(schema.heads) > 1)


DEFAULT = Form("16 units")
FORMS = (
    DEFAULT,
    Form("linear", hidden=0),
    Form("32 units", hidden=32),
    Form("64 units", hidden=64),
    Form("16 units + 4 products", products=4),
    Form("16 units + 8 products", products=8),
    Form("8 gated units", gated=True),
    Form("linear + hinges", hidden=0, hinges=True),
    Form("16 units, first head alone", first_head=True),
    Form(
        "16 units, rank and price monotone",
        rising=("retriever:inverse_rank",),
        falling=("retriever:log_rank", "candidate:price"),
    ),
)


class GatedUnits(Fusion):
    """g whose J hidden units are a linear one times the sigmoid of another; ``hidden`` is 2 J."""

    def __init__(
        self, crosses: int, statistics: int, heads: int, gated: bool, hidden: int, optional: int
    ) -> None:
        super().__init__(crosses, statistics, heads, gated, hidden, optional)
        self.unit_weight = nn.Parameter(0.1 * torch.randn(hidden // 2))

    def cross_score(
        self, x_NX: Tensor, coefficients: Coefficients, candidate_request_N: Tensor
    ) -> Tensor:
        """g(x; r) [N], as ``Fusion.cross_score``."""
        c = coefficients
        linear = replace(c, units=c.units[:0], shift=c.shift[:, :0])
        both_N2J = x_NX @ c.units.T + c.shift.index_select(0, candidate_request_N)
        value_NJ, gate_NJ = both_N2J.chunk(2, 1)
        of_units_N = (value_NJ * gate_NJ.sigmoid()) @ self.unit_weight
        return super().cross_score(x_NX, linear, candidate_request_N) + of_units_N


class Columns:
    """x with what a form adds in front of it, from standardised columns cut at ±3."""

    def __init__(
        self, form: Form, x: Tensor, optional: int, pairs: Sequence[tuple[int, int]]
    ) -> None:
        self.base, self.hinges = Fusion(x.shape[1], 0, 1, False, 0, optional), form.hinges
        self.base.fit(x, x[:, :0])
        self.left, self.right = (
            torch.tensor([p[i] for p in pairs[: form.products]], dtype=torch.int64) for i in (0, 1)
        )
        if form.hinges:
            self.bent, self.knots = self._knots(self._standard(x))
        self.added = len(self.left) + (len(self.bent) if form.hinges else 0)

    @staticmethod
    def _knots(z: Tensor) -> tuple[Tensor, Tensor]:
        """Columns and places of hinges: quantiles of what a column has beside its least value."""
        found = []
        for column in range(z.shape[1]):
            values = z[:, column]
            more = values[values > values.min() + 1e-6].numpy()
            if not len(more):
                continue
            places = np.unique(np.quantile(more, KNOTS))
            found += [(column, place) for place in places if place < float(values.max()) - 1e-6]
        return torch.tensor([c for c, _ in found]), torch.tensor([float(k) for _, k in found])

    def _standard(self, x: Tensor) -> Tensor:
        base, z = self.base, (x - self.base.x_mean) / self.base.x_std
        first = base.first_optional
        if first < base.crosses:
            # An absent value counts as the median.
            z[:, first::2] = torch.where(x[:, first + 1 :: 2] > 0, 0.0, z[:, first::2])
        return z.clamp(-REACH, REACH)

    def of(self, x: Tensor) -> Tensor:
        """float32 [N, added + X] of x [N, X]."""
        if not self.added:
            return x
        z = self._standard(x)
        parts = [z[:, self.left] * z[:, self.right]]
        if self.hinges:
            parts.append((z[:, self.bent] - self.knots).relu())
        return torch.cat([*parts, x], 1)


class G:
    """A form of g fitted on ``data``, as a ranker; ``pairs`` of columns are the trees', best first.

    ``flops`` are those of g alone, per candidate. A product or a hinge is one more.
    """

    def __init__(
        self,
        form: Form,
        data: Sequence[HeldOut],
        schema: FeatureSchema,
        pairs: Sequence[tuple[int, int]],
        loss: LossConfig,
    ) -> None:
        if form.first_head:
            data = [replace(h, dots=h.dots[:, :1], labels=h.labels[:, :1]) for h in data]
        x, statistics = (torch.cat([getattr(h, n) for h in data]) for n in ("x", "statistics"))
        self.name = form.name
        optional = len(schema.candidate_features)
        self.columns = Columns(form, x, optional, pairs)
        own = [replace(h, x=self.columns.of(h.x)) for h in data]
        width, heads = own[0].x.shape[1], own[0].dots.shape[1]
        sizes = width, statistics.shape[1], heads, True, form.hidden, optional
        signs: tuple[int, ...] = ()
        if form.rising or form.falling:
            of_x = ModelConfig(rising=form.rising, falling=form.falling).signs(schema.cross)
            signs = (*[0] * self.columns.added, *of_x)
        torch.manual_seed(0)
        self.fusion = GatedUnits(*sizes) if form.gated else Fusion(*sizes, signs=signs)
        self.fusion.fit(torch.cat([h.x for h in own]), statistics)
        refit(self.fusion, own, loss)
        self.flops = flops_of_g(width, form.hidden) + self.columns.added
        if form.gated:
            # Half as many units to sum, and a product for each.
            self.flops -= form.hidden // 2

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Values of g, one a candidate, [N]."""
        with torch.inference_mode():
            coefficients = self.fusion.coefficients(torch.from_numpy(arrays.request))
            x = self.columns.of(torch.from_numpy(arrays.x))
            of = torch.from_numpy(owners(arrays))
            scores: NDArray[np.float32] = self.fusion.cross_score(x, coefficients, of).numpy()
        return scores
