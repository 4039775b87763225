"""Published methods in terms of stages: how each comes to a mask of a given density, or to a training that makes one.

| method     | scores                                  | of              | divided | then trains from         |
|------------|-----------------------------------------|-----------------|---------|--------------------------|
| random     | random                                  |                 | uniform | θ0                       |
| ERK-random | random                                  |                 | ERK     | θ0                       |
| SNIP       | sensitivity                             | θ0              | global  | θ0                       |
| GraSP      | gradient flow                           | θ0              | global  | θ0                       |
| one-shot   | magnitude                               | trained weights | global  | θ0 (LTH in one round)    |
| magnitude  | magnitude                               | trained weights | global  | the trained weights      |
| CAP        | second-order                            | trained weights | global  | the trained weights, moved |
| gradual    | magnitude, while training               |                 | global  | θ0                       |
| RigL, SET  | magnitude, and gradient or random growth, while training | | ERK   | θ0                       |
| SAViT      | slopes of gates on heads, units, channels | trained weights | by kind | the trained weights, fewer |
| COLT       | magnitude, consensus of the partitions  | trained weights | global  | θ0                       |
| IMP-COLT   | magnitude, all classes, as many a round as COLT | trained weights | global | θ0                 |

θ0 stands for the rewind point. SAViT's network is as small as makes its operations those of masks that keep the wanted
fraction of every tensor; it does not keep that fraction exactly. LTH, core and union are the removal orders of
`experiments.search`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dilt_hf.data import loader
from dilt_hf.data.splits import dealt_by_class
from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import Masks, count_total, full_like
from dilt_hf.masks.io import load_masks, masks_to_bytes, save_masks
from dilt_hf.models.flops import TRAINING_PASSES, Cost
from dilt_hf.models.weights import WEIGHTS_FILE, load_weights, read_weights, save_tensors, save_weights, weights_sha256
from dilt_hf.pruning.allocation import ERK, UNIFORM, select
from dilt_hf.pruning.cap import CapSettings, cap_scores, cap_update, sweeps
from dilt_hf.pruning.gradual import GradualPruning
from dilt_hf.pruning.grasp import grasp_scores
from dilt_hf.pruning.rigl import Rewiring
from dilt_hf.pruning.savit import shrunk, structured_mask
from dilt_hf.pruning.snip import snip_scores
from dilt_hf.run.colt import COLT, consented
from dilt_hf.run.savit import GRADIENTS as GATE_GRADIENTS
from dilt_hf.run.savit import chosen_structure, load_structure
from dilt_hf.run.training_steps import MASK_FILE, Purpose, Workbench
from dilt_hf.training.losses import Teacher
from dilt_hf.training.protocols import Topology
from dilt_hf.training.train import total_steps
from dilt_hf.utils.seeding import generator_for

SCORES_FILE = "scores.safetensors"
IMP_COLT = "IMP-COLT"
TOPOLOGIES = ("RigL", "SET", "gradual")  # train their masks
AFTER_TRAINING = ("one-shot", "magnitude", "CAP", "SAViT")  # begin with the trained dense network
# of the passes of a training step: the gradient is one, the product of Hessian and gradient about two more
GRADIENTS = {"SNIP": 1, "GraSP": 3}


@dataclasses.dataclass(frozen=True)
class Smaller:
    """A network of other sizes that takes the place of the run's, and the teacher that it is trained with, if any."""

    network: Callable[[], nn.Module]
    teacher: Callable[[], Teacher] | None


@dataclasses.dataclass(frozen=True)
class Found:
    """What the final training of a method's network is given.

    Attributes:
        mask: what it trains under; with a topology, what it starts with.
        cost: of finding all this.
        rounds: how many trainings, one after the other, that took.
        origin: the stages it comes from.
        start: trained weights to go on from; None for the rewind point.
        topology: makes what changes the mask while the network trains.
        smaller: what is trained, without a mask, where it is not the network itself.
    """

    mask: Masks
    cost: Cost = dataclasses.field(default_factory=Cost)
    rounds: int = 0
    origin: Sequence[str] = ()
    start: Stage | None = None
    topology: Callable[[], Topology] | None = None
    smaller: Smaller | None = None


