"""The classes of rows: reading them of any column, checked, and naming some of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dilt_hf.utils.errors import DataError, DiltError, PartitionError

if TYPE_CHECKING:
    import datasets

UNLABELLED = -1
MOST_NAMED = 8  # classes that a message names


def scalar_column(table: datasets.Dataset, column: str, where: str) -> list[Any]:
    """Read a column of text, whole numbers or truth values, without touching the images.

    Whole numbers that are stored as floats become whole numbers; None, NaN and empty text become None.

    Args:
        where: what messages call the rows, such as "the train split".

    Raises:
        DataError: for a value of another type; the message names the row.
    """
    values = table.select_columns([column]).with_format(None)[:][column]
    return [_scalar(value, f"row {row} of {where}", column) for row, value in enumerate(values)]


def _scalar(value: Any, where: str, column: str) -> Any:
    if isinstance(value, str):
        return value if value.strip() else None
    if value is None or isinstance(value, int):  # a bool is an int
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer():
            return int(value)
    raise DataError(
        f"{where} has {' '.join(repr(value).split())[:40]} in column '{column}', which is neither text nor a whole "
        "number; choose another column."
    )


def read_labels(tables: Mapping[str, Any], column: str, train: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return global class ids of each table (-1 where unlabelled) and the class names.

    Raises:
        DataError: for values that are no classes, ids that no class has, and training rows without a class.
    """
    import datasets

    feature = tables[train].features[column]
    raw = {
        name: scalar_column(table, column, f"the {name} split")
        for name, table in tables.items()
        if column in table.column_names
    }
    if isinstance(feature, datasets.ClassLabel):
        names = _texts(feature.names, column)
        numbers = {name: _ids(values, len(names), f"the {name} split", column) for name, values in raw.items()}
    else:
        kinds = {isinstance(value, str) for values in raw.values() for value in values if value is not None}
        if len(kinds) > 1:
            raise DataError(f"column '{column}' holds text in some rows and numbers in others; write them alike.")
        distinct = sorted({value for value in raw[train] if value is not None})
        names = tuple(str(value) for value in distinct)
        index = {value: position for position, value in enumerate(distinct)}
        numbers = {
            name: np.array([UNLABELLED if v is None else index.get(v, UNLABELLED) for v in values], np.int64)
            for name, values in raw.items()
        }
    for name in tables:
        numbers.setdefault(name, np.full(len(tables[name]), UNLABELLED, np.int64))
    if (numbers[train] < 0).any():
        lacking = np.flatnonzero(numbers[train] < 0)
        rows = ", ".join(map(str, lacking[:3])) + (f", … ({len(lacking)} in all)" if len(lacking) > 3 else "")
        raise DataError(f"training rows have no class in column '{column}': {rows}; remove them.")
    for name, table in tables.items():
        other = table.features.get(column)
        both = isinstance(other, datasets.ClassLabel) and isinstance(feature, datasets.ClassLabel)
        if both and _texts(other.names, column) != names:
            raise DataError(
                f"the splits {train} and {name} have different classes, so their ids mean different things."
            )
    return numbers, names


def _texts(names: Sequence[Any], column: str) -> tuple[str, ...]:
    """Return the names of classes as text, which other tools do not always write."""
    if not all(isinstance(name, (str, int)) for name in names):
        raise DataError(f"column '{column}' has a class without a name ({list(names)[:5]}); name its classes.")
    return tuple(map(str, names))


def _ids(values: Sequence[Any], count: int, where: str, column: str) -> np.ndarray:
    wrong = next((row for row, v in enumerate(values) if v is not None and not -1 <= int(v) < count), None)
    if wrong is not None:
        raise DataError(
            f"row {wrong} of {where} has the id {values[wrong]} in column '{column}', which has {count} classes; "
            "correct the row."
        )
    return np.array([UNLABELLED if v is None else int(v) for v in values], np.int64)


def class_ids(
    entries: Sequence[int | str], names: Sequence[str], option: str = "", error: type[DiltError] = PartitionError
) -> list[int]:
    """Translate class names, ids, or ranges such as "0-4" (both ends included) into global ids.

    Names win over numbers, also in a range: where all classes are called by numbers, "8-10" are the classes of these
    names, in whatever order the data have them.

    Args:
        option: whose value it is, for messages.
        error: what is raised.

    Raises:
        error: for entries that are neither.

    Example:
        >>> class_ids(["cat", "2-3"], ["ant", "cat", "dog", "elk"])
        [1, 2, 3]
        >>> class_ids(["9-10"], ["0", "1", "10", "9"])
        [3, 2]
    """
    index = {name: position for position, name in enumerate(names)}
    numbered = {int(name): position for name, position in index.items() if name.isdecimal()}
    by_name = len(numbered) == len(names)  # also of those that a number of places means
    places: Mapping[int, int] = numbered if by_name else dict(enumerate(range(len(names))))
    ids: list[int] = []
    for entry in entries:
        if isinstance(entry, str) and entry in index:
            ids.append(index[entry])
            continue
        first, _, last = str(entry).strip().partition("-")
        ends = (first, last or first)
        wanted = range(0)
        if not isinstance(entry, bool) and all(end.isdecimal() and len(end) < 10 for end in ends):
            wanted = range(int(ends[0]), int(ends[1]) + 1)
        named = [number for number in wanted if str(number) in index]
        if not by_name and last and any(index[str(number)] != number for number in named):
            raise error(
                f"{option or 'the range'} '{entry}' could mean the classes called {named[0]} to {named[-1]}, or those "
                "at these places; list the classes one by one."
            )
        if not wanted or wanted[0] not in places or wanted[-1] not in places:
            prefix = f"{option} names '{entry}', which is" if option else f"'{entry}' is"
            what = "names" if by_name else f"ids, which run from 0 to {len(names) - 1}"
            raise error(f"{prefix} neither a class ({_some(names)}) nor a range of their {what}, such as 0-4.")
        ids.extend(places[number] for number in wanted if number in places)
    return ids


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f", … ({len(names)} in all)" if len(names) > MOST_NAMED else "")
