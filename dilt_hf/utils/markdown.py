"""Markdown that also reads well in a terminal, and its parts again: tables, lists and paragraphs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence

from dilt_hf.utils.text import visible


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """Write a table whose first column is text, aligned left, and whose others are numbers, aligned right, or text too.

    Example:
        >>> print(markdown_table(["ticket", "kept"], [["core", "12"]]))
        | ticket | kept |
        |--------|-----:|
        | core   |   12 |
    """
    cells = [[visible(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *body]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if number and numbers else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = f"|-{'-' * widths[0]}-|{'|'.join('-' * (w + 1) + (':' if numbers else '-') for w in widths[1:])}|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


@dataclasses.dataclass(frozen=True)
class Table:
    """A table's head and rows; `right` are the columns that are aligned right."""

    head: Sequence[str]
    body: Sequence[Sequence[str]]
    right: Sequence[bool]


@dataclasses.dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[str]


def read_blocks(text: str) -> Iterator[Table | Items | str]:
    """Parse a text made of `markdown_table`, lists of single lines and paragraphs into blocks.

    Example:
        >>> table, words = read_blocks(markdown_table(["ticket", "kept"], [["core", "1|2"]]) + "\\n\\nThat is all.")
        >>> table.head, table.body, words
        (['ticket', 'kept'], [['core', '1|2']], 'That is all.')
    """
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines()]
        if lines and all(line.startswith("|") for line in lines) and len(lines) > 1:
            rows = [_cells(line) for line in lines]
            yield Table(rows[0], rows[2:], [cell.endswith(":") for cell in rows[1]])
        elif lines and all(line.startswith("- ") for line in lines):
            yield Items([line[2:] for line in lines])
        elif block:
            yield " ".join(lines)


def write_blocks(blocks: Iterable[Table | Items | str]) -> str:
    """Write blocks as `read_blocks` reads them.

    Example:
        >>> print(write_blocks(["Kept:", Items(["core", "union"])]))
        Kept:
        <BLANKLINE>
        - core
        - union
    """
    return "\n\n".join(map(_block, blocks))


def _block(block: Table | Items | str) -> str:
    if isinstance(block, Items):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Table):
        return markdown_table(block.head, block.body, numbers=any(block.right))
    return block


def unpadded(text: str) -> str:
    """Take the spaces out of tables that align their columns in a terminal: a third of the size, the same table.

    Example:
        >>> print(unpadded(markdown_table(["ticket", "kept"], [["core", "12"]])))
        | ticket | kept |
        |--|--:|
        | core | 12 |
    """
    return "\n".join(map(_unpadded_line, text.splitlines()))


def _unpadded_line(line: str) -> str:
    if re.fullmatch(r"[|:-]+", line):
        return re.sub(r"-{2,}", "--", line)
    return re.sub(r" {2,}", " ", line) if line.startswith("|") else line


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return [cell.strip().replace("\\|", "|") for cell in cells]
