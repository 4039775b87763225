"""The report as Markdown: the tables of the page, for a card, an issue or a paper's appendix."""

from __future__ import annotations

from collections.abc import Iterator

from dilt_hf.hypotheses.verdict_files import CRITERION_CAPTION, VERDICT_CAPTION, criterion_table, verdict_table
from dilt_hf.report.content import Content
from dilt_hf.report.tables import lesion_tables
from dilt_hf.results.curves import curves_caption, curves_table
from dilt_hf.results.methods_table import beside_methods, has_methods, methods_caption, methods_table
from dilt_hf.results.results import Results
from dilt_hf.results.summary import results_caption, results_sentences, results_table
from dilt_hf.run.methods.registry import STRUCTURED
from dilt_hf.utils.markdown import markdown_table, unpadded, write_blocks
from dilt_hf.utils.text import duration


def report_text(content: Content, title: str) -> str:
    """Write all tables of a report.

    Args:
        title: the name of the run.
    """
    steps = sum(each.steps for each in content.costs)
    seconds = sum(each.seconds for each in content.costs)
    head = (
        f"# {title}\n\n{steps:,.0f} training steps, {duration(seconds, decimals=1)} of computing by single processes."
    )
    return unpadded("\n\n".join([head, *_sections(content)])) + "\n"


def _sections(content: Content) -> Iterator[str]:
    yield from ["## Verdicts", verdict_table(content.verdicts), VERDICT_CAPTION, *content.registered]
    if any(each.criteria for each in content.verdicts):
        yield from ["## What they rest on", criterion_table(content.verdicts), CRITERION_CAPTION]
    if content.results is not None:
        yield from _networks(content.results)
    if any(content.curves.values()):
        yield from ["## Accuracy against density", curves_table(content.curves), curves_caption(content.curves)]
    if content.specialists:
        yield "## Specialists"
        for table in lesion_tables(content.specialists):
            rows = [[f"{k}", *row] for k, row in enumerate(table["rows"])]
            yield from [table["caption"], markdown_table(["specialist", *(f"T_{j}" for j in range(len(rows)))], rows)]
    for each in content.analyses:
        yield from [f"## Layers of the networks: {each.name}", write_blocks(each.text)]
    for found in content.transfers:
        start = f"θ_{found.rewind_step}" if found.rewind_step else "strict θ0"
        yield from [f"## Masks on other data, found from {start}", found.table()]
    yield "## Cost"
    rows = [
        [e.kind, str(e.stages), f"{e.steps:,.0f}", f"{e.flops:.2e}", duration(e.seconds, decimals=1)]
        for e in content.costs
    ]
    yield markdown_table(["kind of stage", "stages", "training steps", "FLOPs", "time"], rows)


def _networks(results: Results) -> Iterator[str]:
    """Write the table of methods where there are some; that of the networks has only what is not in it."""
    if has_methods(results):
        yield from ["## Methods", methods_table(results), methods_caption(results, STRUCTURED)]
    shown = beside_methods(results)
    if shown.entries:
        sentences = "\n".join(f"- {sentence}" for sentence in results_sentences(results))
        yield from ["## Networks", results_table(shown), results_caption(shown), sentences]
