"""Find core, specialist and union tickets in any image-classification set and network.

    accelerate launch recipes/find_tickets.py --train_dir pictures/train --test_dir pictures/test \\
        --architecture resnet18 --pruning_fraction 0.2 --target_sparsity 0.9 --output_dir runs/pictures
"""

from dilt_hf.cli.commands import run_recipe

if __name__ == "__main__":
    run_recipe("Find core, specialist and union tickets in any image-classification set and network.")
