"""The explorer's texts and tables as HTML. All that comes from a repository is escaped: it is untrusted."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

from dilt_hf.explore.views import TicketView


def facts_list(facts: Iterable[tuple[str, str]]) -> str:
    """Write pairs of a heading and a text as a list.

    Example:
        >>> facts_list([("Data", "cats & dogs")])
        '<dl class="facts"><dt>Data</dt><dd>cats &amp; dogs</dd></dl>'
    """
    pairs = "".join(f"<dt>{escape(head)}</dt><dd>{escape(text)}</dd>" for head, text in facts)
    return f'<dl class="facts">{pairs}</dl>'


def headline(view: TicketView, references: Sequence[TicketView]) -> str:
    """Write how many weights a ticket keeps in all, and the density of the references."""
    overall = view.overall
    beside = ", ".join(f"{escape(each.name)} {percent(each.overall.density)} %" for each in references)
    return (
        f'<h3 class="ticket">{escape(view.name)}</h3>'
        f'<p><strong class="density">{percent(overall.density)} %</strong> of the prunable weights are kept: '
        f"{overall.kept:,} of {overall.total:,}. For comparison: {beside}.</p>"
    )


def density_table(view: TicketView, references: Sequence[TicketView]) -> str:
    """Write the density of every tensor, one per row, next to that of the references."""
    heads = ["no.", "tensor", "density %", *(f"{each.name} %" for each in references), "kept", "of"]
    rows = []
    for number, (name, kept) in enumerate(view.tensors.items(), start=1):
        others = "".join(f"<td>{percent(each.tensors[name].density)}</td>" for each in references)
        rows.append(
            f'<tr><td>{number}</td><th scope="row">{breakable(name)}</th><td>{percent(kept.density)}</td>'
            f"{others}<td>{kept.kept:,}</td><td>{kept.total:,}</td></tr>"
        )
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    caption = "Every prunable tensor, in network order"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table class="densities">'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def density_chart(png: bytes, view: TicketView) -> str:
    """Embed the chart of `dilt_hf.explore.chart`, with a description for screen readers."""
    words = f"Bar chart: density of every prunable tensor of {view.name} in %. The table has the same numbers."
    return f'<img class="chart" alt="{escape(words)}" src="data:image/png;base64,{b64encode(png).decode()}">'


def problem(sentence: str) -> str:
    """Write an error message in a box that a screen reader announces."""
    return f'<p class="problem" role="alert">{escape(sentence)}</p>'


def note(text: str, caution: bool = False) -> str:
    """Write a remark below something; one that the reader must not miss stands out."""
    return f'<p class="note{" caution" if caution else ""}">{escape(text)}</p>'


def breakable(name: str) -> str:
    """Let a tensor's name break into the next line after a dot.

    Example:
        >>> breakable("conv.weight")
        'conv.<wbr>weight'
    """
    return escape(name).replace(".", ".<wbr>")


def percent(share: float) -> str:
    """Format a fraction in percent, with two decimals, as the tables of tickets have it.

    Example:
        >>> percent(0.0503)
        '5.03'
    """
    return f"{100 * share:.2f}"
