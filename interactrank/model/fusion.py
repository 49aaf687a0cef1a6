"""The fusion of the towers' dot product with the cross features (paper: the projection layer).

    logit_h(u, q, p) = s_h (a(r) <q_h, p> + w(r) . x + v . relu(U x + V phi(r)) + c_h) + t_h

r are the request's statistics, and x is standardised. Beyond the paper, g depends on r:
    a(r) = 100 sigmoid(a_0 + alpha . phi(r)),      w(r) = w_0 + W phi(r),      phi = clipped z-score
since how far the exact query's counts, or the user's past, can be trusted differs from request to
request. a, w and V phi are computed once a request: linear, a candidate costs no more than under
fixed weights, one dot of the towers' width and one of x's; each of the few hidden units
(``fusion_hidden``) adds one of x's. The dot never enters anything but its own product with a > 0,
as a search engine's operators require.

s_h and t_h calibrate a head; they are 1 and 0 until
:func:`interactrank.training.stacking.calibrate`. The head weights w_h of a request fuse on logits,
    sum_h w_h logit_h = a <sum_h w_h s_h q_h, p> + (sum_h w_h s_h) g(x) + constant,
so serving needs one dot product a candidate.

Shapes: B requests, N candidates of all of them, H heads, X cross features, R request statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

MIN_STD = 0.05
NEVER_VARIES = 1e6
"""Scale of a feature that did not vary in training: it says nothing then, nor when it does."""
MAX_SCALE = 100.0
START_SCALE = 10.0
REACH = 3.0
"""Standard deviations at which phi is cut: a request unlike all others is not extrapolated."""


@dataclass(frozen=True)
class Coefficients:
    """The request side of the fusion: w(r) as a mixture of a few sets of weights.

    ``scale`` [B] > 0; ``mix`` [B, 1 + R] = (1, phi(r)); ``basis`` [1 + R, X] and ``offset``
    [1 + R]: weights of x as it is, standardisation included. ``units`` [units, X] and ``shift``
    [B, units]: the same of the hidden units, of which there may be none.
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
        hidden: units of the non-linear part; 0 for none.
    """

    def __init__(self, crosses: int, statistics: int, heads: int, gated: bool, hidden: int) -> None:
        super().__init__()
        start = torch.tensor(START_SCALE / MAX_SCALE).logit()
        self.raw_scale = nn.Parameter(start)
        self.bias = nn.Parameter(torch.zeros(heads))
        for name, value in (("slope", 1.0), ("shift", 0.0)):
            self.register_buffer(name, torch.full((heads,), value))
        self.crosses = crosses
        self.gate: nn.Linear | None = None
        if not crosses:
            return
        self.weight = nn.Parameter(torch.full((crosses,), 0.1))
        if gated:
            self.gate = nn.Linear(statistics, crosses + 1, bias=False)
            nn.init.zeros_(self.gate.weight)
        self.units: nn.Linear | None = None
        if hidden:
            # Of x and, where the request has a say, phi.
            self.units = nn.Linear(crosses + (statistics if gated else 0), hidden)
            self.unit_weight = nn.Parameter(0.1 * torch.randn(hidden))
        for name, width in (("x", crosses), ("request", statistics)):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))

    def fit(self, x: Tensor, request: Tensor) -> None:
        """Set the standardisation from training candidates [n, X] and requests [m, R]."""
        std = x.std(0, unbiased=False)
        self.x_mean.copy_(x.mean(0))
        # A feature rarely seen in training must not be stretched when it is met: x is of order 1.
        self.x_std.copy_(torch.where(std < 1e-6, NEVER_VARIES, std.clamp(min=MIN_STD)))
        for r in range(request.shape[1]):
            known = request[:, r][request[:, r].isfinite()]
            if known.numel():
                std = known.std(unbiased=False)
                self.request_mean[r] = known.mean()
                self.request_std[r] = std if std > 1e-6 else NEVER_VARIES

    def coefficients(self, request: Tensor) -> Coefficients:
        """Scale and weights of B requests from their statistics [B, R], NaN where unknown."""
        raw, mix = self.raw_scale.expand(len(request)), request.new_ones(len(request), 1)
        if not self.crosses:
            none, nothing = request.new_zeros(1, 0), request.new_zeros(len(request), 0)
            return Coefficients(MAX_SCALE * raw.sigmoid(), mix, none, none.sum(1), none, nothing)
        basis, phi = self.weight.unsqueeze(0), mix[:, 1:]
        if self.gate is not None:
            phi = ((request - self.request_mean) / self.request_std).clamp(-REACH, REACH)
            phi = torch.where(request.isfinite(), phi, 0.0)
            raw = raw + phi @ self.gate.weight[0]
            mix, basis = torch.cat((mix, phi), 1), torch.cat((basis, self.gate.weight[1:].T))
        basis = basis / self.x_std
        units, shift = basis[:0], mix[:, :0]
        if self.units is not None:
            units, of_phi = self.units.weight.split((self.crosses, phi.shape[1]), 1)
            units = units / self.x_std
            shift = phi @ of_phi.T + self.units.bias - units @ self.x_mean
        return Coefficients(
            MAX_SCALE * raw.sigmoid(), mix, basis, -basis @ self.x_mean, units, shift
        )

    def cross_score(self, x: Tensor, coefficients: Coefficients, request: Tensor) -> Tensor:
        """g(x; r) [N] for cross features x [N, X] of the requests ``request`` int64 [N]."""
        c = coefficients
        if not self.crosses:
            return x.new_zeros(x.shape[0])
        # The same product, in the order that costs least: for one request its weights first.
        one = len(c.mix) == 1
        if one:
            out = (x @ c.weights.T).squeeze(1) + c.mix[0] @ c.offset
        else:
            out = torch.linalg.vecdot(x @ c.basis.T + c.offset, c.mix.index_select(0, request))
        if len(c.units):
            shift = c.shift[0] if one else c.shift.index_select(0, request)
            units = torch.relu(torch.addmm(shift, x, c.units.T))
            out = out + (units @ self.unit_weight.unsqueeze(1)).squeeze(1)
        return out

    def logits(self, dots: Tensor, x: Tensor, request: Tensor, candidate_request: Tensor) -> Tensor:
        """Logits [N, H] of candidates with ``dots`` [N, H], x [N, X], requests [B, R]."""
        coefficients = self.coefficients(request)
        scaled = coefficients.scale.index_select(0, candidate_request).unsqueeze(1) * dots
        cross_score = self.cross_score(x, coefficients, candidate_request).unsqueeze(1)
        return self.slope * (scaled + cross_score + self.bias) + self.shift

    def fold(self, head_weights: Tensor) -> Folded:
        """What a request's head weights [H] (sum 1) come to, calibration included."""
        heads = head_weights * self.slope
        return Folded(heads, heads.sum(), heads @ self.bias + head_weights @ self.shift)
