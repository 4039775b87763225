"""Name what a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def suggestion(word: str, known: Iterable[str], renamed: Mapping[str, str] | None = None, prefix: str = "") -> str:
    """Write "; did you mean 'X'?" for the known word that is nearest, or "" where none is near.

    Args:
        renamed: present names by earlier ones.
        prefix: what stands before the words in messages, such as "--".

    Example:
        >>> suggestion("LHT", ["LTH", "core"]), suggestion("nothing", ["LTH", "core"])
        ("; did you mean 'LTH'?", '')
    """
    by_case = {name.lower(): name for name in known}
    near = [renamed[word]] if renamed and word in renamed else []
    near += [by_case[name] for name in difflib.get_close_matches(word.lower(), by_case, n=1, cutoff=0.6)]
    return f"; did you mean '{prefix}{near[0]}'?" if near else ""
