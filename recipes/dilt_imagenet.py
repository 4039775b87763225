"""ImageNet-1k, classes 1-500 against 501-1000, compared at 50, 70 and 90 % sparsity: a ResNet-50, or a DeiT-S with
--architecture deit-small.

    accelerate launch recipes/dilt_imagenet.py --dry_run true                  # what it would cost on this machine
    accelerate launch recipes/dilt_imagenet.py                                 # strict θ0
    accelerate launch recipes/dilt_imagenet.py --rewind_step 7500 --output_dir runs/imagenet_rewound    # shared θ_k

At this scale strict θ0 is known to be no better than a random re-initialisation, and θ_k after six epochs (7 500 steps)
is (Frankle et al. 2020, arXiv 1912.05671). Images come from the Hub, or from --train_dir and --validation_dir.
"""

from dilt_hf.cli.commands import run_recipe
from dilt_hf.config.presets import PRESETS, VARIANTS

if __name__ == "__main__":
    own = {"target_ticket": "partition", "seeds": [0], "output_dir": "runs/imagenet"}
    run_recipe(__doc__, variants=VARIANTS["imagenet"], **{**PRESETS["imagenet"], **own})
