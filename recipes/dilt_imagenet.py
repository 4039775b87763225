"""ImageNet-1k, classes 1-500 against 501-1000, compared at 50, 70 and 90 % sparsity: a ResNet-50, or a DeiT-S with
--architecture deit-small.

    accelerate launch recipes/dilt_imagenet.py --dry_run true                  # what it would cost on this machine
    accelerate launch recipes/dilt_imagenet.py                                 # strict θ0
    accelerate launch recipes/dilt_imagenet.py --rewind_step 7500 --output_dir runs/imagenet_rewound    # shared θ_k

At this scale strict θ0 is known to be no better than a random re-initialisation, and θ_k after six epochs (7 500 steps)
is (Frankle et al. 2020, arXiv 1912.05671). Pictures come from the Hub, or from --train_dir and --validation_dir.
"""

from dilt_hf.cli import run_recipe
from dilt_hf.presets import DEIT, DEIT_NAMES

if __name__ == "__main__":
    # Goyal et al. (2017, arXiv 1706.02677), section 5.1, at a batch of 1024, as Renda et al. (2020, arXiv 2003.02389)
    # prune it, with label smoothing.
    run_recipe(
        __doc__,
        variants=dict.fromkeys(DEIT_NAMES, DEIT),
        dataset_name="ILSVRC/imagenet-1k",
        image_size=224,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        augmentation="resized_crop_flip",
        max_resident_gb=0.0,
        dataloader_num_workers=16,
        architecture="resnet50",
        partition_by="range",
        pruning_fraction=0.2,
        target_sparsity=0.9,
        num_train_epochs=90,
        train_batch_size=1024,
        learning_rate=0.4,
        weight_decay=1e-4,
        lr_scheduler_type="multistep",
        warmup_fraction=5 / 90,
        milestones=[30 / 90, 60 / 90, 80 / 90],
        label_smoothing=0.1,
        mixed_precision="bf16",
        matched_density=[0.5, 0.3, 0.1],
        seeds=[0],
        output_dir="runs/imagenet",
    )
