"""Settings that work and are seldom meant are pointed out in the plan."""

import dataclasses

import pytest

from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.run.context import open_run
from dilt_hf.run.cost_estimate import describe_plan
from dilt_hf.run.hints import hints


@pytest.mark.parametrize(
    ("model", "augmentation", "expected"),
    [
        ({"architecture": "resnet-micro"}, "shift", []),
        ({"architecture": "resnet18"}, "shift", ["resnet18-cifar keeps small images larger"]),
        ({"architecture": "resnet-micro"}, "shift_flip", ["look like characters, which mirroring makes into others"]),
        (
            {"architecture": "timm:sequencer2d_s", "config_overrides": {"layers": [1, 1, 1, 1]}},
            "shift",
            [r"% of the weights in matrices are not covered by masks"],
        ),
    ],
)
def test_hints(quick_config, change, model, augmentation, expected):
    config = change(
        change(quick_config, "model", **{"config_overrides": {}} | model), "data", augmentation=augmentation
    )
    config = change(config, "data", image_size=32)
    plan = describe_plan(open_run(config, progress=False))
    notes = [line for line in plan.splitlines() if line.startswith("Note: ")]
    assert len(notes) == len(expected)
    assert all(part in note for part, note in zip(expected, notes, strict=True))


def test_processes_that_could_train_more_networks_at_once_are_pointed_out(quick_config, change):
    ctx = open_run(change(quick_config, "run", seeds=[0, 1, 2, 3]), progress=False)
    for count, size, pointed_out in ((2, 5, True), (10, 1, False), (8, 2, False)):
        found = hints(dataclasses.replace(ctx, group=ProcessGroup(0, count, 0, size)))
        assert any("--processes_per_network 1" in each for each in found) == pointed_out
