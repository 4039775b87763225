"""Opens what somebody has tampered with, again and again; prints what happened.

    python benchmarks/fuzz.py [--parts repositories runs settings] [--files 200000] [--seed 0] [--processes 2]

repositories: ticket repositories with one file changed, opened whole: as tickets, as a model, as trained tickets, dense
    and sparse, as a card, and their image processor.
runs: folders of runs with one record, result, analysis or piece of evidence changed, as of this version (with
    checksums) and of earlier ones (without): judged, reported, listed.
settings: files and dataclasses of settings of any content.

Anything but an error of this package, a file outside the folder, or more memory than three times the file and 200 MB is
a failure: it is printed with the number that makes it again, and the exit status is 1.
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


def repositories(number, seed, files, results):
    import torch
    from helpers.hostile import FILES, forge, mutated, open_everything, rng_of
    from helpers.tickets import make_tickets

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


def runs(number, seed, files, results):
    import logging

    from helpers.hostile import mutate_bytes, mutated, rng_of
    from helpers.run_folder import make_run
    from helpers.small import quick_run

    from dilt_hf.cli.stages import collect, listing
    from dilt_hf.engine import stages
    from dilt_hf.engine.stages import Stages
    from dilt_hf.hypotheses.verdict_files import judge_folder
    from dilt_hf.report.content import gather
    from dilt_hf.run.folder import load_results, stored_config
    from dilt_hf.utils.errors import DiltError

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "run")
        make_run(folder, quick_run(folder))
        names = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".locks")
        content = {path: path.read_bytes() for path in names}
        changeable = [path for path in names if path.suffix != ".svg"]
        actions = (
            gather,
            judge_folder,
            load_results,
            stored_config,
            lambda folder: listing(Stages(folder / "stages")),
            lambda folder: collect(Stages(folder / "stages"), folder, False),
        )
        for action in actions:
            action(folder)  # the honest folder is refused by none
        resting = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts = collections.Counter()
        for index in range(files):
            rng = rng_of(f"{seed}-{number}-{index}")
            path = rng.choice(changeable)
            is_json = path.suffix == ".json"
            path.write_bytes(mutated(path.name, content[path], rng) if is_json else mutate_bytes(content[path], rng))
            if rng.random() < 0.5:
                for sums in folder.rglob("SHA256SUMS"):
                    sums.unlink()
            stages._checked.clear()
            refused = 0
            for action in actions:
                try:
                    action(folder)
                except (DiltError, OSError):
                    refused += 1
                except BaseException:
                    counts["failed"] += 1
                    where = path.relative_to(folder)
                    print(
                        f"runs {seed}-{number}-{index} {where}:\n{traceback.format_exc()}", file=sys.stderr, flush=True
                    )
            counts["refused" if refused else "opened"] += 1
            for stray in set(folder.rglob("*")) - set(names):
                if stray.is_file() and stray.name != ".locks":
                    stray.unlink()
            for other in (path, *(each for each in names if each.name.startswith(("SHA256SUMS", "verdicts")))):
                other.write_bytes(content[other])
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resting) / 1024
    results.put((counts, grown))


def settings(number, seed, files, results):
    import contextlib
    import dataclasses
    import io
    import json

    from helpers.hostile import VALUES, dumps, mutate_bytes, rng_of

    from dilt_hf.cli.parsing import SECTIONS, parse_config
    from dilt_hf.config.experiments import AnalyzeConfig, ApplyConfig, RouteConfig, ShrinkConfig, SourceConfig
    from dilt_hf.utils.errors import DiltError

    kinds = [*SECTIONS.values(), AnalyzeConfig, ApplyConfig, RouteConfig, ShrinkConfig, SourceConfig]
    options = [field.name for kind in SECTIONS.values() for field in dataclasses.fields(kind)]
    defaults = {"dataset_name": "digits", "architecture": "conv3", "num_rounds": 2, "pruning_fraction": 0.5}
    with tempfile.TemporaryDirectory() as scratch:
        resting = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts = collections.Counter()
        for index in range(files):
            rng = rng_of(f"{seed}-{number}-{index}")
            chosen = {rng.choice(options): rng.choice(VALUES) for _ in range(rng.choice([1, 1, 2, 4]))}
            content = dumps(chosen, rng)
            path = Path(scratch, rng.choice(["a.json", "a.yaml"]))
            path.write_bytes(content if rng.random() < 0.7 else mutate_bytes(content, rng))
            kind = rng.choice(kinds)
            given = {field.name: rng.choice(VALUES) for field in dataclasses.fields(kind) if rng.random() < 0.2}
            for action, words in ((parse_config, {"arguments": [str(path)], "defaults": defaults}), (kind, given)):
                try:
                    with contextlib.redirect_stderr(io.StringIO()):
                        action(**words)
                    counts["opened"] += 1
                except (DiltError, OSError):
                    counts["refused"] += 1
                except SystemExit as stop:  # argparse has said what is wrong
                    counts["refused" if stop.code == 2 else "failed"] += 1
                except BaseException:
                    counts["failed"] += 1
                    shown = f"{path.read_bytes()[:300]!r} {kind.__name__} {json.dumps(given, default=repr)[:300]}"
                    print(f"settings {seed}-{number}-{index} {shown}:\n{traceback.format_exc()}", file=sys.stderr)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resting) / 1024
    results.put((counts, grown))


PARTS = {"repositories": repositories, "runs": runs, "settings": settings}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    context, failed = multiprocessing.get_context("spawn"), 0
    for part in given.parts:
        results, start = context.Queue(), time.perf_counter()
        each = -(-given.files // given.processes)
        arguments = [(k, given.seed, each, results) for k in range(given.processes)]
        workers = [context.Process(target=PARTS[part], args=each) for each in arguments]
        for worker in workers:
            worker.start()
        found = [results.get() for _ in workers]
        for worker in workers:
            worker.join()
        total = sum((counts for counts, _ in found), collections.Counter())
        kinds = ("refused", "opened", "failed", "files left")
        rows = [["", "files"], *([kind, f"{total[kind]:,}"] for kind in kinds)]
        rows += [["most memory over the resting process, MB", f"{max(grown for _, grown in found):.0f}"]]
        rows += [["seconds", f"{time.perf_counter() - start:.0f}"]]
        print_table(f"{each * given.processes:,} changed {part}", rows)
        failed += total["failed"] + total["files left"]
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
