"""What the processes of `test_shared_batchnorm` do: train small networks together."""

import dataclasses

from dilt_hf.pruning.gradual import GradualPruning
from dilt_hf.pruning.rigl import Rewiring
from helpers.small import SGD, TINY_VIT, digits_feed, masks_of, network, run_training

CONFIG = dataclasses.replace(SGD, learning_rate=0.02, max_grad_norm=1.0)
KEY = (0, "partition_0", 1)


def doubled(kind):
    """A network in double precision that takes single-precision images, a mask for it, and how it is trained."""
    if kind == "conv3":
        model = network()
    elif kind == "vit":
        model = network(architecture="vit-tiny", **TINY_VIT)
    else:
        model = network(architecture="resnet18-cifar", hidden_sizes=[4, 4, 8, 8], embedding_size=4)
    model = model.double()
    model.register_forward_pre_hook(lambda module, inputs: tuple(pixels.double() for pixels in inputs))
    config = dataclasses.replace(CONFIG, gradient_accumulation_steps=2) if kind == "passes" else CONFIG
    return model, masks_of(model), config


def topology(kind, masks):
    """RigL, SET or gradual pruning for the fourteen steps of these trainings; None for fixed masks."""
    if kind in ("rigl", "set"):
        return Rewiring(masks, steps=14, every=2, until=0.9, key=None if kind == "rigl" else KEY)
    full = {name: mask | True for name, mask in masks.items()}
    return GradualPruning(full, 200, steps=14, every=3) if kind == "gradual" else None


def train_together(folder):
    from accelerate import Accelerator
    from safetensors.torch import save_file

    accelerator = Accelerator(cpu=True)
    feed = digits_feed()
    for kind in ("resnet", "vit", "passes", "rigl", "set", "gradual"):
        model, masks, config = doubled(kind)
        changing = topology(kind, masks)
        run_training(model, masks, feed, config, accelerator, key=KEY, classes=range(10), topology=changing)
        if accelerator.is_main_process:
            tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            save_file(tensors, folder / f"{kind}.safetensors")
            if changing is not None:
                save_file(changing.masks, folder / f"{kind}_masks.safetensors")
