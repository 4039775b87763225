"""What the training loop adds to the bare steps, and how it compares with a plain DataLoader and PIL loop.

Three ways to do the same steps on the same network, batch size and number of pictures, taking turns:

- limit: forward, backward and masked optimizer step on batches that lie ready on the device;
- ours: `dilt_hf.training.train` with a mask, augmentation, seeding and checks;
- DataLoader: `torch.utils.data.DataLoader` over PIL pictures with torchvision's crop, flip and normalisation, with as
  many workers as there are cores, and in the main process.

    python benchmarks/training_loop.py [--rounds 5]
"""

import argparse
import os

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from timing import alternate, print_table
from torchvision import transforms

from dilt_hf import data, training
from dilt_hf.config import ModelConfig, TrainingConfig
from dilt_hf.images import Normalize
from dilt_hf.masks import full_like
from dilt_hf.models import build_model, logits_of, prunable_parameters

SIZE = 32


class Pictures(torch.utils.data.Dataset):
    """PIL pictures with the usual transforms."""

    def __init__(self, pictures, labels):
        self.pictures = [Image.fromarray(picture) for picture in pictures]
        self.labels = labels
        self.transform = transforms.Compose([
            transforms.RandomCrop(SIZE, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ])  # fmt: skip

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.transform(self.pictures[index]), self.labels[index]


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
    masked = training.MaskedWeights(model, masks)
    optimizer = training.make_optimizer(model, config)
    model.train()
    for pixels, labels in batches:
        torch.nn.functional.cross_entropy(logits_of(model, pixels), labels).backward()
        masked.mask_gradients()
        optimizer.step()
        masked.mask_weights()
        optimizer.zero_grad()


def compare(architecture, batch, steps, rounds, accelerator):
    device = accelerator.device
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (batch * steps, SIZE, SIZE, 3), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(0, 10, batch * steps))
    config = TrainingConfig(num_train_epochs=1, train_batch_size=batch, learning_rate=0.01)

    def new_model(channels_last):
        model = build_model(ModelConfig(architecture=architecture), list("0123456789"), SIZE, 0).to(device)
        return model.to(memory_format=torch.channels_last) if channels_last else model

    ours, limit, plain = new_model(True), new_model(True), new_model(False)
    masks = {name: mask.clone() for name, mask in full_like(prunable_parameters(ours)).items()}
    for mask in masks.values():
        mask.view(-1)[::2] = False
    source = data.ResidentImages(torch.from_numpy(pictures).to(device), labels.to(device))
    normalize = Normalize([0.5], [0.5], 3, device)
    feed = training.Feed(source, torch.arange(batch * steps), normalize, "shift_flip")
    ready = list(data.in_order(source, feed.rows, batch, normalize))
    dataset = Pictures(pictures, labels.tolist())

    def loader(workers):
        return torch.utils.data.DataLoader(dataset, batch, shuffle=True, num_workers=workers, drop_last=True)

    workers = os.cpu_count() or 1
    medians = alternate(
        {
            "limit": lambda: limit_steps(limit, config, ready, masks),
            "ours": lambda: training.train(ours, masks, feed, config, accelerator, key=("b",), progress=False),
            "main": lambda: plain_steps(plain, config, loader(0), device),
            "workers": lambda: plain_steps(plain, config, loader(workers), device),
        },
        rounds,
        warm_up=1,
    )
    speed = {name: batch * steps / seconds for name, seconds in medians.items()}
    return [
        f"{architecture}, batch {batch}", *(f"{speed[name]:.0f}" for name in ("limit", "ours", "main", "workers")),
        f"{medians['ours'] / medians['limit']:.3f}", f"{speed['ours'] / max(speed['main'], speed['workers']):.2f}",
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    accelerator = Accelerator()
    head = ["network", "limit", "ours", "DataLoader, 0 workers", "DataLoader, workers", "time ours/limit",
            "speed ours/best DataLoader"]  # fmt: skip
    cases = (("resnet-micro", 64, 60), ("resnet18", 128, 8))
    rows = [compare(*case, rounds, accelerator) for case in cases]
    title = f"Pictures per second at {SIZE} px, median of {rounds} alternating turns, {accelerator.device.type}"
    print_table(title, [head, *rows])


if __name__ == "__main__":
    main()
