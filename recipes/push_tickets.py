"""Publish a folder of tickets on the Hub, with its model card, in one commit.

    python recipes/push_tickets.py runs/digits/tickets/seed_0 user/dilt-digits --tag v1

The token is that of `hf auth login`, or of the variable HF_TOKEN.
"""

import argparse

from dilt_hf import Tickets
from dilt_hf.utils.console import reporting_errors

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a ticket repository, such as runs/digits/tickets/seed_0")
    parser.add_argument("repo_id", help="user/name; made if it does not exist")
    parser.add_argument("--private", action="store_true", default=None, help="make it private, if it is new")
    parser.add_argument("--revision", help="the branch; by default main")
    parser.add_argument("--tag", help="a name for this commit, for others to load it by")
    given = parser.parse_args()
    with reporting_errors():
        tickets = Tickets.from_pretrained(given.folder)
        print(tickets.summary())
        settings = {"private": given.private, "revision": given.revision, "tag": given.tag}
        print(f"published as {tickets.push_to_hub(given.repo_id, **settings)}")