def find(bench: Workbench, seed: int, method: str, wanted: float) -> Found:
    """What `method` (one of the table above) comes to where it keeps the fraction `wanted` of the prunable weights.

    Raises:
        ConfigError: for settings with which the method would do nothing.
        BusyError: when another process is at something that it needs.
    """
    kept = round(wanted * count_total(bench.prunable))
    return FINDERS[method](bench, seed, method, wanted, kept)


# --- before training -------------------------------------------------------------------------------------------------


def _random(bench: Workbench, seed: int, method: str, wanted: float, kept: int) -> Found:
    generator = generator_for(seed, method, f"{wanted:g}")
    scores = {name: torch.rand(weight.shape, generator=generator) for name, weight in bench.prunable.items()}
    return Found(select(scores, kept, UNIFORM if method == "random" else ERK))  # RigL and SET start so too


def _at_initialisation(bench: Workbench, seed: int, method: str, wanted: float, kept: int) -> Found:
    scored = _scored(bench, seed, method)
    scores = read_weights(scored.path / SCORES_FILE)
    return Found(select(scores, kept), Cost(**scored.record["cost"]), origin=[scored.address])


def _scored(bench: Workbench, seed: int, method: str) -> Stage:
    """The scores of SNIP or GraSP, of the weights that will be trained."""
    start, settings = bench.start(seed), bench.config.methods
    order = dealt_by_class(bench.splits.train.labels, seed, "scoring")
    rows = torch.from_numpy(order[: settings.scoring_examples * len(bench.splits.class_names)])

    def make(folder: Path) -> dict[str, Any]:
        load_weights(bench.model, start.path / WEIGHTS_FILE)
        batches = list(_examples(bench, rows))
        found = {"SNIP": snip_scores, "GraSP": grasp_scores}[method](bench.model, bench.prunable, batches)
        save_tensors(found, folder / SCORES_FILE)
        return {"cost": dataclasses.asdict(_gradients_cost(bench, GRADIENTS[method] * len(rows)))}

    return bench.stages.get(
        "scores",
        {"method": method, "batch": bench.config.training.train_batch_size, **_identity(bench, start, rows)},
        make,
        description=f"seed {seed}: scores of {method}",
        derived_from=[start.address],
    )


