"""Look at the tickets of a repository, compose them and try them on an image, in a browser.

python -m dilt_hf.explore runs/digits/tickets/seed_0
python -m dilt_hf.explore user/tickets --revision v1 --port 8000
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dilt_hf.utils.console import reporting_errors


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; on an error print one sentence and exit 1."""
    parser = argparse.ArgumentParser(
        prog="python -m dilt_hf.explore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repository", help="a ticket repository: a folder, or an id on the Hub")
    parser.add_argument("--revision", help="a branch, tag or commit on the Hub; by default main")
    parser.add_argument("--port", type=int, help="by default the first that is free from 7860 on")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 accepts other machines; by default %(default)s")
    options = parser.parse_args(arguments)
    try:
        from dilt_hf.explore.app import launch, make_app
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        sys.exit("error: the explorer needs gradio; install it with `pip install 'dilt-hf[explore]'`.")
    with reporting_errors():
        from huggingface_hub.errors import HFValidationError

        from dilt_hf.tickets.tickets import Tickets

        try:
            tickets = Tickets.from_pretrained(options.repository, revision=options.revision)
        except HFValidationError as error:  # the one error of the Hub that is no OSError
            sys.exit(f"error: {error}")
        app = make_app(tickets)
        launch(app, server_name=options.host, server_port=options.port, prevent_thread_lock=True)
        print(f"Open {app.local_url} in a browser; Ctrl+C stops the explorer.", flush=True)
        app.block_thread()


if __name__ == "__main__":
    main()
