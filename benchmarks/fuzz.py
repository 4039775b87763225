"""Opens ticket repositories with one file changed at random, again and again; prints what happened.

    python benchmarks/fuzz.py [--files 200000] [--seed 0] [--processes 2]

Anything but an error of this package, a file outside the folder, or more memory than three times the file and 200 MB is
a failure: it is printed with the number that makes it again, and the exit status is 1. A repository is opened whole: as
tickets, as a model, as its trained tickets, dense and sparse, and as a card.
"""

import argparse
import collections
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from timing import print_table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def work(number, seed, files, results):
    import torch
    from helpers.hostile import forge, mutated, open_everything, rng_of
    from helpers.tickets import make_tickets
    from test_hostile import FILES

    from dilt_hf.tickets.tickets import Tickets

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        honest = Path(scratch, "honest", "tickets")
        honest.parent.mkdir()
        made = Path(scratch, "made")
        made.mkdir()
        make_tickets(made, "conv3", 8).save_pretrained(honest)
        tickets = Tickets.from_pretrained(honest)
        tickets.materialise("core")
        tickets.materialise("union", sparse=True)
        assert open_everything(honest) == []
        folder = Path(shutil.copytree(honest, Path(scratch, "forged", "tickets")))
        names = sorted(folder.parent.rglob("*"))
        resting = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts = collections.Counter()
        for index in range(files):
            rng = rng_of(f"{seed}-{number}-{index}")
            name = rng.choice(FILES)
            content = mutated(name, (honest / name).read_bytes(), rng)
            forge(folder, name, content)
            try:
                errors = open_everything(folder, name)
                counts["refused" if errors else "opened"] += 1
            except BaseException:
                counts["failed"] += 1
                print(f"{seed}-{number}-{index} {name}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            shutil.copyfile(honest / name, folder / name)
            shutil.copyfile(honest / "dilt_config.json", folder / "dilt_config.json")
            if sorted(folder.parent.rglob("*")) != names:
                counts["files left"] += 1
                print(f"{seed}-{number}-{index} {name} left files", file=sys.stderr, flush=True)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resting) / 1024
    results.put((counts, grown))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results, start = context.Queue(), time.perf_counter()
    each = -(-given.files // given.processes)
    workers = [context.Process(target=work, args=(k, given.seed, each, results)) for k in range(given.processes)]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    total = sum((counts for counts, _ in found), collections.Counter())
    rows = [["", "files"], *([kind, f"{total[kind]:,}"] for kind in ("refused", "opened", "failed", "files left"))]
    rows += [["most memory over the resting process, MB", f"{max(grown for _, grown in found):.0f}"]]
    rows += [["seconds", f"{time.perf_counter() - start:.0f}"]]
    print_table(f"{each * given.processes:,} changed files", rows)
    sys.exit(bool(total["failed"] or total["files left"]))


if __name__ == "__main__":
    main()
