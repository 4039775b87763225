"""The ticket explorer as a Space on the Hub; the variable DILT_REPO says whose tickets, and DILT_REVISION which."""

import os
import sys

from dilt_hf.explore.app import launch, make_app
from dilt_hf.tickets.tickets import Tickets

if __name__ == "__main__":
    if not os.environ.get("DILT_REPO"):
        sys.exit("error: set the variable DILT_REPO to the id of a ticket repository, such as user/tickets.")
    launch(make_app(Tickets.from_pretrained(os.environ["DILT_REPO"], revision=os.environ.get("DILT_REVISION"))))
