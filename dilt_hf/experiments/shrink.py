"""A trained vision transformer made smaller by SAViT, and trained again under the eyes of what it was.

    checkpoint ─> scores of heads, units, channels ─> structure ─> smaller model ─> fine-tuning with distillation

The structure and the training are stages, so the same command goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import ShrinkConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.data.opened import open_data
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stages
from dilt_hf.masks.io import save_masks
from dilt_hf.models.factory import build_model, save_model
from dilt_hf.models.flops import forward_cost
from dilt_hf.models.weights import WEIGHTS_FILE, load_weights, save_weights, tensors_sha256
from dilt_hf.pruning.savit import shape_of, shrunk, structured_mask
from dilt_hf.run.fingerprints import of_pixels
from dilt_hf.run.inputs import INPUTS_FILE, claim
from dilt_hf.run.methods.savit import chosen_structure, load_structure
from dilt_hf.run.normalization import check_normalization
from dilt_hf.run.training_steps import TRAINING_CODE
from dilt_hf.training.accelerator import open_accelerator
from dilt_hf.training.evaluation import predict
from dilt_hf.training.losses import Teacher
from dilt_hf.training.protocols import Checkpointing, Hooks, Route
from dilt_hf.training.train import total_steps, train
from dilt_hf.utils.files import new_folder, pretty_json, write_atomically
from dilt_hf.utils.markdown import markdown_table

TUNED = Kind("tuned", version=2, code=(*TRAINING_CODE, "experiments.shrink", "pruning.savit"))
MASK_FILE, RESULT_FILE, MODEL_FOLDER = "mask.safetensors", "shrunk.json", "model"
TIMED, CHECKPOINT_FILE, CHECKPOINT_SECONDS = 15, "checkpoint.safetensors", 300.0


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """What became of the network, before (`dense`) and after: by name `accuracy` on the test split, `operations` and
    `parameters` of it, and `milliseconds` for one image on this machine, median.
    """

    dense: dict[str, float]
    smaller: dict[str, float]
    heads: list[int]
    units: list[int]
    channels: int

    def table(self) -> str:
        """Write both networks, and the smaller as a fraction of the other, as a table."""
        rows = []
        for name, unit in (("accuracy", "%"), ("operations", "GFLOPs"), ("parameters", "M"), ("milliseconds", "ms")):
            scale = {"accuracy": 100, "operations": 1e-9, "parameters": 1e-6, "milliseconds": 1}[name]
            before, after = self.dense[name] * scale, self.smaller[name] * scale
            rows.append([f"{name}, {unit}", f"{before:.4g}", f"{after:.4g}", f"{after / before:.2f}"])
        return markdown_table(["", "before", "after", "share"], rows)


def shrink(
    config: ShrinkConfig, data_config: DataConfig, model_config: ModelConfig, training: TrainingConfig
) -> Shrunk | None:
    """Shrink the network that `model_config` names to a fraction of its operations, and fine-tune it.

    Leaves in the output folder: `model/`, a transformers checkpoint with its code; `mask.safetensors`, the same
    structure as a mask of the network as it was; `shrunk.json`; and `stages/`. A dry run leaves nothing and returns
    None.

    Raises:
        ModelError: for networks that cannot be shrunk.
        RunError: when the output folder holds something else, or the model of other settings.
        DiltError: for data or settings that do not work.
    """
    accelerator = open_accelerator(training, config.use_cpu)
    device, folder = accelerator.device, Path(config.output_dir)
    check_normalization(model_config, data_config)
    data = open_data(data_config, model_config.num_channels, device, planning=config.dry_run)
    dense = (
        build_model(model_config, data.splits.class_names, data.image_size, config.seed, config.dry_run)
        .to(device)
        .eval()
    )
    shape_of(dense)  # whether it can be shrunk
    stages = Stages(folder / "stages")
    data_config.check_output(config.output_dir)
    stages.check_surroundings([INPUTS_FILE])
    print(
        f"Scoring on {min(config.scoring_examples, len(data.splits.train))} images, then "
        f"{total_steps(len(data.splits.train), training)} steps of fine-tuning.",
        flush=True,
    )
    if config.dry_run:
        return None
    rows = data.sample("train", config.seed, "scoring")[: config.scoring_examples]
    identity = {
        "weights": tensors_sha256(dict(dense.state_dict())),
        "rows": rows.tolist(),
        "batch": training.global_train_batch_size,
        "device": device.type,
    } | of_pixels(data, "train")
    recipe = {
        "target": config.target,
        "training": dataclasses.asdict(training),
        "seed": config.seed,
        "distillation": [config.distillation, config.temperature],
        "augmentation": dataclasses.asdict(data.augmentation),
    }
    claim(folder, MODEL_FOLDER, [identity, recipe, of_pixels(data, "test")])

    def examples() -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(data.batches("train", rows, training.global_train_batch_size))

    chosen = chosen_structure(stages, lambda: dense, examples, config.target, identity, description="structure")
    structure = load_structure(chosen, dense)
    smaller = shrunk(dense, structure)

    def fine_tune(place: Path) -> dict[str, Any]:
        teacher = Teacher(dense, config.distillation, config.temperature) if config.distillation else None
        record = train(
            smaller,
            [Route({}, data.training_feed())],
            training,
            accelerator,
            key=(config.seed, "shrunk"),
            checkpointing=Checkpointing(place / CHECKPOINT_FILE, CHECKPOINT_SECONDS),
            hooks=Hooks(teacher=teacher, description="fine-tuning"),
        )
        save_weights(smaller, place / WEIGHTS_FILE)
        return {"losses": record.losses, "seconds": record.seconds}

    inputs = {"structure": chosen.address} | {name: each for name, each in recipe.items() if name != "target"}
    tuned = stages.get(TUNED, inputs, fine_tune, description="fine-tuning", derived_from=[chosen.address])
    load_weights(smaller, tuned.path / WEIGHTS_FILE)

    def facts(network: nn.Module) -> dict[str, float]:
        found = predict(network, data.feed("test"), training.per_device_eval_batch_size, accelerator)
        size, channels = data.image_size, data.channels
        return {
            "accuracy": float((found == data.splits.test.labels).mean()),
            "operations": float(forward_cost(network, size, channels).total),
            "parameters": float(sum(parameter.numel() for parameter in network.parameters())),
            "milliseconds": latency(network, torch.zeros(1, channels, size, size, device=device)),
        }

    result = Shrunk(
        facts(dense),
        facts(smaller),
        [len(each) for each in structure.heads],
        [len(each) for each in structure.units],
        len(structure.channels),
    )
    if not (folder / MODEL_FOLDER).exists():
        with new_folder(folder / MODEL_FOLDER) as place:
            save_model(smaller, place, data.processor)
    save_masks(structured_mask(dense, structure), folder / MASK_FILE)
    write_atomically(folder / RESULT_FILE, pretty_json(dataclasses.asdict(result)))
    return result


@torch.no_grad()
def latency(network: nn.Module, pixels: torch.Tensor) -> float:
    """Measure a forward pass in milliseconds, the median of several after warming up."""
    times = []
    for number in range(TIMED + 3):
        start = time.perf_counter()
        network(pixels)
        if pixels.is_cuda:
            torch.cuda.synchronize()
        if number >= 3:
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
