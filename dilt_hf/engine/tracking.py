"""Losses and scores to the trackers of Accelerate (TensorBoard, Weights & Biases, trackio, …)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dilt_hf.utils.errors import ConfigError
from dilt_hf.utils.files import canonical_json

if TYPE_CHECKING:
    from accelerate import Accelerator


def check_trackers(names: Sequence[str]) -> None:
    """Raise `ConfigError` for a tracker that Accelerate does not know, or whose package is not installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = {getattr(name, "value", name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise ConfigError(f"--report_to {name} is no tracker; choose among {known}.")
        if name not in available:
            raise ConfigError(f"--report_to {name} needs a package that is not installed: pip install {name}.")


class TrackedRun:
    """One IMP run, or the training of one network, as a run of each tracker; opened with its first message.

    Args:
        accelerator: its main process sends, rank 0 of the group.
        folder: the run folder: its name is the project, and runs that continue keep their place.
        name: of the process, such as "seed_0/partition_1"; it leads the names of all metrics.
        settings: the configuration, as nested dictionaries.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, name: str, settings: Mapping[str, Any]):
        self.accelerator, self.folder, self.name, self.settings = accelerator, folder, name, settings
        self.is_open = False

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of one step, counted over all rounds of the process."""
        if not self.accelerator.log_with:
            return
        if not self.is_open:
            self._open()
        self.accelerator.log({f"{self.name}/{key}": value for key, value in values.items()}, step=step)

    def end(self) -> None:
        """Close the run; nothing happens if it was never opened."""
        if self.is_open:
            for tracker in self.accelerator.trackers:
                tracker.finish()
            self.accelerator.trackers = []  # the next run's are added to these
            self.is_open = False

    def _open(self) -> None:
        project = self.folder.absolute().name
        identity = hashlib.sha256(f"{self.folder.absolute()}/{self.name}".encode()).hexdigest()[:16]
        named = {"name": self.name, "group": project, "resume": "allow"}
        flat = {
            f"{section}/{key}": value if isinstance(value, (int, float, str, bool)) else canonical_json(value)
            for section, values in self.settings.items()
            for key, value in values.items()
        }
        self.accelerator.init_trackers(
            project, config=flat, init_kwargs={"wandb": {**named, "id": identity}, "trackio": named}
        )
        self.is_open = True
