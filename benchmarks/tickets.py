"""What loading and switching tickets costs at the size of ViT-B (86 million parameters).

    python benchmarks/tickets.py [--rounds 9]

- load: `load_model("core")` against plain `AutoModelForImageClassification.from_pretrained` of the same folder. Plain
  loading maps the file and reads nothing; a mask has to be put on the weights, so ours reads and writes all of them.
  "and read once" adds reading every weight to both, as the first forward pass or `.to(device)` would.
- switch: `TicketSwitch.set_ticket` against copying the same weights once; and, where peft is installed, against
  merging a LoRA adapter of rank 8 of the same layers into the weights and taking it out again, which is how adapters
  take turns without slowing the model down, and against `set_adapter`, which slows it down instead.
"""

import argparse
import importlib.util
import tempfile
from pathlib import Path

import torch
from timing import alternate, print_table
from transformers import AutoModelForImageClassification
from transformers.utils import logging

from dilt_hf.config.model import ModelConfig
from dilt_hf.masks.algebra import full_like, random_like
from dilt_hf.models.factory import build_model, save_model
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.tickets.format import _sha256_of_version
from dilt_hf.tickets.switch import TicketSwitch
from dilt_hf.tickets.tickets import Tickets

VIT_B = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


def made(folder):
    """The tickets of two random partitions of a ViT-B/16, each with a fifth of the weights."""
    config = ModelConfig(architecture="vit-tiny", patch_size=16, config_overrides=VIT_B)
    model = build_model(config, [str(k) for k in range(1000)], 224, 0)
    save_model(model, folder / "theta0")
    fifth = full_like(prunable_parameters(model))
    for mask in fifth.values():
        mask.view(-1)[mask.numel() // 5 :] = False
    partitions = [random_like(fifth, torch.Generator().manual_seed(k)) for k in range(2)]
    Tickets.found(folder / "theta0", partitions, {}).save_pretrained(folder / "tickets")
    return folder / "tickets"


def loading(folder, rounds):
    tickets = Tickets.from_pretrained(folder)

    def plain():
        return AutoModelForImageClassification.from_pretrained(folder)

    def first():
        _sha256_of_version.cache_clear()
        return Tickets.from_pretrained(folder).load_model("core")

    def read(model):
        return [parameter.detach().sum() for parameter in model.parameters()]

    ways = {
        "plain": plain,
        'load_model("core")': lambda: tickets.load_model("core"),
        "from_pretrained and load_model": lambda: Tickets.from_pretrained(folder).load_model("core"),
        "the same for the first time: θ0 is hashed": first,
        "plain, and read once": lambda: read(plain()),
        'load_model("core"), and read once': lambda: read(tickets.load_model("core")),
    }
    return alternate(ways, rounds, warm_up=1)


def switching(folder, rounds):
    tickets = Tickets.from_pretrained(folder)
    model = tickets.load_model()
    weights = list(prunable_parameters(model).values())
    copies = [torch.empty_like(tensor, requires_grad=False) for tensor in weights]
    switch, names = TicketSwitch(model, tickets), iter(["core", "union", "specialist_0"] * 1000)

    def copy():
        with torch.no_grad():
            for source, target in zip(weights, copies, strict=True):
                target.copy_(source)

    def switch_after_training():
        switch._hashes.clear()  # as if every weight had changed
        switch.set_ticket(next(names))

    ways = {
        "copying the weights once": copy,
        "set_ticket": lambda: switch.set_ticket(next(names)),
        "set_ticket after training": switch_after_training,
    }
    if importlib.util.find_spec("peft"):
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False)
        adapted = get_peft_model(tickets.load_model(), lora, adapter_name="one")
        adapted.add_adapter("two", lora)
        adapters = iter(["one", "two"] * 1000)

        def merge():
            adapted.set_adapter(next(adapters))
            adapted.merge_adapter()
            adapted.unmerge_adapter()

        ways["peft: set_adapter, merge, unmerge"] = merge
        ways["peft: set_adapter alone"] = lambda: adapted.set_adapter(next(adapters))
    return alternate(ways, rounds, warm_up=3), sum(tensor.numel() for tensor in weights) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        folder = made(Path(scratch))
        found = [loading(folder, rounds)]
        times, size = switching(folder, rounds)
        found.append(times)
    rows = [["", "seconds", "ratio"]]
    for medians in found:
        base = next(iter(medians.values()))
        rows += [[name, f"{seconds:.3f}", f"{seconds / base:.2f}"] for name, seconds in medians.items()]
    print_table(f"ViT-B, {size:.0f} million prunable weights, median of {rounds} alternating turns", rows)


if __name__ == "__main__":
    main()
