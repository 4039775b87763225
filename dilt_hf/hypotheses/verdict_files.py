"""Evidence on disk, and the verdicts that follow from all of it.

evidence/<experiment>.json   for every criterion that an experiment measured: one number per seed, and its stages
verdicts.{json,md}           every hypothesis: supported, refuted, not decided or not tested
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dilt_hf.hypotheses.criteria import Hypothesis, Measured
from dilt_hf.hypotheses.estimates import LOOKS, Judged
from dilt_hf.hypotheses.inference import ImageNoise
from dilt_hf.hypotheses.judge import UNTESTED, WITHHELD, Verdict, verdicts
from dilt_hf.hypotheses.registry import EVIDENCE_OF, hypotheses
from dilt_hf.results.chance import at_chance
from dilt_hf.results.registration import registration_sentences
from dilt_hf.results.results import RESULTS_FILE
from dilt_hf.run.folder import MOST_RUN_BYTES, RUN_FILE, load_results
from dilt_hf.utils.checksums import read_result, write_result
from dilt_hf.utils.errors import RunError, reading
from dilt_hf.utils.files import json_values, pretty_json
from dilt_hf.utils.markdown import markdown_table

EVIDENCE_FOLDER, VERDICTS_FILE, VERDICTS_TEXT = "evidence", "verdicts.json", "verdicts.md"
MOST_EVIDENCE_BYTES = 2**24
DOUBT = "doubt"
LARGEST = 1e9  # of what criteria measure: points, shares, steps


def save_evidence(folder: Path, experiment: str, evidence: Mapping[str, Measured], doubt: str | None = None) -> None:
    """Keep what one experiment measured, in place of what it had measured before.

    Args:
        doubt: why nothing is to be concluded from this experiment.
    """
    place = folder / EVIDENCE_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    numbers = {key: dataclasses.asdict(each) for key, each in evidence.items()} | ({DOUBT: doubt} if doubt else {})
    write_result(folder, f"{EVIDENCE_FOLDER}/{experiment}.json", pretty_json(json_values(numbers)))


def load_evidence(folder: Path, experiment: str = "*") -> dict[str, Measured]:
    """Return what the experiments of a run, or one of them, have measured.

    Raises:
        RunError: when a file is damaged.
    """
    found: dict[str, Measured] = {}
    for path, stored in _stored(folder, experiment):
        with reading(f"the evidence in {path}", RunError):
            found |= {key: _measured(each) for key, each in stored.items() if key != DOUBT}
    return found


def load_doubts(folder: Path) -> dict[str, str]:
    """Return why nothing is to be concluded from what was kept, by the name under which it was.

    Raises:
        RunError: when a file is damaged.
    """
    return {path.stem: str(stored[DOUBT]) for path, stored in _stored(folder, "*") if DOUBT in stored}


def _stored(folder: Path, experiment: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for path in sorted((folder / EVIDENCE_FOLDER).glob(f"{experiment}.json")):
        stored = read_result(folder, f"{EVIDENCE_FOLDER}/{path.name}", MOST_EVIDENCE_BYTES)
        with reading(f"the evidence in {path}", RunError):
            if not isinstance(stored, Mapping):
                raise TypeError("it is no table of criteria")
        yield path, stored


def _measured(stored: Mapping[str, Any]) -> Measured:
    values = {int(seed): _number(value, -LARGEST) for seed, value in stored["values"].items()}
    sources = tuple(str(source) for source in stored["sources"])
    noise = {int(seeds): _noise(each) for seeds, each in stored.get("noise", {}).items()}  # not in earlier versions
    least = stored["least_p"]
    if not isinstance(least, Mapping):  # one number in earlier versions
        least = {len(values): least} if least else {}
    bounds = {int(seeds): _number(p, 0, 1) for seeds, p in least.items()}
    return Measured(values, _number(stored["step"], 0), sources, bounds, noise)


def _noise(stored: Mapping[str, Any]) -> ImageNoise:
    own, shared = (_number(stored[name], 0) for name in ("own", "shared"))
    return ImageNoise(own, shared, int(_number(stored["images"], 2)))


def _number(value: Any, least: float, most: float = LARGEST) -> float:
    if not least <= float(value) <= most:
        raise ValueError(f"{value} is not a number between {least:g} and {most:g}")
    return float(value)


def hypotheses_of(folder: Path) -> tuple[Hypothesis, ...]:
    """Return what is claimed of the tickets of a run, which depends on how many partitions it has.

    Raises:
        RunError: when run.json is damaged.
    """
    if not (folder / RUN_FILE).is_file():
        return hypotheses()
    stored = read_result(folder, RUN_FILE, MOST_RUN_BYTES)
    with reading(str(folder / RUN_FILE), RunError):
        return hypotheses(int(stored["partition"]["num_partitions"]))


def folder_verdicts(folder: Path) -> list[Verdict]:
    """Judge everything that has been measured in a run's folder; verdicts on networks at chance are withheld.

    Raises:
        RunError: when evidence or results are damaged.
    """
    found = verdicts(hypotheses_of(folder), load_evidence(folder))
    doubts = load_doubts(folder)
    networks = at_chance(load_results(folder)) if (folder / RESULTS_FILE).is_file() else None
    judged = []
    for each in found:
        of_it = [doubts[name] for name in EVIDENCE_OF[each.hypothesis.experiment] if name in doubts]
        if networks is not None and networks.withholds and each.verdict != UNTESTED:
            of_it.append(str(networks))
        judged.append(dataclasses.replace(each, verdict=WITHHELD, reason=of_it[-1]) if of_it else each)
    return judged


def judge_folder(folder: Path) -> list[Verdict]:
    """Judge everything that has been measured in a run's folder, and write the verdicts there.

    Raises:
        RunError: when evidence is damaged.
    """
    found = folder_verdicts(folder)
    write_result(folder, VERDICTS_FILE, pretty_json(json_values([dataclasses.asdict(each) for each in found])))
    write_result(folder, VERDICTS_TEXT, verdict_text(found, registration_sentences(folder)))
    return found


def verdict_text(found: Sequence[Verdict], registered: Sequence[str] = ()) -> str:
    """Write the verdicts and the criteria that they rest on, and what is said of their registration, as Markdown."""
    parts = [verdict_table(found), VERDICT_CAPTION, *registered, criterion_table(found), CRITERION_CAPTION]
    return "\n\n".join(parts) + "\n"


def verdict_lines(found: Sequence[Verdict], width: int = 100) -> str:
    """Write the verdicts for a terminal: hypothesis and verdict on one line, the deciding criterion below; untested
    ones by name.

    Example:
        >>> print(verdict_lines(verdicts(hypotheses(), {}))[:22])
        Not tested: H0, H1, H2
    """
    lines = []
    for each in found:
        if each.verdict != UNTESTED:
            lines.append(f"{each.hypothesis.key:<4}  {each.verdict:<11}  {each.hypothesis.claim}")
            indent = " " * 19
            p = f" (p {p_words(each.p)})" if each.look else ""
            reason = f"{each.reason[:1].upper()}{each.reason[1:].removesuffix('.')}{p}."
            lines += textwrap.wrap(reason, width, initial_indent=indent, subsequent_indent=indent)
    untested = [each.hypothesis.key for each in found if each.verdict == UNTESTED]
    if untested:
        recipes = f"recipes/exp1_benchmark.py to exp4_transfer.py test them all, by looks at {looks_in_words()}"
        lines.append(f"Not tested: {', '.join(untested)}. {recipes}.")
    return "\n".join(lines)


def verdict_table(found: Sequence[Verdict]) -> str:
    """Return one row per hypothesis."""
    rows = [
        [
            each.hypothesis.key,
            f"{each.hypothesis.claim}{' (post hoc)' if each.hypothesis.post_hoc else ''}",
            each.verdict,
            p_words(each.p_support),
            p_words(each.p_refute),
            e_words(each),
            str(each.look or "–"),
            each.reason,
        ]
        for each in found
    ]
    head = ["", "hypothesis", "verdict", "p support", "p refute", "e", "seeds", "because"]
    return markdown_table(head, rows, numbers=False)


def criterion_table(found: Sequence[Verdict]) -> str:
    """Return one row for each criterion that was measured."""
    rows = [
        [
            each.hypothesis.key,
            f"{judged.criterion.what}{' (control)' if judged.criterion.control else ''}",
            interval_words(judged),
            f"[{judged.wide_low:+.2f}, {judged.wide_high:+.2f}]",
            f"{judged.criterion.least:g}",
            p_words(judged.p_above),
            p_words(judged.p_below),
            str(judged.seeds),
        ]
        for each in found
        for judged in each.criteria
    ]
    head = ["", "criterion", "mean [95 % interval]", "corrected interval", "margin", "p above", "p below", "seeds"]
    return markdown_table(head, rows, numbers=False)


def looks_in_words() -> str:
    """Return the numbers of seeds at which the data are looked at.

    Example:
        >>> looks_in_words()
        '5, 8, 12 and 20 seeds'
    """
    *first, last = map(str, LOOKS)
    return f"{', '.join(first)} and {last} seeds"


def e_words(verdict: Verdict) -> str:
    """Format the larger e-value of a verdict, and what it speaks for."""
    if verdict.verdict == UNTESTED:
        return "–"
    refutes = verdict.e_refute > verdict.e_support
    e = max(verdict.e_refute, verdict.e_support)
    return f"{'> 1000' if e > 1000 else f'{e:.2g}'}{' against' if refutes else ''}"


VERDICT_CAPTION = (
    "Declared before the data were seen (`dilt_hf/hypotheses/registry.py`). Supported: every criterion, controls "
    "included, lies above its margin. Refuted: one of them lies below. The data are looked at with "
    f"{looks_in_words()}, never between; a verdict that was reached stays. p: corrected for all looks and all declared "
    "hypotheses, tested or not (Holm); decided at 2.5 % in each direction. e: the same question for whoever stops at "
    "any other moment, corrected; 40 and more decide."
)
CRITERION_CAPTION = (
    "One number per seed, as many seeds as at the look; Student's t over seeds, and the error of the test images where "
    "known. Seeds vary θ0, the order of the data and what is drawn; the split of the data, the partition and the "
    "sibling split are the same in all, so intervals are conditional on these. Corrected interval: all of them hold "
    "together. p above, p below: one-sided, of the mean lying above, or below, the margin, not corrected."
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
