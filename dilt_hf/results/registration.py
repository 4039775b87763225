"""What was planned before the first step of a run, hashed, and how it differs from what was done.

registrations/<experiment>.json holds the plan of an experiment as it was before it trained anything, with its sha256,
and every deviation from it that a later launch came with. That hypotheses, margins and looks were declared before the
data were seen can then be checked: put the sha256 where others see it (a commit, a message, a timestamping service).
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dilt_hf.utils.checksums import read_result, write_result
from dilt_hf.utils.errors import RunError, reading
from dilt_hf.utils.files import canonical_json, json_values, pretty_json, sha256_of_json
from dilt_hf.utils.typed import from_json

REGISTRATIONS = "registrations"
MOST_BYTES = 2**22
MOST_SHOWN = 60  # characters of a value


@dataclasses.dataclass(frozen=True)
class Deviation:
    """How a later launch differed from the plan.

    Attributes:
        date: UTC, to the minute.
        what: in words.
    """

    date: str
    what: str


@dataclasses.dataclass(frozen=True)
class Registration:
    """The plan of a programme.

    Attributes:
        plan: JSON values.
        sha256: of the plan as canonical JSON (keys in order, no spaces).
        date: when it was registered, UTC, to the minute.
        deviations: in the order in which they came.
    """

    plan: dict[str, Any]
    sha256: str
    date: str
    deviations: list[Deviation]

    @property
    def sentence(self) -> str:
        """What reports and cards say of it."""
        text = f"plan registered on {self.date} UTC, sha256 {self.sha256}"
        if not self.deviations:
            return f"{text}; nothing deviates from it."
        return f"{text}; deviations: {'; '.join(f'{each.what} ({each.date})' for each in self.deviations)}."


def registrations(folder: Path) -> dict[str, Registration]:
    """Read the registrations of a run, by experiment; none for a run of an earlier version.

    Raises:
        RunError: when one is damaged, or its plan is not the one that was hashed.
    """
    found = {}
    for path in sorted((folder / REGISTRATIONS).glob("*.json")):
        name = f"{REGISTRATIONS}/{path.name}"
        with reading(str(path), RunError):
            found[path.stem] = each = from_json(Registration, read_result(folder, name, MOST_BYTES))
            if sha256_of_json(each.plan) != each.sha256:
                raise ValueError("its plan is not the one that was hashed")
    return found


def registration_sentences(folder: Path) -> list[str]:
    """Return what reports and cards say of all registrations of a run."""
    return [f"{name.capitalize()}: {each.sentence}" for name, each in registrations(folder).items()]


def register(folder: Path, experiment: str, plan: Mapping[str, Any], late: bool = False) -> Registration:
    """Register a plan, or note what deviates from the one that is registered.

    Args:
        plan: as JSON values.
        late: whether the experiment has results already: a plan that comes after them is no preregistration.

    Raises:
        RunError: when a registration is damaged.
    """
    now, values = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"), json_values(plan)
    found = registrations(folder).get(experiment)
    if found is None:
        after = [Deviation(now, "it was registered when there were results already")] if late else []
        new = Registration(values, sha256_of_json(values), now, after)
    else:
        known = {each.what for each in found.deviations}
        added = [Deviation(now, what) for what in differences(found.plan, values) if what not in known]
        if not added:
            return found
        new = dataclasses.replace(found, deviations=[*found.deviations, *added])
    write_result(folder, f"{REGISTRATIONS}/{experiment}.json", pretty_json(dataclasses.asdict(new)))
    return new


def differences(registered: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield in words where a plan differs from the one that was registered.

    Example:
        >>> list(differences({"looks": {"5": 0.005}, "code": "a"}, {"looks": {"5": 0.01}, "code": "a"}))
        ['looks, 5: 0.01 in place of 0.005']
    """
    if isinstance(registered, Mapping) and isinstance(now, Mapping):
        for key in [*registered, *(each for each in now if each not in registered)]:
            place = f"{where}, {key}" if where else str(key)
            if key not in now:
                yield f"{place}: left out"
            elif key not in registered:
                yield f"{place}: added"
            else:
                yield from differences(registered[key], now[key], place)
    elif registered != now:
        yield f"{where}: {_shown(now)} in place of {_shown(registered)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
