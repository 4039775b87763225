"""Text where people read it, on a terminal, in a card, in a message: also what comes from an untrusted source."""

from __future__ import annotations

import re

# Control characters but for the line feed and the tab (ESC moves the cursor, C1 does the same in one byte), marks that
# change the direction of what follows, other line breaks, the byte order mark, and halves of characters.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_MARKDOWN = re.compile(r"([\\`*_\[\]()~|#$!])")


def visible(text: str) -> str:
    r"""Replace characters that act instead of showing by their escapes.

    Example:
        >>> print(visible("red\x1b[31m \u202eevil"))
        red\x1b[31m \u202eevil
    """
    return _INVISIBLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def duration(seconds: float, decimals: int = 0) -> str:
    """Format a time span in its natural unit.

    Args:
        decimals: of seconds; larger units have one.

    Example:
        >>> duration(90), duration(1.5, decimals=1), duration(7200)
        ('90 seconds', '1.5 seconds', '2.0 hours')
    """
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.{decimals}f} seconds"


def markdown_text(text: str) -> str:
    r"""Return one line of Markdown that shows `text` as it is: no link, no image, no emphasis, no HTML.

    Example:
        >>> print(markdown_text("[cat](http://x) <b>"))
        \[cat\]\(http://x\) &lt;b&gt;
    """
    escaped = _MARKDOWN.sub(r"\\\1", visible(" ".join(text.split())))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
