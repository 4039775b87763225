"""List the cached steps of a run: what each cost, what it derives from, and which ones nothing needs any more.

python -m dilt_hf.stages ls RUN             every step: its address, size, time, and what it was computed as
python -m dilt_hf.stages show RUN ADDRESS   one step with all that determines it, and its ancestors
python -m dilt_hf.stages gc RUN [--delete]  steps that no file of the run cites, and interrupted ones
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from dilt_hf.engine.stages import RECORD_FILE, Stages, with_ancestors
from dilt_hf.run.folder import RUN_FILE
from dilt_hf.utils.console import reporting_errors
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.files import pretty_json

CITING = {".json", ".jsonl", ".md", ".html", ".csv", ".txt"}
ADDRESS = re.compile(rb"[a-z][a-z0-9_]*-[0-9a-f]{20}(?![0-9a-f])")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; on an error print one sentence and exit 1."""
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
    with reporting_errors():
        store = _open(options.run)
        if options.command == "ls":
            print(listing(store))
        elif options.command == "show":
            print(description(store, options.address))
        else:
            print(collect(store, options.run, options.delete))


class _Plain(argparse.RawDescriptionHelpFormatter):
    """The docstring above, as it is."""


def _open(run: Path) -> Stages:
    folder = run / "stages"
    if not folder.is_dir():
        raise RunError(f"{run} has no stages; give the --output_dir of a run.")
    return Stages(folder)


def listing(store: Stages) -> str:
    """List all steps as a table, interrupted and running ones after the finished ones, and the totals of each kind."""
    stages = list(store.all())
    rows = [["address", "MB", "seconds", "computed as"]]
    rows += [[s.address, f"{_size(s.folder) / 1e6:.2f}", f"{s.seconds_spent:.1f}", s.description] for s in stages]
    for work in _unfinished(store):
        state = "being computed" if store.locks.is_taken(work.name[1:]) else "interrupted; resumes where it stopped"
        rows.append([work.name[1:], f"{_size(work) / 1e6:.2f}", "", state])
    text = _table(rows)
    kinds = dict.fromkeys(stage.kind for stage in stages)
    for kind in kinds:
        same = [stage for stage in stages if stage.kind == kind]
        size, seconds = sum(_size(s.folder) for s in same) / 1e6, sum(s.seconds_spent for s in same)
        text += f"\n{len(same)} x {kind}: {size:.2f} MB, {seconds:.1f} s"
    return text


def description(store: Stages, address: str) -> str:
    """Describe one step: its record, everything that determines it, and the steps it derives from, nearest first."""
    stages = {stage.address: stage for stage in store.all()}
    found = [name for name in stages if name.startswith(address)]
    if len(found) != 1:
        which = f"{len(found)} steps have addresses" if found else "no step has an address"
        raise RunError(f"{which} beginning with '{address}' in {store.root}; see `python -m dilt_hf.stages ls`.")
    chosen = stages[found[0]]
    content = json.loads((chosen.folder / RECORD_FILE).read_bytes())
    files = [f"{file.name} ({file.stat().st_size:,} bytes)" for file in sorted(chosen.folder.iterdir())]
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
    """List, or remove, what no result needs: steps that no file of the run cites, and remains of interrupted steps.

    Results, evidence, analyses, transfers, reports and whatever else lies in the run's folder cite steps by their
    addresses. A step is needed when one of these files cites it, when a needed step derives from it, or when it derives
    from needed steps alone, as scores and removal orders do.

    Raises:
        RunError: when no file cites any step, or a process is working in the run.
    """
    stages = {stage.address: stage for stage in store.all()}
    cited = cited_addresses(run, store) & stages.keys()
    if not cited:
        raise RunError(f"no file in {run} cites a step yet, so it cannot be said what is needed; finish the run first.")
    if any(store.locks.is_taken(work.name[1:]) for work in _unfinished(store)):
        raise RunError(f"a process is working in {run}, and may need what nothing cites yet; wait until it ends.")
    needed = set(with_ancestors(cited, stages))
    needed |= {name for name, stage in stages.items() if set(stage.derived_from) <= needed and stage.derived_from}
    doomed = [stage.folder for name, stage in stages.items() if name not in needed]
    doomed += _unfinished(store)
    size = sum(map(_size, doomed)) / 1e6
    lines = [f"  {path.name.lstrip('.')}  {stages[path.name].description}" for path in doomed if path.name in stages]
    lines += [f"  {path.name[1:]}  (interrupted)" for path in doomed if path.name not in stages]
    for path in doomed if delete else ():
        shutil.rmtree(path)
    verb = "removed" if delete else "not cited by anything (--delete removes them)"
    return "\n".join([f"{len(doomed)} of {len(stages)} steps, {size:.2f} MB: {verb}", *lines])


def cited_addresses(run: Path, store: Stages) -> set[str]:
    """Return every address of a step that a text file of the run names, except in the records of the store itself.

    The stores of analyses lie in the run's folder too, and their records name steps of this one. A run that an
    experiment keeps inside another's folder is cited by that one's files as well.
    """
    outer = [parent for parent in run.absolute().parents[:2] if (parent / RUN_FILE).is_file()]
    found: set[str] = set()
    for place in [run.absolute(), *outer]:
        for path in place.rglob("*"):
            if path.suffix in CITING and path.is_file() and not path.is_relative_to(store.root.absolute()):
                found |= {match.decode() for match in ADDRESS.findall(path.read_bytes())}
    return found


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
