"""A small `transformers.Trainer` on digits, and what each process of a DDP training does with it."""

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from dilt_hf.config.model import ModelConfig
from dilt_hf.masks.algebra import full_like, shuffle_like
from dilt_hf.models.factory import build_model
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.training.trainer_callback import TicketCallback


def network():
    """A ViT without dropout and without batch norm: the same on any number of processes."""
    small = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "num_attention_heads": 2}
    config = ModelConfig(architecture="vit-tiny", config_overrides=small, patch_size=4, num_channels=1)
    return build_model(config, list("0123456789"), 8, seed=0)


def masks_of(model):
    kept = {}
    for name, mask in full_like(prunable_parameters(model)).items():
        flat = torch.arange(mask.numel()) < 0.3 * mask.numel()
        kept[name] = flat.view(mask.shape)
    return shuffle_like(kept, torch.Generator().manual_seed(0))


def digits(count):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = (images[:count].reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)
    return [{"pixel_values": torch.tensor(p), "labels": int(c)} for p, c in zip(pixels, labels, strict=False)]


def trainer(model, folder, callback, **settings):
    settings = {
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": "none",
        "seed": 0,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    } | settings
    arguments = TrainingArguments(str(folder), **settings)
    data = digits(96)
    callbacks = [callback] if callback else None
    return Trainer(model, arguments, train_dataset=data[:64], eval_dataset=data[64:], callbacks=callbacks)


def train_ticket(folder):
    model = network()
    training = trainer(model, folder, TicketCallback(masks_of(model)), per_device_train_batch_size=8, max_steps=4)
    training.train()
    if training.is_world_process_zero():
        model.save_pretrained(folder)
