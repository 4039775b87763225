"""What a run has on disk, what each step cost and what it derives from, and what nothing needs any more.

python -m dilt_hf.stages ls RUN             every step: its address, size, time, and what it was made as
python -m dilt_hf.stages show RUN ADDRESS   one step with all that determines it, and its ancestors
python -m dilt_hf.stages gc RUN [--delete]  steps that no result of the run uses, and interrupted ones
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from dilt_hf.engine.stages import RECORD_FILE, Stages, with_ancestors
from dilt_hf.results.results import RESULTS_FILE
from dilt_hf.utils.errors import DiltError, RunError
from dilt_hf.utils.files import pretty_json


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; on an error one sentence, and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m dilt_hf.stages", description=__doc__, formatter_class=_Plain)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("ls", "show", "gc"):
        command = commands.add_parser(name)
        command.add_argument("run", type=Path, help="the folder of a run")
        if name == "show":
            command.add_argument("address", help="an address, or how it begins")
        if name == "gc":
            command.add_argument("--delete", action="store_true", help="remove them; otherwise they are only listed")
    options = parser.parse_args(arguments)
    try:
        store = _open(options.run)
        if options.command == "ls":
            print(listing(store))
        elif options.command == "show":
            print(description(store, options.address))
        else:
            print(collect(store, options.run, options.delete))
    except (DiltError, OSError) as error:
        sys.exit(f"error: {error}")


class _Plain(argparse.RawDescriptionHelpFormatter):
    """The docstring above, as it is."""


def _open(run: Path) -> Stages:
    folder = run / "stages"
    if not folder.is_dir():
        raise RunError(f"{run} has no stages; give the --output_dir of a run.")
    return Stages(folder)


def listing(store: Stages) -> str:
    """All steps as a table, the interrupted and running ones after the finished ones, and the totals of each kind."""
    stages = list(store.all())
    rows = [["address", "MB", "seconds", "made as"]]
    rows += [[s.address, f"{_size(s.path) / 1e6:.2f}", f"{s.seconds_spent:.1f}", s.description] for s in stages]
    for work in _unfinished(store):
        state = "being made" if store.claims.is_taken(work.name[1:]) else "interrupted; goes on where it stopped"
        rows.append([work.name[1:], f"{_size(work) / 1e6:.2f}", "", state])
    text = _table(rows)
    kinds = dict.fromkeys(stage.kind for stage in stages)
    for kind in kinds:
        same = [stage for stage in stages if stage.kind == kind]
        size, seconds = sum(_size(s.path) for s in same) / 1e6, sum(s.seconds_spent for s in same)
        text += f"\n{len(same)} x {kind}: {size:.2f} MB, {seconds:.1f} s"
    return text


def description(store: Stages, address: str) -> str:
    """One step: its record, all that determines it, and the steps it derives from, nearest first."""
    stages = {stage.address: stage for stage in store.all()}
    found = [name for name in stages if name.startswith(address)]
    if len(found) != 1:
        which = f"{len(found)} steps have addresses" if found else "no step has an address"
        raise RunError(f"{which} beginning with '{address}' in {store.root}; see `python -m dilt_hf.stages ls`.")
    chosen = stages[found[0]]
    content = json.loads((chosen.path / RECORD_FILE).read_bytes())
    files = [f"{file.name} ({file.stat().st_size:,} bytes)" for file in sorted(chosen.path.iterdir())]
    ancestors = [stages[name] for name in with_ancestors([chosen.address], stages) if name != chosen.address]
    return "\n".join(
        [
            f"{chosen.address}: {chosen.description}",
            f"files: {', '.join(files)}",
            pretty_json({key: content[key] for key in ("inputs", "record", "seconds")}).rstrip(),
            f"derives from {len(ancestors)} steps that took {sum(stage.seconds_spent for stage in ancestors):.1f} s:",
            *(f"  {stage.address}  {stage.description}" for stage in ancestors),
        ]
    )


def collect(store: Stages, run: Path, delete: bool) -> str:
    """What no result needs: steps that no network in `results.jsonl` derives from, and what interrupted steps left.

    Scores and removal orders are needed where what they are drawn from is. Steps being made are left alone.
    """
    if not (run / RESULTS_FILE).is_file():
        raise RunError(f"{run} has no {RESULTS_FILE} yet, so it cannot be said what is needed; finish the run first.")
    stages = {stage.address: stage for stage in store.all()}
    entries = [json.loads(line) for line in (run / RESULTS_FILE).read_text(encoding="utf-8").splitlines()]
    needed = set(with_ancestors([entry["stage"] for entry in entries], stages))
    needed |= {name for name, stage in stages.items() if set(stage.derived_from) <= needed and stage.derived_from}
    doomed = [stage.path for name, stage in stages.items() if name not in needed]
    doomed += [work for work in _unfinished(store) if not store.claims.is_taken(work.name[1:])]
    size = sum(map(_size, doomed)) / 1e6
    lines = [f"  {path.name.lstrip('.')}  {stages[path.name].description}" for path in doomed if path.name in stages]
    lines += [f"  {path.name[1:]}  (interrupted)" for path in doomed if path.name not in stages]
    for path in doomed if delete else ():
        shutil.rmtree(path)
    verb = "removed" if delete else "not needed by any result (--delete removes them)"
    return "\n".join([f"{len(doomed)} of {len(stages)} steps, {size:.2f} MB: {verb}", *lines])


def _unfinished(store: Stages) -> list[Path]:
    return sorted(path for path in store.root.glob(".*") if path.is_dir())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numbers = (1, 2)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    main()
