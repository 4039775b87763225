"""Every hypothesis names an experiment that there is, and every criterion has a producer."""

import numpy as np
import pytest
from helpers.recipes import run_recipe

from dilt_hf.hypotheses import evidence, simulation
from dilt_hf.hypotheses.programme import EXPERIMENTS
from dilt_hf.hypotheses.registry import hypotheses, keys_of
from dilt_hf.run.methods.registry import NAMES, method_of
from dilt_hf.utils.errors import ConfigError, MaskError

HYPOTHESES = hypotheses()


def produced():
    """The criteria that each experiment's evidence has numbers for, in a world where everything can be measured."""
    rng, world = np.random.default_rng(0), simulation.TRUE
    networks = evidence.of_comparison(simulation.results(world, rng))
    transfers = [evidence.of_transfer(simulation.transfers(world, rng, 3, k)) for k in (0, 5)]
    return {
        "benchmark": {*networks},
        "disentanglement": {*evidence.of_analysis(simulation.findings(world, rng, 3))},
        "specialisation": {*networks, *evidence.of_specialists(simulation.specialists(world, rng, 3))},
        "transfer": {key for each in transfers for key in each},
    }


def test_every_criterion_has_a_producer_in_its_experiment():
    found = produced()
    assert found.keys() == EXPERIMENTS.keys()
    for hypothesis in HYPOTHESES:
        missing = [each.key for each in hypothesis.criteria if each.key not in found[hypothesis.experiment]]
        assert not missing, f"{hypothesis.key}: nothing produces {missing}"
    asked = {criterion.key for hypothesis in HYPOTHESES for criterion in hypothesis.criteria}
    assert set().union(*found.values()) == asked, "evidence that no hypothesis asks for"


def test_keys_are_unique_and_experiments_share_out_all_hypotheses():
    keys = [hypothesis.key for hypothesis in HYPOTHESES]
    assert len(set(keys)) == len(keys)
    assert sorted(key for experiment in EXPERIMENTS for key in keys_of(experiment)) == sorted(keys)


def test_help_lists_what_the_registries_hold(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        run_recipe("exp2_disentanglement", ["--help"])
    assert "H0, H4, H5, H6" in " ".join(capsys.readouterr().out.split())


def test_methods_are_looked_up_by_name():
    assert [method_of(name).name for name in NAMES] == list(NAMES)
    assert method_of("core", "sibling").siblings
    with pytest.raises(MaskError, match="'LHT' is not a ticket"):
        method_of("LHT")
    with pytest.raises(ConfigError, match="there is no control 'none'"):
        method_of("core", "none")
    with pytest.raises(ConfigError, match="LTH is no ticket of partitions"):
        method_of("LTH", "sibling")
