"""The package as a whole: quick to import, complete, layered one way."""

import ast
import doctest
import functools
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import dilt_hf

ROOT = Path(dilt_hf.__file__).parent
# A room imports only from rooms on lower floors, and from itself.
FLOORS = {
    "recipes": 12,
    "benchmarks": 12,
    "stages": 12,
    "cli": 11,
    "report": 10,
    "hypotheses": 9,
    "experiments": 8,
    "run": 7,
    "explore": 6,
    "__init__": 6,
    "tickets": 5,
    "training": 4,
    "pruning": 4,
    "analysis": 4,
    "models": 3,
    "data": 3,
    "results": 3,
    "config": 2,
    "masks": 2,
    "engine": 2,
    "utils": 1,
    "_version": 1,
}


@functools.cache
def modules():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py")]
    return sorted(name for name in names if not name.endswith("__init__"))


def test_importing_the_package_loads_no_heavy_library():
    program = (
        "import sys, time; start = time.perf_counter(); import dilt_hf; spent = time.perf_counter() - start; "
        "print(spent, [m for m in ('torch', 'transformers', 'datasets', 'timm', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1)[1].strip() == "[]"


def test_every_public_name_exists():
    for name in dilt_hf.__all__:
        assert getattr(dilt_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dilt_hf.nothing


def test_every_public_name_of_the_analysis_exists():
    from dilt_hf import analysis

    for name in analysis.__all__:
        assert getattr(analysis, name) is not None
    assert dir(analysis) == sorted(analysis.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = analysis.nothing


@functools.cache
def nodes_of(name):
    """The nodes of the syntax tree of a module."""
    return list(ast.walk(ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))))


@functools.cache
def imports_of(name):
    """The modules of this package that one of them imports, wherever in its file."""
    found = set()
    for node in nodes_of(name):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("dilt_hf.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dilt_hf":
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {each if each.removeprefix("dilt_hf.") in modules() else node.module for each in inside}
    return found


def room_of(module):
    return module.split(".")[1] if "." in module else "__init__"


def test_rooms_import_only_from_lower_floors():
    """The public face, which names things of all rooms and loads them when they are used, is exempt as an importer."""
    upwards = []
    for name in modules():
        for target in imports_of(name):
            here, there = room_of(f"dilt_hf.{name}"), room_of(target)
            if here != there and FLOORS[there] >= FLOORS[here]:
                upwards.append(f"{name} imports {target}")
    assert not upwards
    assert {name.split(".")[0] for name in modules()} <= set(FLOORS), "a room without a floor"


def test_no_room_holds_a_circle_of_imports():
    graph = {f"dilt_hf.{n}": imports_of(n) for n in modules()}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_functions_take_few_arguments_and_fewer_without_a_name():
    """Public functions of the analysis, whose options have defaults, are exempt from the first limit."""
    many = []
    for name in modules():
        for each in nodes_of(name):
            if isinstance(each, ast.FunctionDef):
                unnamed = [a.arg for a in (*each.args.posonlyargs, *each.args.args) if a.arg not in ("self", "cls")]
                public = name.startswith("analysis.") and not each.name.startswith("_")
                if len(unnamed) > 5 or (len(unnamed) + len(each.args.kwonlyargs) > 8 and not public):
                    many.append(f"{name}.{each.name}")
    assert not many


# their examples speak of a ticket repository, a Trainer or a browser that is at hand
ILLUSTRATED = {
    "explore.app",
    "explore.networks",
    "explore.images",
    "explore.views",
    "models.safe_loading",
    "tickets.switch",
    "tickets.tickets",
    "training.trainer_callback",
}


def with_examples():
    having = [n for n in modules() if ">>> " in (ROOT / f"{n.replace('.', '/')}.py").read_text(encoding="utf-8")]
    return [name for name in having if name not in ILLUSTRATED]


@pytest.mark.parametrize("name", with_examples())
def test_the_examples_in_the_docstrings_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"dilt_hf.{name}")
    import numpy
    import torch

    globals_ = vars(module) | {"torch": torch, "np": numpy}
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    examples = [test for test in finder.find(module, globs=globals_) if test.examples]
    assert examples
    for test in examples:
        runner.run(test)
    assert runner.failures == 0
