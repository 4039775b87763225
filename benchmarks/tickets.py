"""What loading and switching tickets costs at the size of ViT-B (86 million parameters).

    python benchmarks/tickets.py [--rounds 7]

- load: `load_model("core")` against plain `AutoModelForImageClassification.from_pretrained` of the same folder;
- switch: `TicketSwitch.set_ticket` against copying the same weights once, and, where peft is installed, against merging
  a LoRA adapter of the same layers into the weights and taking it out again.
"""

import argparse
import importlib.util
import tempfile
from pathlib import Path

import torch
from timing import alternate, print_table
from transformers import AutoModelForImageClassification

from dilt_hf.config import ModelConfig
from dilt_hf.masks import full_like, random_like
from dilt_hf.models import build_model, save_model
from dilt_hf.switching import TicketSwitch
from dilt_hf.tickets import Tickets
from dilt_hf.weights import prunable_parameters

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


def adapters(model):
    """Merging and taking out a LoRA adapter of all linear layers, which is what switching adapters comes to."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False))

    def merge():
        adapted.merge_adapter()
        adapted.unmerge_adapter()

    return merge


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        folder = made(Path(scratch))
        tickets = Tickets.from_pretrained(folder)
        loading = alternate(
            {
                "plain": lambda: AutoModelForImageClassification.from_pretrained(folder),
                "ours": lambda: tickets.load_model("core"),
                "with masks": lambda: Tickets.from_pretrained(folder).load_model("core"),
            },
            rounds,
            warm_up=1,
        )
        model = tickets.load_model()
        weights = list(prunable_parameters(model).values())
        copies = [torch.empty_like(tensor, requires_grad=False) for tensor in weights]
        switch, names = TicketSwitch(model, tickets), iter(["core", "union", "specialist_0"] * 1000)

        def copy():
            with torch.no_grad():
                for source, target in zip(weights, copies, strict=True):
                    target.copy_(source)

        ways = {"copy": copy, "switch": lambda: switch.set_ticket(next(names))}
        if importlib.util.find_spec("peft"):
            ways["peft"] = adapters(tickets.load_model())
        switching = alternate(ways, rounds, warm_up=2)
    size = sum(tensor.numel() for tensor in weights) / 1e6
    rows = [["", "seconds", "ratio"]]
    for names, medians, base in ((("plain", "ours", "with masks"), loading, "plain"), (ways, switching, "copy")):
        rows += [[name, f"{medians[name]:.3f}", f"{medians[name] / medians[base]:.2f}"] for name in names]
    print_table(f"ViT-B, {size:.0f} million prunable weights, median of {rounds} alternating turns", rows)


if __name__ == "__main__":
    main()
