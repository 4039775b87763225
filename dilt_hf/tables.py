"""Markdown tables that also read well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table whose first column is text, aligned left, and whose others are numbers, aligned right, or text too.

    Example:
        >>> print(markdown_table(["ticket", "kept"], [["core", "12"]]))
        | ticket | kept |
        |--------|-----:|
        | core   |   12 |
    """
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *body]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if number and numbers else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = f"|-{'-' * widths[0]}-|{'|'.join('-' * (w + 1) + (':' if numbers else '-') for w in widths[1:])}|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])
