"""Why a hypothesis was judged as it was, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dilt_hf.hypotheses.criteria import Criterion, Measured
from dilt_hf.hypotheses.estimates import LEVEL, LOOKS, Judged

MOST_NAMED = 3  # of the criteria that are missing


def why_refuted(judged: Sequence[Judged]) -> str:
    """Name the criterion that lies below its margin most clearly."""
    worst = min(judged, key=lambda found: found.p_below)
    return f"{'explained away' if worst.criterion.control else 'not so'}: {_words(worst)}"


def why_open(judged: Sequence[Judged], look: int, needed: int | None) -> str:
    """Name the criterion that is furthest from holding, and how many seeds would decide."""
    weakest = max(judged, key=lambda found: found.p_above)
    alone = sum(found.p_above <= LEVEL for found in judged)
    rest = f"; {alone} of {len(judged)} criteria would hold if judged alone" if alone else ""
    most = list(LOOKS)[-1]
    if look == most:
        more = f"; it was looked at with {most} seeds, the last look"
    elif needed is None:
        more = f"; an effect of this size is not decided by {most} seeds"
    else:
        more = f"; by an effect of this size it is decided at {needed} seeds"
    return f"open: {_words(weakest)}{rest}{more}"


def _words(found: Judged) -> str:
    unit = f" {found.criterion.unit}"
    certainty = "by construction" if found.criterion.exact else f"[{found.low:+.2f}, {found.high:+.2f}]"
    asked = f"where more than {found.criterion.least:g}{unit} is needed"
    return f"{found.criterion.what} is {found.mean:+.2f}{unit} {certainty}, {asked}"


def why_untested(own: Sequence[Criterion], needed: Sequence[Criterion], evidence: Mapping[str, Measured]) -> str:
    """Name what is missing, of a hypothesis's own criteria or of what is measured together with them."""
    if not any(criterion.key in evidence for criterion in own):
        return "its experiment was not run"
    if missing := [criterion for criterion in own if criterion.key not in evidence]:
        return f"not measured: {_listed(missing)}"
    if missing := [criterion for criterion in needed if criterion.key not in evidence]:
        return f"judged only once the rest of its experiment is measured: {_listed(missing)}"
    return f"one seed; the first look is at {min(LOOKS)}"


def _listed(criteria: Sequence[Criterion]) -> str:
    more = f"; and {len(criteria) - MOST_NAMED} more" if len(criteria) > MOST_NAMED else ""
    return "; ".join(criterion.what for criterion in criteria[:MOST_NAMED]) + more
