"""The package as a whole: quick to import, complete, layered one way."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import dilt_hf

ROOT = Path(dilt_hf.__file__).parent
# A file imports only from files further left.
LAYERS = [
    "lazy",
    "errors",
    "threads",
    "files",
    "tables",
    "seeding",
    "options",
    "pruning_config",
    "config",
    "presets",
    "masks",
    "selection",
    "overlap",
    "packed",
    "mask_files",
    "bitwise",
    "images",
    "augmentation",
    "splits",
    "data",
    "feeds",
    "partitions",
    "architectures",
    "weights",
    "models",
    "loading",
    "accounting",
    "metrics",
    "masking",
    "optimizers",
    "checkpoints",
    "shared_batchnorm",
    "objectives",
    "loop",
    "training",
    "inference",
    "pruning.distributions",
    "pruning.imp",
    "pruning.early_bird",
    "pruning.colt",
    "pruning.gradients",
    "pruning.snip",
    "pruning.grasp",
    "pruning.rigl",
    "pruning.gradual",
    "pruning.surgeon",
    "pruning.cap",
    "pruning.merging",
    "pruning.savit",
    "pruning.rtl",
    "routing",
    "claims",
    "teams",
    "stages.store",
    "schedule",
    "progress",
    "tracking",
    "hub",
    "repository",
    "trained",
    "results",
    "verdicts",
    "hypotheses",
    "shrinking",
    "comparison",
    "cards",
    "tickets",
    "switching",
    "opening",
    "workbench",
    "consensus",
    "methods",
    "figures",
    "analysis.assignment",
    "analysis.swaps",
    "analysis.spaces",
    "analysis.gromov",
    "analysis.gpu",
    "analysis.pot",
    "analysis.network",
    "analysis.matrix",
    "analysis.joint",
    "analysis.layers",
    "analysis.representations",
    "analysis.probes",
    "analysis.similarity",
    "analysis.modules",
    "analysis.link",
    "analysis.profile",
    "analysis.findings",
    "analysis.summary",
    "analysis.figures",
    "experiments.settings",
    "experiments.folder",
    "experiments.networks",
    "experiments.plan",
    "experiments.search",
    "experiments.find",
    "experiments.specialise",
    "experiments.transfer",
    "experiments.apply",
    "experiments.sources",
    "experiments.analyze",
    "experiments.route_training",
    "experiments.routed",
    "experiments.route_figure",
    "experiments.route",
    "experiments.shrink",
    "experiments.evidence",
    "experiments.planted",
    "experiments.judgement",
    "experiments.programme",
    "callbacks",
    "stages.__main__",
    "report.content",
    "report.drawings",
    "report.page",
    "cli",
    "explore.views",
    "explore.pictures",
    "explore.networks",
    "explore.chart",
    "explore.markup",
    "explore.app",
    "explore.__main__",
]


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


def test_files_import_only_from_layers_to_their_left():
    assert sorted(LAYERS) == modules()
    for position, name in enumerate(LAYERS):
        tree = ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dilt_hf"):
                module = node.module.removeprefix("dilt_hf").removeprefix(".")
                targets = [module] if module else [alias.name for alias in node.names]
                for target in targets:
                    if target in LAYERS:
                        assert LAYERS.index(target) < position, f"{name} imports {target}"


@pytest.mark.parametrize(
    "name",
    [
        "masks",
        "selection",
        "overlap",
        "packed",
        "mask_files",
        "bitwise",
        "masking",
        "augmentation",
        "data",
        "tables",
        "pruning.imp",
        "pruning.colt",
        "pruning.early_bird",
        "pruning.distributions",
        "pruning.rigl",
        "pruning.gradual",
        "pruning.surgeon",
        "pruning.cap",
        "pruning.merging",
        "pruning.rtl",
        "routing",
        "accounting",
        "threads",
        "pruning_config",
        "results",
        "verdicts",
        "partitions",
        "teams",
        "models",
        "splits",
        "claims",
        "stages.store",
        "progress",
        "hub",
        "trained",
        "files",
        "analysis.assignment",
        "analysis.swaps",
        "analysis.spaces",
        "analysis.gromov",
        "analysis.network",
        "analysis.matrix",
        "analysis.layers",
        "analysis.representations",
        "analysis.similarity",
        "experiments.evidence",
        "experiments.specialise",
        "analysis.modules",
        "analysis.link",
        "analysis.profile",
        "analysis.figures",
        "lazy",
        "experiments.judgement",
        "experiments.planted",
    ],
)
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
