"""What goes wrong, by the part of the work that a user would have to change.

Every message is one sentence that says what is wrong, where, and what to do. Errors of the Hub and of the operating
system are not wrapped: they reach the caller as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dilt_hf.utils.text import visible
from dilt_hf.utils.typed import WrongTypeError

LONGEST = 1200  # characters of a message


class DiltError(Exception):
    """Base class of every error this package raises on purpose."""

    def __str__(self) -> str:
        """Return the message. It may quote an untrusted source: at length it is cut in the middle, and characters that
        act on a terminal are escaped.
        """
        text = visible(" ".join(super().__str__().split()))
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 300]} … {text[-300:]}"


class ConfigError(DiltError):
    """A setting, or a combination of settings, that cannot be carried out."""


class DataError(DiltError):
    """A dataset that cannot be read as image classification, or an image in it that cannot be decoded."""


class PartitionError(DiltError):
    """Partitions that are empty, overlap, do not cover the classes, or name classes that do not exist."""


class ModelError(DiltError):
    """A model that cannot be built, or that does not match the data or the weights meant for it."""


class MaskError(DiltError):
    """Masks that are malformed, do not fit together, or cannot be selected from the scores given."""


class TicketError(DiltError):
    """A ticket repository that is incomplete or inconsistent, or a ticket name that does not exist in it."""


class AnalysisError(DiltError):
    """Representations that cannot be compared, or an analysis that what is there does not allow."""


class TrainingError(DiltError):
    """A training that cannot go on, such as one whose loss is no longer a number."""


class RunError(DiltError):
    """An output folder that holds something other than the run that was asked for."""


class ProcessGroupError(RunError):
    """Processes that train one network together and can no longer, because one of them failed."""


@contextlib.contextmanager
def reading(what: str, kind: type[DiltError] = TicketError) -> Iterator[None]:
    """Wrap code that uses facts from an untrusted source.

    Raises:
        kind: in place of whatever facts of an unexpected form lead to.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, WrongTypeError) as error:
        raise kind(f"{what} is not of the form that this version writes ({type(error).__name__}: {error}).") from error
