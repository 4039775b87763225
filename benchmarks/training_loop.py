"""What the training loop adds to the bare steps, and how it compares with a plain DataLoader and PIL loop.

Ways to do the same steps on the same network, batch size and number of JPEG images, taking turns:

- limit: forward, backward and masked optimizer step on batches that lie ready on the device;
- resident: `dilt_hf.training.train.train` with a mask, augmentation, seeding and checks, on images decoded once;
- streamed: the same on images that workers decode and crop every time, as for sets too large to keep;
- DataLoader: `torch.utils.data.DataLoader` over the same images with torchvision's crop, flip and normalisation, with
  as many workers as there are cores, or in the main process, whichever is faster.

    python benchmarks/training_loop.py [--rounds 5]
"""

import argparse
import dataclasses
import io
import os

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from timing import alternate, print_table
from torchvision import transforms

from dilt_hf.config.model import ModelConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.data import loader as data
from dilt_hf.data.augmentation import Augmentation
from dilt_hf.data.decoding import Normalize
from dilt_hf.data.loader import Feed
from dilt_hf.data.splits import Split
from dilt_hf.masks.algebra import full_like
from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.factory import build_model
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.training.optimizers import make_optimizer
from dilt_hf.training.protocols import Route
from dilt_hf.training.train import train

CORES = os.cpu_count() or 1


def jpegs(count, size):
    """Smooth random images, so that they compress as photographs do."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield {"bytes": buffer.getvalue(), "path": None}


class Images(torch.utils.data.Dataset):
    """The images with the usual transforms."""

    def __init__(self, encoded, labels, size):
        self.encoded, self.labels = encoded, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=size // 8),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self):
        return len(self.encoded)

    def __getitem__(self, index):
        return self.transform(Image.open(io.BytesIO(self.encoded[index]["bytes"]))), self.labels[index]


def plain_steps(model, config, batches, device):
    """The loop that everybody writes."""
    optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, momentum=0.9, weight_decay=5e-4)
    model.train()
    for pixels, labels in batches:
        pixels, labels = pixels.to(device), labels.to(device)
        loss = torch.nn.functional.cross_entropy(logits_of(model, pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def limit_steps(model, config, batches, masks):
    """The same operations as ours, on batches that are already there."""
    masked = MaskedWeights(model, masks)
    optimizer = make_optimizer(model, config)
    model.train()
    for pixels, labels in batches:
        torch.nn.functional.cross_entropy(logits_of(model, pixels), labels).backward()
        masked.mask_gradients()
        optimizer.step()
        masked.mask_weights()
        optimizer.zero_grad()
    if pixels.device.type == "cuda":
        torch.cuda.synchronize()


def compare(architecture, size, batch, steps, epochs, rounds, accelerator):
    """Speeds as a row of the table; only the two fastest ways take more than one epoch."""
    device = accelerator.device
    encoded = list(jpegs(batch * steps, size))
    labels = np.random.default_rng(1).integers(0, 10, batch * steps)
    config = TrainingConfig(num_train_epochs=epochs, global_train_batch_size=batch, learning_rate=0.01)
    one_epoch = dataclasses.replace(config, num_train_epochs=1)

    def new_model(channels_last=True):
        model = build_model(ModelConfig(architecture=architecture), list("0123456789"), size, 0).to(device)
        return model.to(memory_format=torch.channels_last) if channels_last else model

    masks = {name: mask.clone() for name, mask in full_like(prunable_parameters(new_model())).items()}
    for mask in masks.values():
        mask.view(-1)[::2] = False
    table = datasets.Dataset.from_dict({"image": encoded}, features=datasets.Features({"image": datasets.Image()}))
    split = Split("train", table, "image", labels, "train", np.arange(len(labels)))
    streamed = data.StreamedImages(split, size, 3, workers=CORES, device=device, persistent=True)
    resident = data.ResidentImages(torch.from_numpy(streamed.decoder.decode_all(False)).to(device), streamed.labels)
    normalize, rows = Normalize([0.5], [0.5], 3, device), torch.arange(batch * steps)
    ready = list(data.in_order(resident, rows, batch, normalize))

    def ours(images, kind, config):
        model, feed = new_model(), Feed(images, rows, normalize, Augmentation(kind))
        return lambda: train(model, [Route(masks, feed)], config, accelerator, key=("benchmark",))

    def plain(workers):
        model = new_model(channels_last=False)
        images = Images(encoded, labels.tolist(), size)
        loader = torch.utils.data.DataLoader(
            images, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
        )
        return lambda: plain_steps(model, config, loader, device)

    limit = new_model()
    medians = alternate(
        {
            "limit": lambda: limit_steps(limit, config, ready * epochs, masks),
            "resident": ours(resident, "shift_flip", config),
            "streamed": ours(streamed, "resized_crop_flip", one_epoch),
            "main": plain(0),
            "workers": plain(CORES),
        },
        rounds,
        warm_up=1,
    )
    passes = {"limit": epochs, "resident": epochs}
    speed = {name: passes.get(name, 1) * batch * steps / seconds for name, seconds in medians.items()}
    best = max(speed["main"], speed["workers"])
    return [
        f"{architecture}, {size} px, batch {batch}",
        f"{speed['limit']:.0f}",
        *(
            f"{speed[name]:.0f} ({speed[name] / speed['limit']:.2f}, {speed[name] / best:.2f})"
            for name in ("resident", "streamed")
        ),
        f"{best:.0f} ({best / speed['limit']:.2f})",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    accelerator = Accelerator()
    head = ["network", "limit", "resident", "streamed", "best DataLoader"]
    cases = (("resnet-micro", 32, 64, 40, 4), ("resnet18", 32, 128, 8, 1), ("resnet18", 112, 32, 6, 1))
    rows = [compare(*case, rounds, accelerator) for case in cases]
    title = (
        "Images per second (share of the limit; ratio to the best DataLoader), median of "
        f"{rounds} alternating turns, {accelerator.device.type}"
    )
    print_table(title, [head, *rows])


if __name__ == "__main__":
    main()
