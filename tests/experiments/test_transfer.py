"""Masks of one run on new weights for other digits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dilt_hf.config.experiments import SourceConfig
from dilt_hf.experiments.find import find_tickets
from dilt_hf.experiments.transfer import COMPARED, FRESH, Transfer, Transferred, Transplants, transfer
from dilt_hf.hypotheses.evidence import of_transfer
from dilt_hf.masks.algebra import count_kept, density_per_tensor
from dilt_hf.masks.io import load_masks
from dilt_hf.models.anatomy import head_names
from dilt_hf.models.weights import WEIGHTS_FILE, read_weights
from dilt_hf.results.outcomes import Outcome
from dilt_hf.run.context import open_run
from dilt_hf.run.folder import stored_config
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import rewind_point
from dilt_hf.utils.errors import ConfigError, RunError


@pytest.fixture
def target(quick_config, change, tmp_path):
    """What is to be learned with the masks."""
    config = change(quick_config, "data", classes=["6-9"], max_train_samples=120, max_eval_samples=60)
    return change(config, "run", output_dir=str(tmp_path / "transfer"), seeds=[0, 1])


@pytest.fixture
def source(quick_config, change):
    config = change(quick_config, "data", classes=["0-5"])
    config = change(change(config, "pruning", num_rounds=3), "run", seeds=[0, 1])
    find_tickets(config, progress=False)
    return Path(config.run.output_dir)


def test_masks_of_equal_counts_are_trained_on_fresh_weights(source, target, tmp_path, monkeypatch):
    found = transfer(source, target, [0.5, 0.4], progress=False)
    assert {(e.name, e.density, e.seed, e.weights) for e in found.networks} == {
        (name, density, seed, weights)
        for seed in (0, 1)
        for weights in ("own", "new")
        for name, density in [("dense", 1.0), *((name, density) for name in COMPARED for density in (0.5, 0.4))]
    }
    assert found.images == 60
    numbers = json.loads((tmp_path / "transfer/transfer.json").read_text())
    assert len(numbers["networks"]) == len(found.networks) == 2 * 2 * (1 + 2 * len(COMPARED))
    origin = open_run(stored_config(tmp_path / "run"), progress=False)
    ctx = open_run(stored_config(tmp_path / "transfer"), progress=False)
    assert ctx.data.splits.class_names == ("6", "7", "8", "9")
    assert origin.data.splits.class_names == ("0", "1", "2", "3", "4", "5")
    run = Transplants(Search(origin, 1), ctx, [0.5])
    masks = {name: label.method(origin).mask(run.search, 0.5) for name, label in COMPARED.items()}
    total = ctx.network.total
    assert {count_kept(mask) for mask in masks.values()} == {round(0.5 * total)}
    assert density_per_tensor(masks["core"]) == density_per_tensor(masks["core, shuffled"])
    fresh = read_weights(rewind_point(ctx, FRESH + 1).path / WEIGHTS_FILE)
    first = read_weights(rewind_point(origin, 1).path / WEIGHTS_FILE)
    name = next(iter(masks["core"]))
    assert fresh[name].shape == first[name].shape
    assert not torch.equal(fresh[name], first[name])
    for start in ("own", "new"):
        trained = {e.name: e.stage for e in found.networks if (e.seed, e.density, e.weights) == (1, 0.5, start)}
        for kind, mask in masks.items():
            weights = read_weights(ctx.stages.root / trained[kind] / WEIGHTS_FILE)
            assert all(not bool(weights[name][~mask[name]].any()) for name in mask)
    (own,) = [stage for stage in ctx.stages.all() if stage.kind == "transplant" and "seed 1" in stage.description]
    given = read_weights(own.path / WEIGHTS_FILE)
    heads = head_names(ctx.network.module)
    assert heads
    for name, tensor in given.items():
        assert torch.equal(tensor, (fresh if name in heads else first)[name])

    def never(*arguments, **options):
        raise AssertionError("done before")

    monkeypatch.setattr("dilt_hf.run.training_steps.train", never)
    monkeypatch.setattr("dilt_hf.run.evaluation_steps.predict_within", never)
    assert transfer(source, target, [0.5, 0.4], progress=False) == found
    assert not list((tmp_path / "transfer/stages").glob("*/mask.safetensors"))
    assert load_masks(next((tmp_path / "run/stages").glob("mask-*/mask.safetensors")))


def test_what_does_not_fit_is_said_before_anything_is_trained(source, target, change, tmp_path):
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        transfer(tmp_path, target, [0.5], progress=False)
    with pytest.raises(ConfigError, match="name a run with --source, or classes"):
        SourceConfig()
    folder = tmp_path / "transfer"
    folder.mkdir()
    (folder / "mine.txt").write_text("")
    with pytest.raises(RunError, match="holds something that is no run"):
        transfer(source, target, [0.5], progress=False)


def test_evidence_is_the_lead_of_the_core_over_all_densities():
    def network(name, seed, density, right, weights="own"):
        bits = np.arange(100) < right + seed
        return Transferred(name, seed, density, float(right + seed), f"{name}-{weights}", weights, Outcome(bits, bits))

    kinds = (("core", 90), ("union", 88), ("LTH", 89), ("core, shuffled", 90), ("core, magnitude at init by layer", 80))
    networks = [
        network(name, seed, density, right + shift * (name == "union"))
        for seed in range(3)
        for density, shift in ((0.5, 0), (0.1, 4))
        for name, right in kinds
    ]
    new = [network("core", seed, density, 10, "new") for seed in range(3) for density in (0.5, 0.1)]
    evidence = of_transfer(Transfer([*networks, *new, network("dense", 0, 1.0, 97)], 100))
    assert evidence["transfer_union"].values == pytest.approx({0: 0.0, 1: 0.0, 2: 0.0})
    assert evidence["transfer_lth"].values == pytest.approx({0: 1.0, 1: 1.0, 2: 1.0})
    assert evidence["transfer_at_init"].values == pytest.approx({0: 10.0, 1: 10.0, 2: 10.0})
    assert evidence["transfer_shuffled"].step == 0.5
    assert "core-new" not in evidence["transfer_lth"].sources
    rewound = of_transfer(Transfer(networks, 100, rewind_step=12))
    assert rewound.keys() == {"rewound_union", "rewound_lth", "rewound_shuffled", "rewound_at_init"}
    assert rewound["rewound_lth"].values == evidence["transfer_lth"].values


def test_numbers_of_an_earlier_version_are_of_new_weights():
    stored = {"name": "core", "seed": 0, "density": 0.5, "accuracy": 90.0, "stage": "train-a"}
    found = Transfer.from_dict({"networks": [stored], "pictures": 100, "rewind_step": 0})
    assert found.networks[0].weights == "new"
    assert Transfer.from_dict(found.to_dict()) == found


def test_masks_found_from_theta_k_are_put_on_strict_weights_beside_the_others(source, target, change, tmp_path):
    transfer(source, target, [0.5], progress=False)
    run = stored_config(source)
    rewound = change(change(run, "pruning", rewind_step=2), "run", output_dir=str(tmp_path / "rewound"))
    find_tickets(rewound, progress=False)
    found = transfer(tmp_path / "rewound", target, [0.5], progress=False)
    assert (found.rewind_step, found.name) == (2, "transfer_theta_2")
    assert (tmp_path / "transfer/transfer.json").is_file()
    assert (tmp_path / "transfer/transfer_theta_2.md").is_file()
    first = json.loads((tmp_path / "transfer/transfer.json").read_text())["networks"]
    dense = {each["stage"] for each in first if (each["name"], each["weights"]) == ("dense", "new")}
    assert {each.stage for each in found.networks if (each.name, each.weights) == ("dense", "new")} == dense
    assert not list((tmp_path / "transfer/stages").glob("theta_k-*"))
    with pytest.raises(ConfigError, match="takes 0, and one other at most"):
        SourceConfig(source_classes=["0-5"], source_rewind_steps=[2, 3])
