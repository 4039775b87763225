"""Report errors of a script as one sentence."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from dilt_hf.utils.errors import DiltError
from dilt_hf.utils.text import visible


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Report what goes wrong in a recipe as one sentence, with exit status 1.

    A reader that closes the pipe (`| head`) ends the program quietly, and a terminal that lacks a character gets its
    escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=os.environ.get("DILT_LOG_LEVEL", "WARNING"))
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Visible("%(levelname)s: %(message)s"))
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter flushes it once more
        sys.exit(141)  # as a program that SIGPIPE ends
    except (DiltError, OSError) as error:
        sys.exit(visible(f"error: {error}"))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues from the last finished step.")
    except Exception as error:
        about = _of_the_hub(error) or _of_memory(error)
        if about is None:
            raise
        sys.exit(visible(f"error: {about}"))


def _of_the_hub(error: Exception) -> str | None:
    """Say what an error of the Hub's client is that is no `OSError`: a bad id, or no answer; None for all others."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if isinstance(error, HFValidationError):
        return str(error)
    if isinstance(error, HfHubHTTPError.__bases__):  # of the HTTP client, which is not the same in every version
        return f"the Hub does not answer ({error}); check the network, and HF_ENDPOINT if it is set."
    return None


def _of_memory(error: Exception) -> str | None:
    """Say that memory does not suffice, on the processor or an accelerator; None for all other errors."""
    text = " ".join(str(error).split())
    is_torch = isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text)
    if not is_torch and not isinstance(error, MemoryError):
        return None
    detail = f" ({text[:200].rstrip('.')})" if text else ""
    return (
        f"memory does not suffice{detail}; pass batches in parts (--gradient_accumulation_steps), or take smaller "
        "images or a smaller network."
    )


class _Visible(logging.Formatter):
    """Escapes what would act on a terminal: messages may quote an untrusted source."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
