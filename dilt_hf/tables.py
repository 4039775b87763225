"""Markdown tables that also read well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text, aligned left, and whose others are numbers, aligned right.

    Example:
        >>> print(markdown_table(["ticket", "kept"], [["core", "12"]]))
        | ticket | kept |
        |--------|-----:|
        | core   |   12 |
    """
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *body]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = f"|-{'-' * widths[0]}-|{'|'.join('-' * (w + 1) + ':' for w in widths[1:])}|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])
