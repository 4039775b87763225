"""What the processes of `test_shared_batchnorm` do: train small networks together."""

import dataclasses

from small import SGD, TINY_VIT, digits_feed, masks_of, network

from dilt_hf import training

CONFIG = dataclasses.replace(SGD, learning_rate=0.02, max_grad_norm=1.0)
KEY = (0, "partition_0", 1)


def doubled(kind):
    """A network in double precision that takes single-precision pictures, a mask for it, and how it is trained."""
    if kind == "vit":
        model = network(architecture="vit-tiny", **TINY_VIT)
    else:
        model = network(architecture="resnet18-cifar", hidden_sizes=[4, 4, 8, 8], embedding_size=4)
    model = model.double()
    model.register_forward_pre_hook(lambda module, inputs: tuple(pixels.double() for pixels in inputs))
    config = dataclasses.replace(CONFIG, gradient_accumulation_steps=2) if kind == "passes" else CONFIG
    return model, masks_of(model), config


def train_together(folder):
    from accelerate import Accelerator
    from safetensors.torch import save_file

    accelerator = Accelerator(cpu=True)
    feed = digits_feed()
    for kind in ("resnet", "vit", "passes"):
        model, masks, config = doubled(kind)
        training.train(model, masks, feed, config, accelerator, key=KEY, classes=range(10))
        if accelerator.is_main_process:
            tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            save_file(tensors, folder / f"{kind}.safetensors")
