"""The demo: scikit-learn's digits, a micro ResNet, digits 0-4 against 5-9, three seeds, and the analysis of the
layers; a few minutes on two cores."""

from dilt_hf.cli import run_recipe

if __name__ == "__main__":
    run_recipe(
        __doc__,
        dataset_name="digits",
        image_size=32,
        augmentation="shift",
        architecture="resnet-micro",
        num_partitions=2,
        partition_by="range",
        pruning_fraction=0.4,
        target_sparsity=0.95,
        num_train_epochs=5,
        train_batch_size=64,
        learning_rate=0.1,
        lr_scheduler_type="one_cycle",
        matched_density=[0.1],
        materialise=["core"],
        seeds=[0, 1, 2],
        output_dir="runs/digits",
        analysis={"layers": ["weights"], "num_probes": 256},
    )
