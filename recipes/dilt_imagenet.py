"""ImageNet-1k, classes 1-500 against 501-1000, 90 % sparsity: ResNet-50, or DeiT-S with --architecture deit-small."""

from dilt_hf.cli import run_recipe

# Touvron et al. (2021, arXiv 2012.12877), table 9, as far as this package's augmentation goes.
DEIT = {
    "optimizer": "AdamW",
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "decay_norm_and_bias": False,
    "num_train_epochs": 300,
    "train_batch_size": 1024,
    "lr_scheduler_type": "cosine",
    "warmup_fraction": 5 / 300,
    "max_grad_norm": 1.0,
    "channels_last": False,
}

if __name__ == "__main__":
    run_recipe(
        __doc__,
        variants={"deit-small": DEIT, "deit-tiny": DEIT, "vit-small": DEIT, "vit-tiny": DEIT},
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
        train_batch_size=256,
        learning_rate=0.1,
        weight_decay=1e-4,
        lr_scheduler_type="multistep",
        milestones=[30 / 90, 60 / 90, 80 / 90],
        label_smoothing=0.1,
        mixed_precision="bf16",
        matched_density=0.2,
        seeds=[0],
        output_dir="runs/imagenet",
    )
