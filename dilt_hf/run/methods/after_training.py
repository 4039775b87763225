"""Masks by the magnitude of the trained dense network's weights."""

from __future__ import annotations

import dataclasses

from dilt_hf.masks.algebra import Masks
from dilt_hf.models.flops import Cost
from dilt_hf.pruning.allocation import select
from dilt_hf.run.context import RunContext
from dilt_hf.run.methods.protocol import Found, Method, Runs
from dilt_hf.run.methods.tickets import dense_run
from dilt_hf.run.pruning_steps import weights_of
from dilt_hf.run.search import Search


@dataclasses.dataclass(frozen=True)
class ByMagnitude(Method):
    """Keep the largest weights of the trained network, over all layers together.

    Attributes:
        rewinds: train what is kept from the rewind point (LTH in one round); else go on from the trained weights.
    """

    rewinds: bool = True

    @property
    def in_benchmark(self) -> bool:  # type: ignore[override]
        return self.rewinds

    def planned_runs(self, ctx: RunContext, density: float | None) -> Runs:
        return dense_run(ctx)

    def find(self, search: Search, density: float | None) -> Found:
        dense, kept = search.dense(), round((density or 0.0) * search.total)

        def mask() -> Masks:
            return select({name: weight.abs() for name, weight in weights_of(search.ctx, dense)().items()}, kept)

        start = None if self.rewinds else dense
        return Found(mask, Cost(**dense.record["cost"]), 1, [dense.address], start)
