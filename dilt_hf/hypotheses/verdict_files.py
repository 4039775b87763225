"""Evidence on disk, and the verdicts that follow from all of it.

evidence/<experiment>.json   for every criterion that an experiment measured: one number per seed, and its stages
verdicts.{json,md}           every hypothesis: supported, refuted, not decided or not tested
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dilt_hf.hypotheses.judge import UNTESTED, Judged, Measured, Verdict, verdicts
from dilt_hf.hypotheses.registry import HYPOTHESES
from dilt_hf.utils.checksums import read_result, write_result
from dilt_hf.utils.errors import RunError, reading
from dilt_hf.utils.files import json_values, pretty_json
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.stats import LEAST_SEEDS

EVIDENCE_FOLDER, VERDICTS_FILE, VERDICTS_TEXT = "evidence", "verdicts.json", "verdicts.md"
MOST_EVIDENCE_BYTES = 2**24
LARGEST = 1e9  # of what criteria measure: points, shares, steps


def save_evidence(folder: Path, experiment: str, evidence: Mapping[str, Measured]) -> None:
    """Keep what one experiment measured, in place of what it had measured before."""
    place = folder / EVIDENCE_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    numbers = {key: dataclasses.asdict(each) for key, each in evidence.items()}
    write_result(folder, f"{EVIDENCE_FOLDER}/{experiment}.json", pretty_json(json_values(numbers)))


def load_evidence(folder: Path, experiment: str = "*") -> dict[str, Measured]:
    """Return what the experiments of a run, or one of them, have measured.

    Raises:
        RunError: when a file is damaged.
    """
    found: dict[str, Measured] = {}
    for path in sorted((folder / EVIDENCE_FOLDER).glob(f"{experiment}.json")):
        stored = read_result(folder, f"{EVIDENCE_FOLDER}/{path.name}", MOST_EVIDENCE_BYTES)
        with reading(f"the evidence in {path}", RunError):
            found |= {key: _measured(each) for key, each in stored.items()}
    return found


def _measured(stored: Mapping[str, Any]) -> Measured:
    values = {int(seed): _number(value, -LARGEST) for seed, value in stored["values"].items()}
    sources = tuple(str(source) for source in stored["sources"])
    return Measured(values, _number(stored["step"], 0), sources, _number(stored["least_p"], 0, 1))


def _number(value: Any, least: float, most: float = LARGEST) -> float:
    if not least <= float(value) <= most:
        raise ValueError(f"{value} is not a number between {least:g} and {most:g}")
    return float(value)


def judge_folder(folder: Path) -> list[Verdict]:
    """Judge everything that has been measured in a run's folder, and write the verdicts there.

    Raises:
        RunError: when evidence is damaged.
    """
    found = verdicts(HYPOTHESES, load_evidence(folder))
    write_result(folder, VERDICTS_FILE, pretty_json(json_values([dataclasses.asdict(each) for each in found])))
    write_result(folder, VERDICTS_TEXT, verdict_text(found))
    return found


def verdict_text(found: Sequence[Verdict]) -> str:
    """Write the verdicts and the criteria that they rest on, as Markdown."""
    return f"{verdict_table(found)}\n\n{VERDICT_CAPTION}\n\n{criterion_table(found)}\n\n{CRITERION_CAPTION}\n"


def verdict_lines(found: Sequence[Verdict], width: int = 100) -> str:
    """Write the verdicts for a terminal: hypothesis and verdict on one line, the deciding criterion below; untested
    ones by name.

    Example:
        >>> print(verdict_lines(verdicts(HYPOTHESES, {}))[:22])
        Not tested: H1, H2, H3
    """
    lines = []
    for each in found:
        if each.verdict != UNTESTED:
            lines.append(f"{each.hypothesis.key:<4}  {each.verdict:<11}  {each.hypothesis.claim}")
            indent = " " * 19
            reason = f"{each.reason[:1].upper()}{each.reason[1:]} (p {p_words(each.p)})."
            lines += textwrap.wrap(reason, width, initial_indent=indent, subsequent_indent=indent)
    untested = [each.hypothesis.key for each in found if each.verdict == UNTESTED]
    if untested:
        recipes = f"recipes/exp1_benchmark.py to exp4_transfer.py test them all, with {LEAST_SEEDS} seeds or more"
        lines.append(f"Not tested: {', '.join(untested)}. {recipes}.")
    return "\n".join(lines)


def verdict_table(found: Sequence[Verdict]) -> str:
    """Return one row per hypothesis."""
    rows = [[each.hypothesis.key, each.hypothesis.claim, each.verdict, p_words(each.p), each.reason] for each in found]
    return markdown_table(["", "hypothesis", "verdict", "p", "because"], rows, numbers=False)


def criterion_table(found: Sequence[Verdict]) -> str:
    """Return one row for each criterion that was measured."""
    rows = [
        [
            each.hypothesis.key,
            f"{judged.criterion.what}{' (control)' if judged.criterion.control else ''}",
            interval_words(judged),
            f"{judged.criterion.least:g}",
            p_words(judged.p_above),
            p_words(judged.p_below),
            str(len(judged.measured.values)),
        ]
        for each in found
        for judged in each.criteria
    ]
    head = ["", "criterion", "mean [95 % interval]", "margin", "p above", "p below", "seeds"]
    return markdown_table(head, rows, numbers=False)


VERDICT_CAPTION = (
    "Declared before the data were seen (`dilt_hf/hypotheses/registry.py`). Supported: every criterion, controls "
    "included, lies above its margin. Refuted: one of them lies below. p: of the verdict, or of support where nothing "
    "is decided, corrected for all hypotheses that were tested (Holm); decided at 2.5 % in each direction."
)
CRITERION_CAPTION = (
    "One number per seed; Student's t over seeds. p above, p below: one-sided, of the mean lying above, or below, the "
    "margin, not corrected."
)


def p_words(p: float) -> str:
    """Format a p-value for tables.

    Example:
        >>> p_words(0.00001), p_words(0.03), p_words(float("nan"))
        ('< 0.001', '0.030', '–')
    """
    if p != p:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval_words(judged: Judged) -> str:
    """Format mean, interval and unit."""
    return f"{judged.mean:+.2f} [{judged.low:+.2f}, {judged.high:+.2f}] {judged.criterion.unit}"
