"""The fusion of the towers' dot product with the cross features (paper's figure: projection).

    logit_h(u, q, p) = s_h (a(r) <q_h, p> + w(r) . x + v . relu(U x + V phi(r)) + c_h) + t_h

r are the request's statistics, and x is standardised. Beyond the paper, g depends on r:
    a(r) = 100 sigmoid(a_0 + alpha . phi(r)),      w(r) = w_0 + W phi(r),      phi = clipped z-score
since how far the exact query's counts, or the user's past, can be trusted differs from request to
request. a, w and V phi are computed once per request. They are linear in x, so that a candidate
costs no more than under fixed weights: one dot of the towers' width and one of x's. A candidate
feature (price, distance …) that is absent counts as its median: its standardised value is 0, and
the column that says "absent" is 1. Each of the few
hidden units (``fusion_hidden``) adds one of x's. The dot enters nothing but its own product with
a > 0, as the operators of a search engine require.

s_h and t_h calibrate a head; they are 1 and 0 until
``interactrank.training.stacking.calibrate``. The head weights w_h of a request fuse on logits,
    sum_h w_h logit_h = a <sum_h w_h s_h q_h, p> + (sum_h w_h s_h) g(x) + constant,
so serving needs one dot product per candidate.

Shapes: B requests, N candidates of all of them, H heads, X cross features, R request statistics,
G = 1 + R sets of weights (1 where the fusion is not gated), J hidden units, F candidate features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MIN_STD = 0.05
NEVER_VARIES = 1e6
"""Scale of a feature that did not vary in training: it says nothing then, nor when it does."""
QUARTILES_OF_NORMAL = 1.349
"""Standard deviations from the lower to the upper quartile of a normal distribution."""
MAX_SCALE = 100.0
START_SCALE = 10.0
REACH = 3.0
"""Standard deviations at which phi is cut: a request unlike all others is not extrapolated."""


@dataclass(frozen=True)
class Coefficients:
    """The request side of the fusion: w(r) as a mixture of G sets of weights.

    ``scale`` [B] > 0 is a(r). ``mix`` [B, G] = (1, phi(r)). ``basis`` [G, X] and ``offset`` [G]:
    weights of x as it is, standardisation included. ``units`` [J, X] and ``shift`` [B, J]: the same
    of the hidden units, of which there may be none.
    """

    scale: Tensor
    mix: Tensor
    basis: Tensor
    offset: Tensor
    units: Tensor
    shift: Tensor

    @property
    def weights(self) -> Tensor:
        """Weights of x [B, X]."""
        return self.mix @ self.basis


@dataclass(frozen=True)
class Folded:
    """Head weights with the calibration folded in.

    ``heads`` [H]: weight of each head's query vector; ``cross``: factor of g(x); ``constant``.
    """

    heads: Tensor
    cross: Tensor
    constant: Tensor


class Fusion(nn.Module):
    """a(r) * dot + g(x; r) + c_h, with a kept positive; the dot never enters g.

    Args:
        crosses: X; 0 is the vanilla two-tower, with one scale and a bias.
        statistics: R.
        heads: H.
        gated: let scale, weights and hidden units depend on the request's statistics.
        hidden: J, units of the non-linear part; 0 for none.
        optional: F, features that may be absent: the last 2 F columns of x are the value of each,
            0 where it is absent, and whether it is.
        signs: of each of the X columns 1 or -1 where g may only rise or fall with it, else 0; none
            is all 0. Such a column has its own weight of that sign, or of 0, and nothing else.

    Examples:
        >>> fusion = Fusion(crosses=7, statistics=3, heads=2, gated=True, hidden=0)
        >>> dots, x, request = torch.rand(5, 2), torch.rand(5, 7), torch.rand(2, 3)
        >>> fusion.logits(dots, x, request, torch.tensor([0, 0, 0, 1, 1])).shape
        torch.Size([5, 2])
        >>> folded = fusion.fold(torch.tensor([0.5, 0.5]))  # both heads rank alike
        >>> folded.heads.tolist(), folded.cross.item()
        ([0.5, 0.5], 1.0)
    """

    slope: Tensor
    shift: Tensor
    x_mean: Tensor
    x_std: Tensor
    request_mean: Tensor
    request_std: Tensor
    signs: Tensor

    def __init__(
        self,
        crosses: int,
        statistics: int,
        heads: int,
        gated: bool,
        hidden: int,
        optional: int = 0,
        signs: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.crosses = crosses
        # Not of the state: whoever builds the model says it.
        held = torch.tensor(signs or [0] * crosses, dtype=torch.float32)
        self.register_buffer("signs", held, persistent=False)
        self.first_optional = crosses - 2 * optional
        # a is the sigmoid of it, scaled: positive whatever is learned, and START_SCALE at first.
        self.raw_scale = nn.Parameter(torch.tensor(START_SCALE / MAX_SCALE).logit())
        self.bias = nn.Parameter(torch.zeros(heads))
        for name, value in (("slope", 1.0), ("shift", 0.0)):
            self.register_buffer(name, torch.full((heads,), value))
        self.gate: nn.Linear | None = None
        self.units: nn.Linear | None = None
        if not crosses:
            return
        self.weight = nn.Parameter(torch.where(held == 0, 0.1, 0.1 * held))
        if gated:
            # Row 0 is alpha, the others are W; zeros, so that learning starts at fixed weights.
            self.gate = nn.Linear(statistics, crosses + 1, bias=False)
            nn.init.zeros_(self.gate.weight)
        if hidden:
            # U and, where the request has a say, V beside it.
            self.units = nn.Linear(crosses + (statistics if gated else 0), hidden)
            self.unit_weight = nn.Parameter(0.1 * torch.randn(hidden))
        for name, width in (("x", crosses), ("request", statistics)):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))

    def fit(self, x_nX: Tensor, request_mR: Tensor) -> None:
        """Set the standardisation from n training candidates and m requests."""
        std_X = x_nX.std(0, unbiased=False)
        self.x_mean.copy_(x_nX.mean(0))
        # A feature rarely seen in training must not be stretched when it is met: x is of order 1.
        self.x_std.copy_(torch.where(std_X < 1e-6, NEVER_VARIES, std_X.clamp(min=MIN_STD)))
        for column in range(self.first_optional, self.crosses, 2):
            known_n = x_nX[:, column][x_nX[:, column + 1] == 0]
            self.x_mean[column], self.x_std[column] = _robust(known_n)
        for r in range(request_mR.shape[1]):
            known = request_mR[:, r][request_mR[:, r].isfinite()]
            if known.numel():
                std = known.std(unbiased=False)
                self.request_mean[r] = known.mean()
                self.request_std[r] = std if std > 1e-6 else NEVER_VARIES

    def fixed_weights(self) -> Tensor:
        """w_0 [X], weights of standardised x for a request with mean statistics."""
        held_X = self.signs * (self.signs * self.weight).clamp(min=0)
        return torch.where(self.signs == 0, self.weight, held_X)

    def coefficients(self, request_BR: Tensor) -> Coefficients:
        """Scale and weights of requests from their statistics, NaN where unknown."""
        raw_B = self.raw_scale.expand(len(request_BR))
        mix_BG = request_BR.new_ones(len(request_BR), 1)
        if not self.crosses:
            none_GX, none_BJ = request_BR.new_zeros(1, 0), request_BR.new_zeros(len(request_BR), 0)
            scale_B = MAX_SCALE * raw_B.sigmoid()
            return Coefficients(scale_B, mix_BG, none_GX, none_GX.sum(1), none_GX, none_BJ)
        free_X = self.signs == 0
        basis_GX, phi_BR = self.fixed_weights().unsqueeze(0), mix_BG[:, 1:]
        if self.gate is not None:
            phi_BR = ((request_BR - self.request_mean) / self.request_std).clamp(-REACH, REACH)
            phi_BR = torch.where(request_BR.isfinite(), phi_BR, 0.0)
            raw_B = raw_B + phi_BR @ self.gate.weight[0]
            mix_BG = torch.cat((mix_BG, phi_BR), 1)
            basis_GX = torch.cat((basis_GX, self.gate.weight[1:].T * free_X))
        basis_GX = basis_GX / self.x_std
        units_JX, shift_BJ = basis_GX[:0], mix_BG[:, :0]
        if self.units is not None:
            units_JX, of_phi_JR = self.units.weight.split((self.crosses, phi_BR.shape[1]), 1)
            units_JX = units_JX * free_X / self.x_std
            shift_BJ = phi_BR @ of_phi_JR.T + self.units.bias - units_JX @ self.x_mean
        scale_B, offset_G = MAX_SCALE * raw_B.sigmoid(), -basis_GX @ self.x_mean
        basis_GX, units_JX = self._of_absent(basis_GX), self._of_absent(units_JX)
        return Coefficients(scale_B, mix_BG, basis_GX, offset_G, units_JX, shift_BJ)

    def _of_absent(self, weights_nX: Tensor) -> Tensor:
        """Weights of x under which an absent value, which is 0 in x, counts as the median."""
        first = self.first_optional
        if first == self.crosses:
            return weights_nX
        of_value_nF, of_absent_nF = weights_nX[:, first::2], weights_nX[:, first + 1 :: 2]
        of_absent_nF = of_absent_nF + of_value_nF * self.x_mean[first::2]
        pairs_nF2 = torch.stack((of_value_nF, of_absent_nF), dim=-1)
        return torch.cat((weights_nX[:, :first], pairs_nF2.flatten(1)), dim=1)

    def cross_score(
        self, x_NX: Tensor, coefficients: Coefficients, candidate_request_N: Tensor
    ) -> Tensor:
        """g(x; r) [N] of candidates; int64 ``candidate_request_N`` is the request of each."""
        c = coefficients
        if not self.crosses:
            return x_NX.new_zeros(x_NX.shape[0])
        # The same product, in the order that costs least: for one request its weights first.
        one = len(c.mix) == 1
        if one:
            g_N = (x_NX @ c.weights.T).squeeze(1) + c.mix[0] @ c.offset
        else:
            mix_NG = c.mix.index_select(0, candidate_request_N)
            g_N = torch.linalg.vecdot(x_NX @ c.basis.T + c.offset, mix_NG)
        if len(c.units):
            shift_NJ = c.shift[0] if one else c.shift.index_select(0, candidate_request_N)
            units_NJ = torch.relu(torch.addmm(shift_NJ, x_NX, c.units.T))
            g_N = g_N + (units_NJ @ self.unit_weight.unsqueeze(1)).squeeze(1)
        return g_N

    def logits(
        self, dots_NH: Tensor, x_NX: Tensor, request_BR: Tensor, candidate_request_N: Tensor
    ) -> Tensor:
        """Logits [N, H] of the candidates of B requests."""
        return self.joined(dots_NH, x_NX, self.coefficients(request_BR), candidate_request_N)

    def joined(
        self, dots_NH: Tensor, x_NX: Tensor, coefficients: Coefficients, candidate_request_N: Tensor
    ) -> Tensor:
        """Logits [N, H] from the coefficients of the B requests."""
        scale_N1 = coefficients.scale.index_select(0, candidate_request_N).unsqueeze(1)
        g_N1 = self.cross_score(x_NX, coefficients, candidate_request_N).unsqueeze(1)
        return self.slope * (scale_N1 * dots_NH + g_N1 + self.bias) + self.shift

    def fold(self, head_weights_H: Tensor) -> Folded:
        """What a request's head weights (sum 1) come to, calibration included."""
        heads_H = head_weights_H * self.slope
        return Folded(heads_H, heads_H.sum(), heads_H @ self.bias + head_weights_H @ self.shift)


def _robust(known_n: Tensor) -> tuple[float, float]:
    """Median and scale of the values of a candidate feature, whose unit is the caller's own.

    A few wrong values move neither. The scale is that of the quartiles, but at least a third of the
    standard deviation, where most values are alike, and a thousandth of the median, below which
    float32 would say more of its rounding than of the value.
    """
    if not known_n.numel() or known_n.min() == known_n.max():
        return 0.0, NEVER_VARIES
    ordered_n = known_n.sort().values
    low, median, high = (
        float(ordered_n[round(share * (len(ordered_n) - 1))]) for share in (0.25, 0.5, 0.75)
    )
    third = float(known_n.std(unbiased=False)) / 3
    return median, max((high - low) / QUARTILES_OF_NORMAL, third, abs(median) / 1000)
