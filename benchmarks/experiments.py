"""The four experiments on real data, in pieces: it stops after --minutes, and the same command goes on from there.

    python benchmarks/experiments.py --data DATA                       # everything; a GPU is used where there is one
    python benchmarks/experiments.py --data DATA --runs tiny --minutes 9.5
    python benchmarks/experiments.py --data DATA --slice 0.01          # does it all work? few, small images, one seed
    python benchmarks/experiments.py --runs digits-vit --processes 12 --cuda_graphs true --seeds 0 1 2 3 4

Each of --processes trains networks of its own, all on one GPU or a core each. Options that are not this script's go to
the recipes.

DATA holds Parquet files: tiny_imagenet_32_c100/{train,validation}.parquet and stanford_cars_112/{train,test}.parquet.
What has been found is in OUT/<run>/report.html and verdicts.md. Exit status 3: there is more to do.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
EXPERIMENTS = ("exp1_benchmark", "exp2_disentanglement", "exp3_specialisation", "exp4_transfer")
MORE_TO_DO = 3
RUNS = {
    "digits": ("digits", None, "", []),
    "digits-vit": ("digits", None, "", ["--architecture", "vit-micro", "--matched_density", "0.1"]),
    "tiny": ("tiny", "tiny_imagenet_32_c100", "validation", []),
    "tiny-deit": ("tiny", "tiny_imagenet_32_c100", "validation", ["--architecture", "deit-tiny"]),
    "cars": ("cars", "stanford_cars_112", "test", ["--image_size", "112"]),
}
FULL = {None: (1_437, 360), "tiny_imagenet_32_c100": (50_000, 5_000), "stanford_cars_112": (6_598, 1_546)}  # images
LEAST = {None: 200, "tiny_imagenet_32_c100": 400, "stanford_cars_112": 800}  # siblings need two images of every class
QUICK = [
    "--image_size",
    "32",
    "--num_train_epochs",
    "1",
    "--global_train_batch_size",
    "64",
    "--pruning_fraction",
    "0.8",
    "--update_every",
    "1",
    "--fisher_examples",
    "32",
    "--gate_examples",
    "32",
    "--mixed_precision",
    "no",
    "--seeds",
    "0",
    "--matched_density",
    "0.1",
]
TRANSFER_DENSITIES = {"digits-vit": ["--densities", "0.1"]}
QUICK_TRANSFER = ["--densities", "0.1", "--source_rewind_steps", "0", "1"]


def options(run, experiment, arguments):
    """What a recipe is told for one of the runs."""
    preset, folder, held_out, more = RUNS[run]
    command = ["--preset", preset, "--output_dir", str(arguments.out / run), "--checkpointing_minutes", "1", *more]
    if arguments.processes > 1:
        command += ["--processes_per_network", "1"]
    if experiment == "exp4_transfer":
        command += TRANSFER_DENSITIES.get(run, [])
    if folder is not None:
        found = [sorted((arguments.data / folder).glob(f"{split}*.parquet")) for split in ("train", held_out)]
        if not all(found):
            sys.exit(
                f"error: {arguments.data / folder} lacks train or {held_out} Parquet files; "
                "name their place with --data."
            )
        command += ["--train_files", *map(str, found[0]), f"--{held_out}_files", *map(str, found[1])]
    if arguments.slice < 1:
        train, test = (max(LEAST[folder], round(arguments.slice * images)) for images in FULL[folder])
        command += [*QUICK, "--max_train_samples", str(train), "--max_eval_samples", str(test)]
        command += QUICK_TRANSFER if experiment == "exp4_transfer" else []
    return command


def launcher(processes):
    """What starts a recipe: Python itself, or Accelerate with several processes that share what there is."""
    if processes == 1:
        return [sys.executable], {}
    import torch

    own = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(processes), "--main_process_port", "0"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *own, "--mixed_precision", "no"]
    on_cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return [*launch, "--dynamo_backend", "no"], on_cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("DILT_DATA"), help="by default $DILT_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--experiments", nargs="+", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after N minutes")
    parser.add_argument(
        "--slice", type=float, default=1.0, help="fraction of the images, at 32 px; one epoch, one seed"
    )
    parser.add_argument("--processes", type=int, default=1, help="that share the work of each experiment")
    arguments, rest = parser.parse_known_args()
    if not (0 < arguments.slice <= 1 and arguments.minutes > 0):
        parser.error("--slice lies above 0 and is 1 at most, and --minutes is positive.")
    if arguments.data is None and any(RUNS[run][1] for run in arguments.runs):
        print(f"{Path(__file__).name}: no --data and no DILT_DATA, nothing run.")
        sys.exit(0)
    arguments.data = arguments.data and Path(arguments.data)
    start, more = launcher(arguments.processes)
    deadline = time.monotonic() + 60 * arguments.minutes
    for run in arguments.runs:
        for experiment in arguments.experiments:
            print(f"--- {run}: {experiment}", flush=True)
            command = [*start, str(RECIPES / f"{experiment}.py"), *options(run, experiment, arguments), *rest]
            process = subprocess.Popen(command, env=os.environ | more)
            try:
                left = deadline - time.monotonic()
                status = process.wait(None if left == float("inf") else max(0, left))
            except subprocess.TimeoutExpired:
                process.terminate()  # SIGINT would not reach what was started in the background
                process.wait()
                print("Time is up; the same command goes on.")
                sys.exit(MORE_TO_DO)
            if status:
                sys.exit(status)


if __name__ == "__main__":
    main()
