"""Report errors of a script as one sentence."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dilt_hf.utils.errors import DiltError

if TYPE_CHECKING:
    pass


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Report what goes wrong in a recipe as one sentence, with exit status 1."""
    logging.basicConfig(level=os.environ.get("DILT_LOG_LEVEL", "WARNING"), format="%(levelname)s: %(message)s")
    try:
        yield
    except (DiltError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues from the last finished step.")
