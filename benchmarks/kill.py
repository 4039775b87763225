"""Does a run survive anything? Two workers share one run folder and all phases of a run: search, trained tickets kept,
analysis, verdicts, report, and publishing on a Hub of the loopback. Again and again one of them, drawn at random, is
killed (SIGKILL) at a random moment and started anew, until the kills are used up. Then the run is finished and compared
with one that nobody disturbed, on the disk and on the Hub. After that a run starts on a disk that is too small for it,
which grows in steps (root only: a tmpfs is mounted); it is compared in the same way.

    python benchmarks/kill.py [--kills 50] [--disks 10] [--seed 0]
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import print_table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers.loopback_hub import LoopbackHub

ARGUMENTS = [
    "--dataset_name",
    "digits",
    "--augmentation",
    "shift",
    "--image_size",
    "32",
    "--architecture",
    "resnet-micro",
    "--max_train_samples",
    "600",
    "--num_train_epochs",
    "12",
    "--global_train_batch_size",
    "32",
    "--learning_rate",
    "0.05",
    "--target_sparsity",
    "0.9",
    "--pruning_fraction",
    "0.4",
    "--seeds",
    "0",
    "1",
    "--matched_density",
    "0.2",
    "--checkpointing_minutes",
    "0.003",
    "--use_cpu",
    "true",
    "--tickets",
    "core",
    "union",
    "--materialise",
    "core",
    "union",
]


def work(folder, publishes):
    """One worker: the recipe's own job, in a process of its own. Every stage that it finishes is noted."""
    import torch

    from dilt_hf.cli.parsing import parse_config
    from dilt_hf.config.data import DataConfig
    from dilt_hf.config.experiments import AnalyzeConfig
    from dilt_hf.engine.stages import Stages
    from dilt_hf.experiments.analysis_sources import SAME_DATA
    from dilt_hf.experiments.analyze import analyze
    from dilt_hf.experiments.find import find_tickets
    from dilt_hf.hypotheses import programme
    from dilt_hf.hypotheses.verdict_files import judge_folder
    from dilt_hf.report.page import write_report
    from dilt_hf.tickets.tickets import Tickets

    torch.set_num_threads(1)
    make = Stages._make

    def noted(self, path, *arguments):
        content = make(self, path, *arguments)
        log = os.open(folder.parent.with_suffix(".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{path.name}\n".encode())
        os.close(log)
        return content

    Stages._make = noted
    config = parse_config([*ARGUMENTS, "--output_dir", str(folder)], {})
    results = find_tickets(config, progress=False)
    programme.keep_comparison(config, results)
    layers = AnalyzeConfig(sources=[str(folder)], layers=["weights"], num_probes=48, tier="fast", use_cpu=True)
    programme.keep_layers(config, analyze(layers, DataConfig(dataset_name=SAME_DATA), progress=False))
    judge_folder(folder)
    write_report(folder)
    if publishes:  # two at once would be two authors
        for seed in config.run.seeds:
            Tickets.from_pretrained(folder / f"tickets/seed_{seed}").push_to_hub(f"me/{folder.parent.name}-{seed}")


def start(folder, publishes=True):
    """A worker, forked from this process, which has everything imported and nothing begun."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        quiet = os.open(folder.parent.with_suffix(".out"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        work(folder, publishes)
        status = 0
    except BaseException as error:
        os.write(2, f"worker failed: {error!r}\n".encode())
    finally:
        os._exit(status)


def disturbed(folder, kills, rng):
    """The run with its kills; returns how long it took and how often the disturbed work had been finished already."""
    begin = time.monotonic()
    workers, done, killed, idle = [start(folder), start(folder, False)], 0, 0, 0
    while killed < kills:
        time.sleep(rng.uniform(0.5, 8.0))
        index = rng.randrange(2)
        finished, status = os.waitpid(workers[index], os.WNOHANG)
        if finished:
            if status:
                sys.exit(folder.parent.with_suffix(".out").read_text()[-3000:])
            idle += 1  # nothing was left to disturb
        else:
            os.kill(workers[index], signal.SIGKILL)
            os.waitpid(workers[index], 0)
        killed += 1
        done = len(list((folder / "stages").glob("[a-z]*-*")))
        print(f"\rkill {killed}: {done} stages done", end="", flush=True)
        workers[index] = start(folder, index == 0)
    for worker in workers:
        _, status = os.waitpid(worker, 0)
        if status:
            sys.exit(folder.parent.with_suffix(".out").read_text()[-3000:])
    print()
    return time.monotonic() - begin, idle


def on_small_disks(folder, whole, count):
    """The run on disks of `count` sizes below that of a whole run, one after another; returns how often it was full."""
    place, full = folder.parent, 0
    step = sum(-(-path.stat().st_size // 4096) * 4096 for path in whole.rglob("*") if path.is_file()) // (count + 1)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={step}", "tmpfs", str(place)], check=True)
    for number in range(1, count + 1):
        subprocess.run(["mount", "-o", f"remount,size={number * step}", str(place)], check=True)
        failed = os.waitpid(start(folder), 0)[1] != 0
        full += failed
        stray = list(folder.rglob("*.partial"))
        if stray or (failed and "No space left on device" not in said(place).splitlines()[-1]):
            sys.exit(f"on {number * step} bytes: {stray} {said(place)[-3000:]}")
    subprocess.run(["mount", "-o", f"remount,size={4 * count * step}", str(place)], check=True)
    if os.waitpid(start(folder), 0)[1]:
        sys.exit(said(place)[-3000:])
    return full


def said(place):
    return place.with_suffix(".out").read_text()


def differences(hub, root, name):
    """What distinguishes a run and what it published from the undisturbed one, as rows of a table, and whether any."""
    one, other = content(root / "calm/digits"), content(root / name / "digits")
    differing = [file for file in one.keys() | other.keys() if one.get(file) != other.get(file)]
    stray = [file for file in other if ".partial" in file or ("/." in f"/{file}" and not file.endswith("/.locks"))]
    published = [[hub.files(f"me/{each}-{seed}") for seed in (0, 1)] for each in ("calm", name)]
    apart = [
        file
        for calm_files, files in zip(*published, strict=True)
        for file in calm_files.keys() | files.keys()
        if file.endswith(".safetensors") and calm_files.get(file) != files.get(file)
    ]
    log = (root / name).with_suffix(".log").read_text().split()
    twice = len(log) - len(set(log))
    rows = [
        ["files compared (wall times left out)", str(len(one))],
        ["files that differ", f"{len(differing)} {differing[:3] or ''}"],
        ["finished stages made twice", str(twice)],
        ["stray files", f"{len(stray)} {stray[:3] or ''}"],
        ["published weights and masks that differ", f"{len(apart)} {apart[:3] or ''}"],
    ]
    return rows, bool(differing or stray or twice or apart or not published[0][0])


def content(folder):
    """Every file by its name, without wall times and without where the run was."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        raw = path.read_bytes()
        if path.name == "SHA256SUMS":
            raw = [line.split("  ")[1] for line in raw.decode().splitlines()]  # sums of files with times in them
        elif path.suffix in (".html", ".png", ".svg", ".md"):
            raw = None  # drawn from the rest, with times in them
        elif path.suffix in (".json", ".jsonl"):
            raw = [timeless(json.loads(line)) for line in (raw.splitlines() if path.suffix == ".jsonl" else [raw])]
        files[str(path.relative_to(folder))] = raw
    return files


def timeless(value):
    if isinstance(value, dict):
        # a shared step is described as what came to it first; its own sum is of all that
        skipped = ("seconds", "output_dir", "description") + (("sha256",) if "derived_from" in value else ())
        return {key: timeless(part) for key, part in value.items() if key not in skipped}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--disks", type=int, default=10 if os.geteuid() == 0 else 0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    hub = LoopbackHub().__enter__()
    os.environ |= hub.environment | {"HF_HOME": str(root / "hf")}  # which the client reads when it is imported
    import dilt_hf.experiments.find  # noqa: F401 (imported before forking, so that workers start in no time)

    for name in ("calm", "hard", "full"):
        (root / name).mkdir()
    begin = time.monotonic()
    reference = start(root / "calm/digits")
    if os.waitpid(reference, 0)[1]:
        sys.exit(said(root / "calm")[-3000:])
    calm, wrong = time.monotonic() - begin, False
    print(f"undisturbed: {calm:.0f} s")
    if options.kills:
        taken, idle = disturbed(root / "hard/digits", options.kills, random.Random(options.seed))
        rows, wrong = differences(hub, root, "hard")
        print_table(
            f"{options.kills} SIGKILLs over two workers in one folder (seed {options.seed}); undisturbed {calm:.0f} s, "
            f"disturbed {taken:.0f} s",
            [["kills that hit nobody, because a worker had finished", str(idle)], *rows],
        )
    if options.disks:
        try:
            full = on_small_disks(root / "full/digits", root / "calm/digits", options.disks)
            rows, differs = differences(hub, root, "full")
        finally:
            subprocess.run(["umount", "-l", str(root / "full")], check=True)
        print_table(f"A disk that was full at {full} of {options.disks} sizes", rows)
        wrong |= differs
    shutil.rmtree(root)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