def _examples(bench: Workbench, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Training pictures as they are, in batches like those of a step."""
    return loader.in_order(bench.images["train"], rows, bench.config.training.train_batch_size, bench.normalize)


def _identity(bench: Workbench, start: Stage, rows: Tensor) -> dict[str, Any]:
    """What determines scores: the weights, and the pictures that they are scored on."""
    return {
        "start": [start.address, start.record.get("sha256")],
        "data": bench.fingerprints["train"],
        "normalisation": [list(bench.config.data.image_mean), list(bench.config.data.image_std)],
        "rows": rows.tolist(),
        "device": bench.accelerator.device.type,
    }


def _gradients_cost(bench: Workbench, examples: int) -> Cost:
    operations = float(TRAINING_PASSES * examples * bench.forward.total)
    return Cost(examples=examples, dense_flops=operations, sparse_flops=operations)


# --- after training --------------------------------------------------------------------------------------------------


def _dense(bench: Workbench, seed: int) -> Stage:
    return bench.ticket_trained({}, seed, "dense")


def _by_magnitude(bench: Workbench, seed: int, method: str, wanted: float, kept: int) -> Found:
    dense = _dense(bench, seed)
    scores = {name: weight.abs() for name, weight in bench.weights_of(dense)().items()}
    start = dense if method == "magnitude" else None
    return Found(select(scores, kept), Cost(**dense.record["cost"]), 1, [dense.address], start)


def _by_cap(bench: Workbench, seed: int, method: str, wanted: float, kept: int) -> Found:
    """Prune and train in turns; the last training is left to the caller."""
    cycles, total = bench.config.methods.cap_cycles, count_total(bench.prunable)
    network, mask = _dense(bench, seed), full_like(bench.prunable)
    cost, counts = Cost(), [round(total * wanted ** ((cycle + 1) / cycles)) for cycle in range(cycles - 1)] + [kept]
    for cycle, count in enumerate(counts):
        cost += Cost(**network.record["cost"])
        pruned = _cap_pruned(bench, seed, network, mask, count)
        mask, cost = load_masks(pruned.path / MASK_FILE), cost + Cost(**pruned.record["cost"])
        if cycle + 1 < cycles:
            network = _cycle_trained(bench, seed, pruned, mask, cycle)
    return Found(mask, cost, cycles, [pruned.address], pruned)


def _cap_pruned(bench: Workbench, seed: int, network: Stage, mask: Masks, kept: int) -> Stage:
    """The mask and the updated weights, from scores that all densities share."""
    settings = bench.config.methods
    knobs = CapSettings(settings.fisher_block, settings.fisher_dampening, settings.fisher_memory_gb)
    rows = torch.from_numpy(dealt_by_class(bench.splits.train.labels, seed, "fisher")[: settings.fisher_examples])
    examples = functools.partial(_examples, bench, rows)
    cost = dataclasses.asdict(_gradients_cost(bench, len(rows) * sweeps(bench.prunable, knobs)))
    inputs = {
        "block": knobs.block,
        "dampening": knobs.dampening,
        "batch": bench.config.training.train_batch_size,
        "mask": hashlib.sha256(masks_to_bytes(mask)).hexdigest(),
        **_identity(bench, network, rows),
    }

    def score(folder: Path) -> dict[str, Any]:
        load_weights(bench.model, network.path / WEIGHTS_FILE)
        with _gradients_bar(bench, rows, knobs, "scores") as bar:
            scores = cap_scores(bench.model, bench.prunable, examples, mask, knobs, bar.update)
        save_tensors(scores, folder / SCORES_FILE)
        return {"cost": cost}

    scored = bench.stages.get(
        "cap_scores", inputs, score, description=f"seed {seed}: scores of CAP", derived_from=[network.address]
    )

    def prune(folder: Path) -> dict[str, Any]:
        load_weights(bench.model, network.path / WEIGHTS_FILE)
        chosen = select(read_weights(scored.path / SCORES_FILE), kept, within=mask)
        with _gradients_bar(bench, rows, knobs, "update") as bar:
            updated = cap_update(bench.model, bench.prunable, examples, chosen, mask, knobs, bar.update)
        with torch.no_grad():
            for name, weight in bench.prunable.items():
                weight.copy_(updated[name])
        save_weights(bench.model, folder / WEIGHTS_FILE)
        save_masks(chosen, folder / MASK_FILE)
        both = dataclasses.asdict(Cost(**cost) + Cost(**scored.record["cost"]))
        return {"kept": kept, "sha256": weights_sha256(folder), "cost": both}

    return bench.stages.get(
        "cap",
        {"scores": scored.address, "kept": kept},
        prune,
        derived_from=[network.address, scored.address],
        description=f"seed {seed}: CAP at {kept} weights",
    )


def _gradients_bar(bench: Workbench, rows: Tensor, knobs: CapSettings, what: str) -> tqdm:
    total = len(rows) * sweeps(bench.prunable, knobs)
    return tqdm(total=total, desc=f"CAP, {what}", unit="gradient", disable=None if bench.progress else True)


def _cycle_trained(bench: Workbench, seed: int, pruned: Stage, mask: Masks, cycle: int) -> Stage:
    """The training between two prunings: its part of the epochs of a ticket, with a schedule of its own."""
    training = bench.config.training.for_tickets()
    epochs = max(1, training.num_train_epochs // bench.config.methods.cap_cycles)
    name = f"CAP, cycle {cycle}"
    run = bench.tracked(f"seed_{seed}/{name}")
    purpose = Purpose(f"seed {seed}: {name}", name, run, derived_from=[pruned.address])
    try:
        training = dataclasses.replace(training, num_train_epochs=epochs)
        return bench.trained(pruned, mask, bench.everything, seed, cycle, training, purpose)
    finally:
        run.end()


def _by_gates(bench: Workbench, seed: int, method: str, wanted: float, kept: int) -> Found:
    """A smaller network with as many operations as masks leave that keep the fraction `wanted` of every tensor."""
    dense, settings = _dense(bench, seed), bench.config.methods
    target = bench.forward.under(dict.fromkeys(bench.prunable, wanted)) / bench.forward.total
    order = dealt_by_class(bench.splits.train.labels, seed, "gates")
    rows = torch.from_numpy(order[: settings.gate_examples])

    def trained() -> nn.Module:
        model = bench.new_model(seed).to(bench.accelerator.device)
        load_weights(model, dense.path / WEIGHTS_FILE)
        return model.eval()

    chosen = chosen_structure(
        bench.stages,
        trained,
        lambda: list(_examples(bench, rows)),
        target,
        {"batch": bench.config.training.train_batch_size, **_identity(bench, dense, rows)},
        description=f"seed {seed}: structure of SAViT",
        derived_from=[dense.address],
    )
    structure = load_structure(chosen, bench.model)

    def network() -> nn.Module:
        return shrunk(trained(), structure)

    def make(folder: Path) -> dict[str, Any]:
        save_weights(network(), folder / WEIGHTS_FILE)
        return {"sha256": weights_sha256(folder)}

    smaller = bench.stages.get(
        "shrunk",
        {"structure": chosen.address, "network": dense.address},
        make,
        description=f"seed {seed}: SAViT's network",
        derived_from=[chosen.address, dense.address],
    )

    def teacher() -> Teacher:
        return Teacher(trained(), settings.distillation, settings.temperature)

    cost = Cost(**dense.record["cost"]) + _gradients_cost(bench, GATE_GRADIENTS * len(rows))
    instead = Smaller(network, teacher if settings.distillation else None)
    return Found(structured_mask(bench.model, structure), cost, 1, [smaller.address], smaller, smaller=instead)


# --- while training --------------------------------------------------------------------------------------------------


def _steps(bench: Workbench) -> int:
    return total_steps(len(bench.everything.rows), bench.config.training.for_tickets())


def _rewired(bench: Workbench, seed: int, method: str, wanted: float, kept: int) -> Found:
    settings, mask = bench.config.methods, _random(bench, seed, method, wanted, kept).mask

    def topology() -> Topology:
        return Rewiring(
            _on_device(bench, mask),
            _steps(bench),
            settings.update_every,
            settings.drop_share,
            settings.update_until,
            key=None if method == "RigL" else (seed, method, f"{wanted:g}"),
        )

    return Found(mask, topology=topology)


def _gradually(bench: Workbench, seed: int, method: str, wanted: float, kept: int) -> Found:
    settings, full = bench.config.methods, full_like(bench.prunable)

    def topology() -> Topology:
        return GradualPruning(
            _on_device(bench, full), kept, _steps(bench), settings.update_every, end=settings.update_until
        )

    return Found(full, topology=topology)


def _on_device(bench: Workbench, mask: Masks) -> Masks:
    return {name: tensor.to(bench.accelerator.device) for name, tensor in mask.items()}


# --- round by round --------------------------------------------------------------------------------------------------


def _by_consensus(bench: Workbench, seed: int, method: str, wanted: float, kept: int) -> Found:
    joint = consented(bench, seed)
    found = joint.record[f"{wanted:g}"]
    mask = load_masks(bench.stages.root / found["mask"] / MASK_FILE)
    return Found(mask, Cost(**found["cost"]), len(found["kept"]), [joint.address])


def _as_fast_as_consensus(bench: Workbench, seed: int, method: str, wanted: float, kept: int) -> Found:
    """IMP on all classes that removes as many weights in each round as COLT did: what is left of COLT's advantage when
    the steps are equally large."""
    counts = consented(bench, seed).record[f"{wanted:g}"]["kept"]
    rounds = list(bench.pruned(bench.everything, seed, counts))
    cost = sum((Cost(**each.network.record["cost"]) for each in rounds), Cost())
    return Found(load_masks(rounds[-1].mask.path / MASK_FILE), cost, len(rounds), [rounds[-1].mask.address])


FINDERS: dict[str, Callable[[Workbench, int, str, float, int], Found]] = {
    "random": _random,
    "ERK-random": _random,
    "SNIP": _at_initialisation,
    "GraSP": _at_initialisation,
    "one-shot": _by_magnitude,
    "magnitude": _by_magnitude,
    "CAP": _by_cap,
    "SAViT": _by_gates,
    "gradual": _gradually,
    "RigL": _rewired,
    "SET": _rewired,
    COLT: _by_consensus,
    IMP_COLT: _as_fast_as_consensus,
}
