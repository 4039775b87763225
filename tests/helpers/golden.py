"""Numbers that every kind of cached step computes in one small programme, against those that were recorded.

`make golden` records the numbers of kinds whose version was raised, and the code of all kinds. A kind whose numbers
changed under the same version is refused: raise its version first (`Kind(..., version=…)`), so that nobody's old
results are taken for new ones.
"""

import ast
import dataclasses
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import dilt_hf
from dilt_hf.engine.kinds import RECORD_FILE, Kind, code_fingerprint
from helpers.small import TINY_VIT, changed, quick_run

RECORDED = Path(__file__).parents[1] / "golden/numbers.json"
PACKAGE = Path(dilt_hf.__file__).parent
# enough for another processor's rounding, and for a weight or two that it ranks the other way round
RELATIVE, ABSOLUTE = 2e-3, 1e-4
NOT_NUMBERS = {"seconds", "sha256"}


def kinds():
    """Every kind of the package, by name: from the modules that define one."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        names = [
            node.targets[0].id
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
            if getattr(node.value.func, "id", None) == "Kind"
        ]
        if names:
            module = __import__(".".join(["dilt_hf", *path.relative_to(PACKAGE).with_suffix("").parts]), fromlist=names)
            found |= {getattr(module, name).name: getattr(module, name) for name in names}
    assert all(isinstance(kind, Kind) for kind in found.values())
    return found


def programme(folder):
    """Everything that the package computes, once, on a few digits; the folders of all stages."""
    from dilt_hf.config.data import DataConfig
    from dilt_hf.config.experiments import AnalyzeConfig, ApplyConfig, RouteConfig, ShrinkConfig
    from dilt_hf.config.model import ModelConfig
    from dilt_hf.experiments.analysis_sources import SAME_DATA
    from dilt_hf.experiments.analyze import analyze
    from dilt_hf.experiments.apply import apply_tickets
    from dilt_hf.experiments.find import find_tickets
    from dilt_hf.experiments.rtl import route
    from dilt_hf.experiments.shrink import shrink
    from dilt_hf.experiments.specialise import specialise
    from dilt_hf.experiments.transfer import transfer
    from dilt_hf.run.methods.controls import FRESH

    methods = ["core", "LTH", "SNIP", "SynFlow", "RigL", "COLT", "CAP"]
    config = changed(quick_run(folder / "conv"), "pruning", num_rounds=2, pruning_fraction=0.4, rewind_step=1)
    config = changed(config, "data", max_train_samples=80, max_eval_samples=40)
    config = changed(config, "training", global_train_batch_size=20)
    config = changed(
        config, "methods", update_every=1, scoring_examples=2, fisher_examples=20, fisher_block=16, gate_examples=20
    )
    asked = {"methods": methods, "matched_density": [0.5], "tickets": ["core", "union"], "materialise": ["core"]}
    find_tickets(changed(config, "run", **asked), progress=False)
    specialise(config, progress=False)
    transfer(folder / "conv", changed(config, "run", output_dir=str(folder / "target")), [0.5], progress=False)
    route(config, RouteConfig(sparsities=[0.5]), progress=False)
    sources = {"sources": [str(folder / "conv")], "layers": ["weights"], "num_probes": 20, "tier": "fast"}
    analyze(AnalyzeConfig(**sources), DataConfig(dataset_name=SAME_DATA), progress=False)
    repository = folder / "conv/tickets/seed_0"
    applied = ApplyConfig(
        repositories=[str(repository)], tickets=["core"], output_dir=str(folder / "applied"), use_cpu=True
    )
    model = ModelConfig(model_name_or_path=str(repository / "core"))
    apply_tickets(applied, config.data, model, config.training, progress=False)

    sizes = TINY_VIT | {"num_hidden_layers": 2, "num_attention_heads": 4}
    vit = ModelConfig(architecture="vit-tiny", config_overrides=sizes)
    smaller = dataclasses.replace(changed(config, "run", output_dir=str(folder / "vit")), model=vit)
    smaller = changed(smaller, "pruning", rewind_step=0)
    smaller = changed(smaller, "training", optim="AdamW", learning_rate=1e-3)
    find_tickets(
        changed(smaller, "run", methods=["SAViT"], matched_density=[0.5], tickets=[], materialise=[]), progress=False
    )
    shrunk = ShrinkConfig(output_dir=str(folder / "shrunk"), scoring_examples=20, use_cpu=True)
    shrink(shrunk, smaller.data, vit, smaller.training)
    # without the θ0 of untrained networks, which an analysis compares: it is made as all others are
    drawn = f"seed {FRESH}: θ0"
    stages = [
        path.parent for path in folder.rglob("stage.json") if json.loads(path.read_text())["description"] != drawn
    ]
    # of the target only what no other step does: its trainings are like all others
    return sorted(path for path in stages if folder / "target" not in path.parents or "transplant" in path.name)


def numbers_of(folders):
    """By kind, what its stages hold: for every tensor a few sums that see each element, and all recorded numbers."""
    found = {}
    for folder in folders:
        kind = folder.name.rsplit("-", 1)[0]
        sums = found.setdefault(kind, {"stages": 0.0})
        sums["stages"] += 1
        for file in sorted(folder.glob("*.safetensors")):
            for position, (_, tensor) in enumerate(sorted(load_file(file).items())):
                flat = tensor.double().flatten().nan_to_num()
                waves = torch.sin(torch.arange(1, len(flat) + 1, dtype=torch.float64))
                scale = math.sqrt(len(flat))
                add(sums, f"{file.stem} {position} size", float(flat.abs().sum()) / scale)
                add(sums, f"{file.stem} {position} place", float((flat * waves).sum()) / scale)
        for name, value in leaves(json.loads((folder / "stage.json").read_text())["record"]):
            add(sums, f"record {name}", value)
    return {kind: {name: float(f"{value:.9g}") for name, value in sums.items()} for kind, sums in sorted(found.items())}


def add(sums, name, value):
    sums[name] = sums.get(name, 0.0) + value


def leaves(value, name=""):
    """The numbers of a record, summed over lists; what depends on the machine's speed is left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in NOT_NUMBERS:
                yield from leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, name)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)


def differing(old, new):
    """Where two sets of numbers differ by more than rounding can explain."""
    names = [name for name in {**old, **new} if name not in old or name not in new]
    shared = [name for name in old if name in new]
    close = np.isclose([old[n] for n in shared], [new[n] for n in shared], RELATIVE, ABSOLUTE)
    return names + [name for name, same in zip(shared, close, strict=True) if not same]


def record():
    recorded = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = numbers_of(programme(Path(folder)))
    every = kinds()
    assert found.keys() == every.keys(), found.keys() ^ every.keys()
    for name, kind in every.items():
        before = recorded.get(name)
        if before is not None and before["version"] == kind.version:
            changed_numbers = differing(before["numbers"], found[name])
            if changed_numbers:
                sys.exit(f"'{name}' computes other numbers ({changed_numbers[0]}): raise its version first.")
        else:
            recorded[name] = {"version": kind.version, "numbers": found[name]}
    kept = {name: recorded[name] for name in sorted(every)}
    RECORDED.write_text(json.dumps(kept, indent=1) + "\n")
    code = {
        name: {"version": kind.version, "code": code_fingerprint(kind.code)} for name, kind in sorted(every.items())
    }
    RECORD_FILE.write_text(json.dumps(code, indent=1) + "\n")


if __name__ == "__main__":
    record()
