"""What holding a mask costs: time of a masked, a dense and a `torch.nn.utils.prune` training step, taking turns.

python benchmarks/masked_step.py [--rounds 15]
"""

import argparse

import torch
from timing import alternate, print_table
from torch.nn.utils import prune

from dilt_hf.config.model import ModelConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.masks.algebra import full_like, random_like
from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.factory import build_model
from dilt_hf.models.weights import checkpoint_tensors, prunable_parameters
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.training.optimizers import make_optimizer

CONFIG = TrainingConfig(learning_rate=0.01)


def step_of(kind, architecture, size, batch, device):
    """A function that does one whole training step, with a mask of density 0.2 unless `kind` is dense."""
    model = build_model(ModelConfig(architecture=architecture), [str(c) for c in range(100)], size, 0).to(device)
    model = model.to(memory_format=torch.channels_last).train()
    pixels = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 100, (batch,), device=device)
    full = full_like(prunable_parameters(model))
    generator = torch.Generator().manual_seed(0)
    kept = {name: torch.rand(mask.shape, generator=generator) < 0.2 for name, mask in full.items()}
    masks = random_like(kept, generator) if kind != "dense" else {}
    if kind == "torch.nn.utils.prune":
        names = {id(tensor): name for name, tensor in checkpoint_tensors(model).items()}
        for module in list(model.modules()):
            name = names.get(id(getattr(module, "weight", None)))
            if name in masks:
                prune.custom_from_mask(module, "weight", masks[name].to(device))
        masks = {}
    masked = MaskedWeights(model, masks)
    optimizer = make_optimizer(model, CONFIG)

    def step():
        loss = torch.nn.functional.cross_entropy(logits_of(model, pixels), labels)
        loss.backward()
        masked.mask_gradients()
        optimizer.step()
        masked.mask_weights()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [["network", "batch", "dense ms", "masked ms", "masked/dense", "torch prune/dense"]]
    for architecture, size, batch in (("resnet18", 32, 128), ("deit-tiny", 32, 32)):
        kinds = ("dense", "masked", "torch.nn.utils.prune")
        steps = {kind: step_of(kind, architecture, size, batch, device) for kind in kinds}
        medians = alternate(steps, rounds)
        dense, masked, pruned = (medians[kind] for kind in kinds)
        rows.append(
            [
                f"{architecture}, {size} px",
                str(batch),
                f"{dense * 1e3:.1f}",
                f"{masked * 1e3:.1f}",
                f"{masked / dense:.3f}",
                f"{pruned / dense:.3f}",
            ]
        )
    print_table(f"Training step, median of {rounds} alternating turns, {device.type}", rows)


if __name__ == "__main__":
    main()
