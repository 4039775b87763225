"""Opening Accelerate: what a launch asks for is either the run's own setting, or said not to be used."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from dilt_hf.config.training import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


def open_accelerator(training: TrainingConfig, use_cpu: bool, **trackers: Any) -> Accelerator:
    """Open the Accelerator of a run, whose results depend on the run's settings alone.

    `accelerate launch` passes its settings by environment variables, and some of them would change results: the loss
    would be divided, or the network compiled, without being part of what identifies a result. They are overridden, and
    a warning says so.

    Args:
        trackers: `log_with` and `project_dir`.
    """
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin

    ours = {
        "ACCELERATE_MIXED_PRECISION": ("mixed_precision", training.mixed_precision, ("", "no")),
        "ACCELERATE_DYNAMO_BACKEND": ("torch_compile", str(training.torch_compile).lower(), ("", "no")),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
            "gradient_accumulation_steps",
            str(training.gradient_accumulation_steps),
            ("", "1"),
        ),
    }
    for variable, (name, value, unset) in ours.items():
        asked = os.environ.get(variable, "").lower()
        if asked not in (*unset, value):
            logger.warning(
                "%s=%s of the launch is not used: the run has --%s %s; set that option instead.",
                variable,
                asked,
                name,
                value,
            )
    return Accelerator(
        cpu=use_cpu,
        mixed_precision=training.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop accumulates by itself
        dynamo_plugin=TorchDynamoPlugin(backend="no"),  # and so are networks compiled
        **trackers,
    )
