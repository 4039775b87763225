"""What users do with the Hub, in a process of its own, because the client reads its settings when it is imported.

hub_worker.py reads steps from its input, one JSON list a line,
    ["push", FOLDER, REPOSITORY, {SETTINGS}]            publish the tickets of a folder
    ["load", REPOSITORY, TICKET, OUT, {SETTINGS}]       write the model of a ticket to OUT/model.safetensors
    ["save", REPOSITORY, OUT, {SETTINGS}]               write the whole repository to OUT
    ["trained", REPOSITORY, TICKET, OUT, {SETTINGS}]    the same for a ticket with trained weights
    ["plain", REPOSITORY, SUBFOLDER, OUT]               the same with plain transformers
and answers each with a line: what it returned, or its error.
"""

import json
import sys
from pathlib import Path

from dilt_hf.models.weights import save_weights
from dilt_hf.tickets.tickets import Tickets


def push(folder, repository, settings):
    return Tickets.from_pretrained(folder).push_to_hub(repository, **settings)


def load(repository, ticket, out, settings, trained=False):
    tickets = Tickets.from_pretrained(repository, **settings)
    write(tickets.load_model(ticket, trained=trained), out)
    return repr(tickets)


def trained(repository, ticket, out, settings):
    return load(repository, ticket, out, settings, trained=True)


def save(repository, out, settings):
    return Tickets.from_pretrained(repository, **settings).save_pretrained(out)


def plain(repository, subfolder, out):
    from transformers import AutoModelForImageClassification

    write(AutoModelForImageClassification.from_pretrained(repository, subfolder=subfolder), out)


def write(model, out):
    Path(out).mkdir()
    save_weights(model, Path(out, "model.safetensors"))


if __name__ == "__main__":
    for line in sys.stdin:
        step, *arguments = json.loads(line)
        try:
            answer = globals()[step](*arguments)
        except Exception as error:
            answer = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"answer: {answer}", flush=True)
