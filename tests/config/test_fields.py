"""Options check themselves: every type, literal, number and bound, from Python as from the command line."""

import dataclasses
import math
import typing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.config.experiments import AnalyzeConfig, ApplyConfig, LayerConfig, RouteConfig, ShrinkConfig, SourceConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.pruning import MethodConfig, PruningConfig
from dilt_hf.config.run import RunConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.utils.errors import ConfigError

VALID = {
    DataConfig: {"dataset_name": "digits"},
    PartitionConfig: {},
    ModelConfig: {"architecture": "conv3"},
    TrainingConfig: {},
    PruningConfig: {"num_rounds": 2, "pruning_fraction": 0.5},
    MethodConfig: {},
    RunConfig: {},
    LayerConfig: {},
    AnalyzeConfig: {"sources": ["runs/x"]},
    ApplyConfig: {"repositories": ["runs/x"]},
    RouteConfig: {},
    SourceConfig: {"source": "runs/x"},
    ShrinkConfig: {},
}
FIELDS = [(kind, field.name) for kind in VALID for field in dataclasses.fields(kind)]
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.just(10**400),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.floats()), max_size=2),
    st.sampled_from([object(), set(), 1j, np.zeros(3), math.inf, -math.inf, math.nan, "~", "nan", "inf"]),
)


@given(where=st.sampled_from(FIELDS), value=values)
def test_any_value_is_of_its_declared_type_or_refused(where, value):
    kind, name = where
    try:
        made = kind(**{**VALID[kind], name: value})
    except ConfigError:
        return
    found, hint = getattr(made, name), typing.get_type_hints(kind)[name]
    assert_is(found, hint)


def assert_is(value, hint):
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        assert value in arguments
    elif arguments and type(None) in arguments:
        assert value is None or assert_is(value, next(a for a in arguments if a is not type(None))) is None
    elif origin is list:
        assert type(value) is list
        for each in value:
            assert_is(each, arguments[0])
    elif origin is dict:
        assert type(value) is dict
    else:
        assert type(value) is hint
        assert not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (TrainingConfig, {"lr_scheduler_type": "nonsense"}, "--lr_scheduler_type must be one of constant, cosine"),
        (PruningConfig, {"scope": "Layer"}, "--scope must be one of global, layer, not 'Layer'"),
        (TrainingConfig, {"learning_rate": "0.1"}, "--learning_rate must be a number, not '0.1'"),
        (TrainingConfig, {"num_train_epochs": 2.0}, "--num_train_epochs must be a whole number, not 2.0"),
        (TrainingConfig, {"torch_compile": 1}, "--torch_compile must be true or false, not 1"),
        (TrainingConfig, {"learning_rate": math.inf}, "--learning_rate must be a finite number, not inf"),
        (TrainingConfig, {"lr_scheduler_kwargs": {"milestones": [math.nan]}}, "must be a finite number, not nan"),
        (TrainingConfig, {"lr_scheduler_kwargs": {"milestones": "x"}}, "needs milestones that are fractions"),
        (PruningConfig, {"num_rounds": 10**20}, "--num_rounds must be at most 1000, not a longer number"),
        (RunConfig, {"seeds": [-1]}, "--seeds must be at least 0, not -1"),
        (RunConfig, {"seeds": "0"}, "--seeds must be a list, not '0'"),
        (LayerConfig, {"pooling": "grid_999"}, "--pooling must be auto, mean, cls, or grid_1 to grid_32, not grid_999"),
        (ModelConfig, {"config_overrides": {"depths": [-1, 1, 1]}}, r"\(depths\) must not be negative"),
        (DataConfig, {"image_size": 10**9}, "--image_size must be at most 4096"),
    ],
)
def test_what_cannot_be_is_one_sentence(kind, change, message):
    with pytest.raises(ConfigError, match=message):
        kind(**VALID[kind] | change)


def test_endless_rounds_are_refused_at_once():
    with pytest.raises(ConfigError, match=r"--pruning_fraction 1e-09 needs 6\.93e\+08 rounds .*1000 are the most"):
        PruningConfig(pruning_fraction=1e-9, target_sparsity=0.5)


def test_equivalents_of_python_are_taken():
    assert RunConfig(seeds=(0, np.int64(3)), output_dir=Path("runs/x")).seeds == [0, 3]
    assert RunConfig(output_dir=Path("runs/x")).output_dir == "runs/x"
    assert TrainingConfig(learning_rate=1).learning_rate == 1.0
    assert RunConfig(output_dir="~/x").output_dir == str(Path("~/x").expanduser())
