"""CIFAR-100: a ResNet-18 with the CIFAR stem, classes 0-49 against 50-99, 90 % sparsity."""

from dilt_hf.cli.commands import run_recipe

if __name__ == "__main__":
    run_recipe(
        __doc__,
        dataset_name="uoft-cs/cifar100",
        label_column_name="fine_label",
        image_size=32,
        image_mean=[0.507, 0.487, 0.441],
        image_std=[0.267, 0.256, 0.276],
        architecture="resnet18-cifar",
        partition_by="range",
        pruning_fraction=0.2,
        target_sparsity=0.9,
        num_train_epochs=50,
        learning_rate=0.1,
        lr_scheduler_type="multistep",
        lr_scheduler_kwargs={"milestones": [0.4, 0.6, 0.9], "gamma": 0.2},
        matched_density=[0.2],
        seeds=[0, 1, 2],
        output_dir="runs/cifar100",
    )
