"""What users do with the Hub, in a process of their own: the client reads its settings when it is imported.

Steps come as lists,
    ["push", FOLDER, REPOSITORY, {SETTINGS}]            publish the tickets of a folder
    ["load", REPOSITORY, TICKET, OUT, {SETTINGS}]       write the model of a ticket to OUT/model.safetensors
    ["save", REPOSITORY, OUT, {SETTINGS}]               write the whole repository to OUT
    ["trained", REPOSITORY, TICKET, OUT, {SETTINGS}]    the same for a ticket with trained weights
    ["plan", DATASET, {MODEL}, {DATA}]                  what a dry run says of tickets of these
    ["plain", REPOSITORY, SUBFOLDER, OUT]               the same with plain transformers
and each is answered by what it returned, or by its error.
"""

import contextlib
import io
from pathlib import Path

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.pruning import PruningConfig
from dilt_hf.config.run import DiltConfig, RunConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.experiments.find import find_tickets
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


def plan(dataset, model, data, partition=()):
    config = DiltConfig(
        data=DataConfig(dataset_name=dataset, **data),
        model=ModelConfig(**model),
        partition=PartitionConfig(**dict(partition)),
        pruning=PruningConfig(num_rounds=2, pruning_fraction=0.2),
        training=TrainingConfig(),
        run=RunConfig(output_dir="plan", use_cpu=True, dry_run=True),
    )
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        find_tickets(config, progress=False)
    return said.getvalue() + ("and something was left" if Path("plan").exists() else "")


def write(model, out):
    Path(out).mkdir()
    save_weights(model, Path(out, "model.safetensors"))


def serve(connection):
    while True:
        try:
            step, *arguments = connection.recv()
        except EOFError:  # the user has ended
            return
        try:
            answer = globals()[step](*arguments)
        except Exception as error:
            answer = f"{type(error).__name__}: {' '.join(str(error).split())}"
        connection.send(str(answer))
