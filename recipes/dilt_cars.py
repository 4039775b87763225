"""Stanford Cars, fine-grained: a ResNet-50, classes 1-98 against 99-196, 90 % sparsity."""

from dilt_hf.cli import run_recipe

if __name__ == "__main__":
    run_recipe(
        __doc__,
        dataset_name="tanganke/stanford_cars",
        image_size=224,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        augmentation="resized_crop_flip",
        architecture="resnet50",
        partition_by="range",
        pruning_fraction=0.2,
        target_sparsity=0.9,
        num_train_epochs=60,
        train_batch_size=64,
        learning_rate=0.05,
        lr_scheduler_type="cosine",
        warmup_fraction=0.05,
        label_smoothing=0.1,
        matched_density=[0.2],
        seeds=[0, 1, 2],
        output_dir="runs/cars",
    )
