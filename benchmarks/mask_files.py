"""N masks of a ResNet-50 on disk: bits per prunable weight, and the time to pack, save, load and unpack them.

python benchmarks/mask_files.py [--partitions 2] [--rounds 7]
"""

import argparse
import tempfile
from pathlib import Path

import torch
from timing import alternate, print_table

from dilt_hf.config.model import ModelConfig
from dilt_hf.masks.algebra import count_total
from dilt_hf.masks.io import load_masks, save_masks
from dilt_hf.models.factory import build_model
from dilt_hf.models.weights import prunable_parameters


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    model = build_model(ModelConfig(architecture="resnet50"), [str(c) for c in range(1000)], 224, 0)
    weights = prunable_parameters(model)
    masks = [{n: torch.rand(w.shape) < 0.1 for n, w in weights.items()} for _ in range(options.partitions)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"partition_{k}.safetensors") for k in range(options.partitions)]

        def ours():
            for mask, path in zip(masks, paths, strict=True):
                save_masks(mask, path)
            for path in paths:
                load_masks(path)

        def torch_save():
            for mask, path in zip(masks, paths, strict=True):
                torch.save(mask, path.with_suffix(".pt"))
            for path in paths:
                torch.load(path.with_suffix(".pt"))

        medians = alternate({"ours": ours, "torch.save": torch_save}, options.rounds)
        sizes = {
            name: sum(p.with_suffix(s).stat().st_size for p in paths)
            for name, s in (("ours", ".safetensors"), ("torch.save", ".pt"))
        }
    total = count_total(masks[0])
    rows = [["form", "MB", "bits per prunable weight and partition", "write + read s"]]
    for name in ("ours", "torch.save"):
        bits = 8 * sizes[name] / total / options.partitions
        rows.append([name, f"{sizes[name] / 1e6:.2f}", f"{bits:.4f}", f"{medians[name]:.3f}"])
    print_table(
        f"{options.partitions} masks of ResNet-50 ({total:,} prunable weights), median of {options.rounds}", rows
    )


if __name__ == "__main__":
    main()
