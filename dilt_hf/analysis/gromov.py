"""Gromov-Wasserstein distances between the layers of networks.

The same n probe inputs go through two networks. A layer is the metric space of its n representations (`spaces`), and
the value of two layers is

    G = min over couplings of mean (D1[i, j] − D2[σ(i), σ(j)])²          in [0, 2], since mean D² = 1

(squared loss, no ½, no root). Distances of negative type make the objective concave over the couplings, so its minimum
is at a permutation σ and Frank-Wolfe always takes the whole step: one product of two matrices, one assignment problem.
Written with D1 and D2 minus their row means, that product *is* the gradient with row and column means 0, so float32
suffices, nothing need be centred, and half the diagonal is a good first guess of the prices. When a step moves few
points, only their rows of the product are computed again. The value is evaluated in float64 without expanding the
square, which would cancel, and a step so small that it may be rounding is taken only if the value falls.

Local minima are many. Starts: the *identity* (the probes are paired), the *profile* match (the assignment of the local
distributions of distances, whose cost is the lower bound), and the *product* coupling, from which POT starts: its first
step sorts both sides by mean distance. Exchanges of two points (`swaps`) go on where Frank-Wolfe stops.

| tier     | starts                       | until                                       | lower bound             |
|----------|------------------------------|---------------------------------------------|-------------------------|
| fast     | the better of identity and product (unpaired: profile) | a step promises < 0.1 % | global (SLB)   |
| default  | identity, profile, product   | a local minimum, then exchanges on the best | of local profiles (TLB) |
| thorough | identity, profile, product   | exchanges end, on each; then restarts       | of local profiles (TLB) |

Source: Peyré, Cuturi and Solomon, Gromov-Wasserstein averaging of kernel and distance matrices (2016), proposition 1,
for the product form; Mémoli, Gromov-Wasserstein distances and the metric approach to object matching (2011), sections 5
and 6, for the bounds; Maron and Lipman, (Probably) concave graph matching (2018), for concavity. How these are put
together is our own. The solver of the study that suggested this analysis (arXiv 2410.16484) could not be established.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any

import numpy as np
import torch

from dilt_hf.analysis.assignment import LARGEST, half_of_own, reassign, to_integers
from dilt_hf.analysis.spaces import MetricSpace, global_bound
from dilt_hf.analysis.swaps import exchange, mean_square_difference
from dilt_hf.utils.errors import AnalysisError
from dilt_hf.utils.seeding import derive_seed

TIERS = ("fast", "default", "thorough")
STARTS = ("identity", "profile", "product")
MOST_STEPS = 1000
RESTARTS = 10  # of the thorough tier
KICKED = 1 / 16  # of the points lose their partners at each restart
ENOUGH = 1e-3  # the fast tier stops at a step that promises less than this share of the value
ROUNDING = 1e-5  # a step that promises less than this share of the value is not taken unchecked
PROVEN = 1e-3  # a value this share above the lower bound ends the search
EXACT = 1e-12  # as does one that is rounding
AFRESH = 0.4  # of the rows moved: beyond it, the whole product costs less than its change

Permutation = np.ndarray
# A pair in the making asks for the product at a permutation (or, with None, of the profiles) and is sent it.
Steps = Generator[Permutation | None, np.ndarray, Any]


@dataclasses.dataclass(frozen=True)
class Pair:
    """What was found for two layers.

    Attributes:
        value: G.
        identity: the value of matching every input to itself; NaN for unpaired probes.
        lower_bound: no coupling has a smaller value.
        permutation: int32 (n,): input i of the one is matched to permutation[i] of the other.
        start: the one of `STARTS` that led to it.
        steps: products computed, over all starts.
        certified: dual prices prove that no linear step leads further (and, but in the fast tier, no exchange of two
            points does): up to rounding, the permutation is a local minimum. False where the search ended before.
    """

    value: float
    identity: float
    lower_bound: float
    permutation: Permutation
    start: str
    steps: int
    certified: bool


def solve(one: MetricSpace, other: MetricSpace, *, tier: str = "default", paired: bool = True) -> Pair:
    """Compute the Gromov-Wasserstein value of two spaces of n points each, the same on every machine up to rounding.

    `solve(b, a)` is `solve(a, b)` with the permutation inverted.

    Raises:
        AnalysisError: for an unknown tier, or spaces of unequal size.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(60, 5))
        >>> order = np.random.default_rng(1).permutation(60)
        >>> pair = solve(MetricSpace.of(points), MetricSpace.of(points[order]), paired=False)
        >>> round(pair.value, 9), bool((order[pair.permutation] == np.arange(60)).all())
        (0.0, True)
    """
    check_tier(tier)
    if len(one) != len(other):
        raise AnalysisError(
            f"the spaces have {len(one)} and {len(other)} points; `gw_matrix` passes such pairs to POT."
        )
    return _here(one, other, tier, paired)


# --- one pair, as a sequence of steps that each need a product -------------------------------------------------------


def solving(one: MetricSpace, other: MetricSpace, tier: str, paired: bool) -> Steps:
    """Solve a pair, yielding whenever a matrix product is needed; return the `Pair`."""
    n = len(one)
    search = _Search(one, other, exchanges=tier != "fast")
    identity = np.arange(n, dtype=np.int32)
    unmoved = search.value(identity) if paired else np.nan
    if tier == "fast":
        bound = global_bound(one, other)
        if paired:
            sorted_match = search.sorted_match()
            nearer = search.value(sorted_match) < unmoved
            name, start = ("product", sorted_match) if nearer else ("identity", identity)
        else:
            name, start = "profile", (yield from search.profile_match())[0]
        best = yield from search.climb(name, start, exchanges=False, enough=ENOUGH)
    else:
        match, bound = yield from search.profile_match()
        starts = {"identity": identity} if paired else {}
        starts |= {"profile": match, "product": search.sorted_match()}
        found: list[_Found] = []
        for name, start in starts.items():
            if not found or not search.is_proven(best.value, bound):
                found.append((yield from search.climb(name, start, exchanges=tier == "thorough")))
                best = min(found, key=lambda each: each.value)  # the first of those that agree
        if not search.is_proven(best.value, bound):
            if tier == "default":
                best = yield from search.climb(best.start, best.permutation, exchanges=True, prices=best.prices)
            else:
                best = yield from search.restarts(best)
    return Pair(best.value, unmoved, min(bound, best.value), best.permutation, best.start, search.steps, best.certified)


@dataclasses.dataclass(frozen=True)
class _Found:
    value: float
    permutation: Permutation
    start: str
    prices: np.ndarray
    certified: bool


class _Search:
    """The search for one pair, with the buffers that its steps share."""

    def __init__(self, one: MetricSpace, other: MetricSpace, exchanges: bool):
        self.one, self.other = one, other
        self.integers = np.empty((len(one), len(one)), np.int32)
        self.scale = _scale(one.largest_centred * other.largest_centred)
        self.steps = 0

    def value(self, columns: Permutation) -> float:
        return float(mean_square_difference(self.one.distances, self.other.distances, columns))

    @staticmethod
    def is_proven(value: float, bound: float) -> bool:
        """Return whether a value is as good as the bound says that any can be."""
        return value - bound <= PROVEN * value or value < EXACT

    def sorted_match(self) -> Permutation:
        """Match points in the order of their mean distances: where the first step from the product coupling leads."""
        columns = np.empty(len(self.one), np.int32)
        columns[self.one.by_mean_distance] = self.other.by_mean_distance
        return columns

    def profile_match(self) -> Generator[None, np.ndarray, tuple[Permutation, float]]:
        """Find the assignment of least mean squared difference between local profiles; return it and its cost, a lower
        bound.
        """
        product = yield None
        columns = self.sorted_match()
        one, other = self.one.profiles, self.other.profiles
        to_integers(product, _scale(self.one.largest_profile * self.other.largest_profile), self.integers)
        reassign(self.integers, columns, half_of_own(self.integers, columns))
        self.steps += 1
        difference = (one - other[columns]).astype(np.float64) + (self.one.mean_profile - self.other.mean_profile)
        return columns, float((difference**2).mean())

    def climb(
        self,
        start: str,
        columns: Permutation,
        exchanges: bool,
        prices: np.ndarray | None = None,
        enough: float = 0.0,
    ) -> Generator[Permutation, np.ndarray, _Found]:
        """Run Frank-Wolfe from a permutation, with exchanges where it stops, until neither improves the value, or until
        a step promises less than the fraction `enough` of it; yield the products that it needs.
        """
        columns, certified = columns.copy(), False
        value = self.value(columns)  # and from the first step on, an upper bound of it
        for _ in range(MOST_STEPS):
            product = yield columns
            self.steps += 1
            to_integers(product, self.scale, self.integers)
            if prices is None:
                prices = half_of_own(self.integers, columns)
            before = columns.copy()
            gain = reassign(self.integers, columns, prices)
            promised = 4 * float(gain) / float(self.scale) / len(columns) ** 2  # concave: it falls by that at least
            if promised > ROUNDING * value:
                value -= promised
                if promised < enough * value:
                    break
                continue
            if gain:
                reached, value = self.value(columns), self.value(before)
                if reached < value * (1 - 1e-9):
                    value = reached
                    continue
                columns[:] = before
            if not exchanges or not exchange(self.one.distances, self.other.distances, product, columns):
                certified = True
                break
            value = self.value(columns)
        # the first step makes prices where none were given
        return _Found(self.value(columns), columns, start, prices, certified)  # type: ignore[arg-type]

    def restarts(self, best: _Found) -> Generator[Permutation, np.ndarray, _Found]:
        """Climb from the best permutation with a few points rotated among themselves (iterated local search)."""
        seed = derive_seed(0, "restarts", self.one.fingerprint, self.other.fingerprint)
        rng = np.random.default_rng(seed)
        n = len(self.one)
        for _ in range(RESTARTS if n > 2 else 0):
            columns = best.permutation.copy()
            kicked = rng.choice(n, size=min(n, max(3, round(KICKED * n))), replace=False)
            columns[kicked] = np.roll(columns[kicked], 1)
            found = yield from self.climb(best.start, columns, exchanges=True)
            if found.value < best.value:
                best = found
        return best


def _scale(most: float) -> np.float32:
    """Return the factor that maps numbers up to `most` onto the whole range of the integers."""
    return np.float32(float(LARGEST) / most if most > 1e-12 else 1.0)


# --- where the products are computed ---------------------------------------------------------------------------------


def _here(one: MetricSpace, other: MetricSpace, tier: str, paired: bool) -> Pair:
    """Solve a pair on this thread of the CPU."""
    if other.rank < one.rank:  # one order for both directions
        return inverted(_here(other, one, tier, paired))
    steps = solving(one, other, tier, paired)
    left, right = torch.from_numpy(one.centred), torch.from_numpy(other.centred)
    product = torch.empty(left.shape)
    at: Permutation | None = None
    try:
        wanted = next(steps)
        while True:
            if wanted is None:
                torch.mm(torch.from_numpy(one.profiles), torch.from_numpy(other.profiles).T, out=product)
                at = None
            else:
                moved = None if at is None else np.flatnonzero(wanted != at)
                if moved is None or len(moved) > AFRESH * len(wanted):
                    torch.mm(left.T, rows(right, wanted), out=product)
                elif len(moved):
                    change = rows(right, wanted[moved]).sub_(rows(right, at[moved]))
                    product.addmm_(rows(left, moved).T, change)
                at = wanted.copy()
            wanted = steps.send(product.numpy())
    except StopIteration as finished:
        return finished.value


def rows(matrix: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
    """Select rows of a matrix, on its device."""
    return matrix.index_select(0, torch.from_numpy(numbers.astype(np.int64)).to(matrix.device))  # faster than brackets


def inverted(pair: Pair) -> Pair:
    """Return the same result as seen from the other space."""
    if pair.permutation[0] < 0:  # a coupling that is no permutation
        return pair
    permutation = np.empty_like(pair.permutation)
    permutation[pair.permutation] = np.arange(len(permutation), dtype=permutation.dtype)
    return dataclasses.replace(pair, permutation=permutation)


def check_tier(tier: str) -> None:
    """Raise `AnalysisError` for a tier that there is not."""
    if tier not in TIERS:
        raise AnalysisError(f"there is no tier '{tier}'; use one of {', '.join(TIERS)}.")
