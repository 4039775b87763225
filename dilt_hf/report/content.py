"""What the folder of a run holds that a report tells of, read and put together; nothing here knows of HTML.

Everything but the verdicts is optional: a report shows what there is.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dilt_hf.config.migration import VERSION_KEY, migrate
from dilt_hf.engine.stages import Stage, Stages, with_ancestors
from dilt_hf.experiments.analyze import FIGURE_FOLDER, TEXT_FILE
from dilt_hf.experiments.analyze import NUMBERS_FILE as ANALYSIS_FILE
from dilt_hf.experiments.specialise import NUMBERS_FILE as SPECIALISTS_FILE
from dilt_hf.experiments.specialist_scores import SpecialistTables
from dilt_hf.experiments.transfer import Transfer
from dilt_hf.hypotheses.judge import Verdict
from dilt_hf.hypotheses.verdict_files import MOST_EVIDENCE_BYTES, folder_verdicts
from dilt_hf.report.sanitise import sanitised
from dilt_hf.results.curves import Curves, load_curves
from dilt_hf.results.registration import registration_sentences
from dilt_hf.results.results import RESULTS_FILE, Results
from dilt_hf.run.folder import METHODS_TABLE, MOST_RUN_BYTES, RUN_FILE, load_results
from dilt_hf.utils.checksums import check_result, read_by_seed, read_result
from dilt_hf.utils.errors import RunError, reading
from dilt_hf.utils.markdown import Items, Table, read_blocks

Block = Table | Items | str
logger = logging.getLogger(__name__)
MOST_ANALYSIS_BYTES = 2**28
FIGURES = ("distances", "modules", "link")


@dataclasses.dataclass(frozen=True)
class Layers:
    """An analysis of the layers of one kind of networks.

    Attributes:
        name: of that kind.
        layers, networks: the names of the rows of `values`, layers within networks.
        values: G between all layers of all networks, the mean over seeds; float (N·L, N·L).
        seeds: how many.
        text: its tables and sentences.
        figures: SVG files by name.
    """

    name: str
    layers: Sequence[str]
    networks: Sequence[str]
    values: np.ndarray
    seeds: int
    text: Sequence[Block]
    figures: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What all stages of a kind took together."""

    kind: str
    stages: int
    steps: float
    examples: float
    flops: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Content:
    """All that a report tells of.

    Attributes:
        settings: the run's, by section.
        verdicts: on every hypothesis.
        registered: what is said of the plans that were registered before.
        results: trained and scored networks.
        curves: accuracies against density, by seed.
        methods: the table of published methods, where some were compared.
        analyses: of layers.
        specialists: by seed.
        transfers: masks on other data.
        stages: those that the numbers come from, with all that they derive from, by address.
        places: the folder of each of these stages, from the run's folder on.
        costs: of all stages of the run.
    """

    settings: Mapping[str, Mapping[str, Any]]
    verdicts: Sequence[Verdict]
    registered: Sequence[str]
    results: Results | None
    curves: Curves
    methods: Sequence[Block]
    analyses: Sequence[Layers]
    specialists: Mapping[int, SpecialistTables]
    transfers: Sequence[Transfer]
    stages: Mapping[str, Stage]
    places: Mapping[str, str]
    costs: Sequence[Cost]


