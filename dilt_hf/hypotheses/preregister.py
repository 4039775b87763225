"""A registered plan as the PyPI package `preregister` reads it, for whoever keeps registrations of many projects there.

Its judge knows neither looks nor controls that must hold together, so each criterion is a prediction of its own, tested
once on all seeds; what decides here stands in the stopping rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dilt_hf.results.registration import Registration

PROGRAMME = "programme"  # the one condition: criteria are paired differences within a seed already


def study_of(experiment: str, registration: Registration) -> dict[str, Any]:
    """Return the study that `preregister register --spec FILE` takes, as values for a YAML file.

    Args:
        experiment: its hypotheses become predictions, those declared post hoc exploratory analyses.

    Example:
        >>> criterion = {"key": "gain", "what": "a gain", "least": 0.5, "unit": "points", "exact": False}
        >>> claim = {"claim": "More.", "experiment": "mine", "criteria": [criterion], "post_hoc": False}
        >>> plan = {"hypotheses": {"H": claim}, "looks": {"5": 0.025}, "level": 0.025}
        >>> study_of("mine", Registration(plan, "aa", "2026-01-01 00:00", []))["predictions"][0]["comparison"]
        'programme > 0.5'
    """
    plan = registration.plan
    mine = [each for each in plan["hypotheses"].values() if each["experiment"] == experiment]
    tested = [(each, c) for each in mine for c in each["criteria"] if not c["exact"]]
    most = max(int(seeds) for seeds in plan["looks"])
    looks = ", ".join(f"{seeds} seeds at {level:g}" for seeds, level in plan["looks"].items())
    analysis = {
        "test": "welch",
        "aggregation": "mean",
        "alpha": plan["level"],
        "n_seeds": most,
        "correction": "holm",
        "family": PROGRAMME,
    }
    return {
        "study": f"dilt-{experiment}",
        "description": f"Registered on {registration.date} UTC with sha256 {registration.sha256}.",
        "conditions": {PROGRAMME: {"role": "treatment", "config": {"sha256": registration.sha256}}},
        "metrics": {c["key"]: {"version": registration.sha256, "description": c["what"]} for _, c in tested},
        "predictions": [
            {
                "id": c["key"],
                "hypothesis": f"{each['claim']} ({c['what']}, in {c['unit']})",
                "metric": c["key"],
                "comparison": _comparison(c),
                "min_effect": abs(c["least"]) or 1.0,  # only its analysis of power, which is not asked for, reads it
                "stopping_rule": f"looked at with {looks}, one-sided, corrected over the programme; never between",
                "analysis": analysis,
            }
            for each, c in tested
            if not each["post_hoc"]
        ],
        "exploratory": [
            {"id": c["key"], "metric": c["key"], "comparison": _comparison(c)} for each, c in tested if each["post_hoc"]
        ],
    }


def _comparison(criterion: Mapping[str, Any]) -> str:
    return f"{PROGRAMME} > {criterion['least']!r}"
