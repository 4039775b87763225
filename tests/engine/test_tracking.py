"""What trackers receive: a run per process, metrics by its name, steps that count on over rounds."""

import pytest

from dilt_hf.engine.tracking import check_trackers
from dilt_hf.experiments.find import find_tickets
from dilt_hf.utils.errors import ConfigError


def events_in(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in folder.rglob("events.out.*"):
        accumulator = EventAccumulator(str(path))
        accumulator.Reload()
        for tag in accumulator.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in accumulator.Scalars(tag))
    return found


def test_each_process_is_a_run_whose_steps_go_on_over_the_rounds(quick_config, change, tmp_path):
    pytest.importorskip("tensorboard")
    config = change(quick_config, "run", report_to=["tensorboard"])
    find_tickets(change(config, "training", num_train_epochs=2), progress=False)
    events = events_in(tmp_path / "run" / "trackers")
    losses = events["seed_0/partition_0/loss"]
    assert [step for step, _ in losses] == [2, 4, 6, 8]  # two rounds of two epochs of two steps
    assert all(loss > 0 for _, loss in losses)
    assert [round(value, 2) for _, value in events["seed_0/partition_1/density"]] == [1.0, 1.0, 0.7, 0.7]
    assert {"seed_0/core/loss", "seed_0/union/learning_rate"} <= events.keys()
    find_tickets(change(config, "training", num_train_epochs=2), progress=False)
    assert events_in(tmp_path / "run" / "trackers").keys() == events.keys()  # nothing was trained, nothing is sent


def test_trackers_that_cannot_be_used_are_named_at_once():
    with pytest.raises(ConfigError, match="--report_to wandb needs a package that is not installed: pip install wandb"):
        check_trackers(["wandb"])
    with pytest.raises(ConfigError, match=r"--report_to pigeon is no tracker; choose among aim, .*tensorboard"):
        check_trackers(["pigeon"])