def gather(folder: Path) -> Content:
    """Read what a run's folder holds.

    Raises:
        RunError: when it is not the folder of a run, or one of its files is damaged.
    """
    if not (folder / RUN_FILE).is_file():
        raise RunError(f"{folder} is not the folder of a run: it has no {RUN_FILE}.")
    stored = read_result(folder, RUN_FILE, MOST_RUN_BYTES)
    with reading(f"{folder / RUN_FILE}", RunError):
        settings = migrate({name: dict(values) for name, values in stored.items() if name != VERSION_KEY})
    found = folder_verdicts(folder)
    results = load_results(folder) if (folder / RESULTS_FILE).is_file() else None
    specialists, transfers, curves = _specialists(folder), _transfers(folder), load_curves(folder)
    every = {stage.address: stage for stage in _stages(folder)}
    cited = {source for each in found for judged in each.criteria for source in judged.measured.sources}
    cited |= {entry.stage for entry in results.entries} if results else set()
    cited |= {point.stage for points in curves.values() for point in points}
    cited |= {network.stage for each in transfers for network in each.networks}
    needed = with_ancestors(sorted(cited), every)
    return Content(
        settings=settings,
        verdicts=found,
        registered=registration_sentences(folder),
        results=results,
        curves=curves,
        methods=_blocks(folder, METHODS_TABLE),
        analyses=[_layers(path.parent) for path in sorted((folder / "analysis").glob(f"*/{ANALYSIS_FILE}"))],
        specialists=specialists,
        transfers=transfers,
        stages={address: every[address] for address in needed},
        places={address: every[address].folder.relative_to(folder).as_posix() for address in needed},
        costs=_costs(every.values()),
    )


def _stages(folder: Path) -> Iterable[Stage]:
    for root in [folder / "stages", *sorted(path for path in folder.glob("*/**/stages") if path.is_dir())]:
        yield from Stages(root).all()


def _blocks(folder: Path, name: str) -> list[Block]:
    path = check_result(folder, name)
    with reading(f"the text in {path}", RunError):
        return list(read_blocks(path.read_text(encoding="utf-8"))) if path.is_file() else []


def _layers(folder: Path) -> Layers:
    found = read_result(folder, ANALYSIS_FILE, MOST_ANALYSIS_BYTES)
    with reading(f"the analysis in {folder}", RunError):
        figures = {name: folder / FIGURE_FOLDER / f"{name}.svg" for name in FIGURES}
        return Layers(
            folder.name,
            list(found["layers"]),
            list(found["networks"]),
            np.array(found["gw"]["mean_over_seeds"], dtype=float),
            len(found["seeds"]),
            _blocks(folder, TEXT_FILE),
            {name: drawing for name, path in figures.items() if (drawing := _drawing(path))},
        )


def _drawing(path: Path) -> str:
    """Return a drawing, or nothing where there is none: it is drawn again with the analysis."""
    if not path.is_file():
        logger.warning("%s is missing, and left out of the report; run the analysis again to have it drawn.", path)
        return ""
    try:
        return sanitised(path.read_text(encoding="utf-8"))
    except ValueError as error:
        logger.warning("%s is left out of the report: it is no drawing (%s).", path, error)
        return ""


def _specialists(folder: Path) -> dict[int, SpecialistTables]:
    return read_by_seed(folder, SPECIALISTS_FILE, MOST_EVIDENCE_BYTES, SpecialistTables.from_dict)


def _transfers(folder: Path) -> list[Transfer]:
    found = []
    for path in sorted((folder / "transfer" / "target").glob("transfer*.json")):
        stored = read_result(path.parent, path.name, MOST_EVIDENCE_BYTES)
        with reading(f"the numbers in {path}", RunError):
            found.append(Transfer.from_dict(stored))
    return sorted(found, key=lambda each: each.rewind_step)


def _costs(stages: Iterable[Stage]) -> list[Cost]:
    """Sum costs by kind, the most expensive first; the seconds of a training run are those of all attempts at it."""
    kinds: dict[str, list[Stage]] = {}
    for stage in stages:
        kinds.setdefault(stage.kind, []).append(stage)
    found = []
    for kind, same in kinds.items():
        spent = [stage.record.get("cost", {}) for stage in same]
        steps, examples, flops = (
            sum(each.get(name, 0.0) for each in spent) for name in ("steps", "examples", "dense_flops")
        )
        found.append(Cost(kind, len(same), steps, examples, flops, sum(stage.seconds_spent for stage in same)))
    return sorted(found, key=lambda cost: -cost.seconds)
