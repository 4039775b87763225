"""Options of earlier versions, under the names that they have now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT_VERSION, VERSION_KEY = 2, "format_version"  # of run.json, which had no number before
RENAMED: Mapping[str, Mapping[str, str]] = {
    "training": {
        "train_batch_size": "global_train_batch_size",
        "optimizer": "optim",
        "optimizer_args": "optim_args",
        "label_smoothing": "label_smoothing_factor",
        "warmup_fraction": "warmup_steps",
    },
    "run": {"cpu": "use_cpu", "deterministic": "full_determinism"},
    "methods": {"drop_share": "drop_fraction"},
}
VALUES = {("partition", "partition_by", "picture_clusters"): "image_clusters"}
MULTISTEP = ("milestones", "gamma")  # options of their own before they were keys of lr_scheduler_kwargs


def migrate(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rename the options of a stored configuration to their present names; unknown ones stay as they are.

    Example:
        >>> migrate({"training": {"optimizer": "SGD", "milestones": [0.5], "gamma": 0.2}})
        {'training': {'optim': 'SGD', 'lr_scheduler_kwargs': {'milestones': [0.5], 'gamma': 0.2}}}
    """
    return {section: _section(section, options) for section, options in stored.items()}


def _section(section: str, options: Mapping[str, Any]) -> dict[str, Any]:
    renamed = RENAMED.get(section, {})
    found: dict[str, Any] = {}
    for name, value in options.items():
        if section == "training" and name in MULTISTEP:
            found.setdefault("lr_scheduler_kwargs", {})[name] = value
        else:
            hashable = value if isinstance(value, str) else None
            found[renamed.get(name, name)] = VALUES.get((section, name, hashable or ""), value)
    return found
