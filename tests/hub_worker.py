"""What users do with the Hub, in a process of its own, because the client reads its settings when it is imported.

hub_worker.py STEPS, a JSON list of
    ["push", FOLDER, REPOSITORY]                        publish the tickets of a folder
    ["load", REPOSITORY, TICKET, OUT, {SETTINGS}]       write the model of a ticket to OUT/model.safetensors
    ["save", REPOSITORY, OUT, {SETTINGS}]               write the whole repository to OUT
Prints a line for each step: what it returned, or its error.
"""

import json
import sys
from pathlib import Path

from dilt_hf.tickets import Tickets
from dilt_hf.weights import save_weights


def push(folder, repository):
    return Tickets.from_pretrained(folder).push_to_hub(repository)


def load(repository, ticket, out, settings):
    tickets = Tickets.from_pretrained(repository, **settings)
    Path(out).mkdir()
    save_weights(tickets.load_model(ticket), Path(out, "model.safetensors"))
    return repr(tickets)


def save(repository, out, settings):
    return Tickets.from_pretrained(repository, **settings).save_pretrained(out)


if __name__ == "__main__":
    for step, *arguments in json.loads(sys.argv[1]):
        try:
            print({"push": push, "load": load, "save": save}[step](*arguments), flush=True)
        except Exception as error:
            print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
