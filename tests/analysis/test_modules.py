"""Spectral clustering of layers: planted modules, names, stability, and what cannot be clustered."""

import numpy as np
import pytest
import torch
from helpers.layers import PLANTED, planted
from sklearn.metrics import adjusted_rand_score

from dilt_hf.analysis.joint import joint_gw
from dilt_hf.analysis.modules import (
    affinity_of,
    cluster,
    contiguity,
    cross_affinity,
    eigengaps,
    find_modules,
    kinds_of,
    name_modules,
    propose,
)
from dilt_hf.utils.errors import AnalysisError


@pytest.fixture(scope="module")
def clear():
    return joint_gw(planted(0.2), tier="fast")


def test_planted_modules_are_found_named_and_trusted(clear):
    modules = find_modules(clear.values, 2, 3, list(clear.halves))
    assert adjusted_rand_score(PLANTED.ravel(), modules.labels.ravel()) == 1
    assert modules.names == ("shared", "private-0", "private-1")
    assert modules.stability == 1
    assert modules.trusted
    assert modules.contiguity == 1
    assert modules.layers_of(1) == [3, 4, 5]
    proposal = propose(clear.values, 2, list(clear.halves))
    assert proposal.k == 3
    assert proposal.trusted
    assert modules.separation == proposal.separation[3] > 1.5
    assert sum(proposal.gap.values()) <= 1


def test_a_smooth_chain_of_layers_has_no_modules():
    rng = np.random.default_rng(0)
    hidden, chain = rng.normal(size=(60, 8)), {}
    for layer in range(8):
        chain[f"layer_{layer}"] = torch.from_numpy(hidden)
        hidden = hidden + 0.5 * rng.normal(size=(60, 8))
    joint = joint_gw({"a": chain, "b": {name: points + 0.01 for name, points in chain.items()}}, tier="fast")
    proposal = propose(joint.values, 2, list(joint.halves))
    assert max(proposal.stability.values()) > 0.8
    assert not proposal.trusted


def test_noise_is_not_trusted():
    joint = joint_gw(planted(6.0), tier="fast")
    assert not find_modules(joint.values, 2, 3, list(joint.halves)).trusted


def test_on_all_probes_the_couplings_give_the_values_found():
    """The half samples rest on this: the value of a coupling from cosines is the value of the pair."""
    from dilt_hf.analysis.joint import _coupled
    from dilt_hf.analysis.spaces import MetricSpace

    layers = planted(0.5)
    joint = joint_gw(layers, tier="fast")
    one, other = (MetricSpace.of(layers[name]["layer_4"].numpy()) for name in ("a", "b"))
    matrix = joint.pairs["a", "b"]
    whole = _coupled(one.distances, other.distances, matrix.permutation[4, 4], np.ones((1, 60)))
    assert whole[0] == pytest.approx(matrix.value[4, 4])


def test_the_joint_matrix(clear):
    assert clear.values.shape == (12, 12)
    np.testing.assert_array_equal(clear.values, clear.values.T)
    assert (np.diagonal(clear.values) == 0).all()
    np.testing.assert_array_equal(clear.values[:6, 6:], clear.pairs["a", "b"].value)
    np.testing.assert_array_equal(clear.diagonal(), clear.pairs["a", "b"].diagonal)
    assert clear.halves.shape == (20, 12, 12)
    three = joint_gw(planted(0.2) | {"c": planted(0.2, seed=1)["a"]}, tier="fast", halves=2)
    assert len(three.between()) == 3
    assert three.values.shape == (18, 18)


def test_the_literal_form_and_its_affinity(clear):
    affinity = cross_affinity(clear.pairs["a", "b"].value)
    np.testing.assert_array_equal(affinity, affinity.T)
    assert len(set(cluster(affinity, 2)[:3])) == 1
    literal = find_modules(clear.values, 2, 2, list(clear.halves), form="cross")
    np.testing.assert_array_equal(literal.labels[0], literal.labels[1])
    assert len(set(literal.labels[0, :3])) == 1
    assert propose(clear.values, 2, list(clear.halves), form="cross").k >= 2
    own = affinity_of(clear.values)
    assert (np.diagonal(own) == 1).all()
    assert own.min() > 0


def test_the_gap_is_after_the_number_of_separate_groups():
    apart = np.kron(np.eye(3), np.ones((4, 4))) + 1e-6
    assert int(np.argmax(eigengaps(apart))) + 1 == 3


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([[0, 0, 1, 1], [0, 0, 1, 1]], ("early-shared", "late-shared")),
        ([[0, 1, 1, 2], [0, 1, 1, 3]], ("early-shared", "late-shared", "private-0", "private-1")),
        ([[0, 1, 0, 2], [0, 3, 0, 3]], ("shared", "private-0-block-1", "private-0-block-2", "private-1")),
        ([[0, 0, 1, 1], [1, 1, 0, 0]], ("early-mixed", "late-mixed")),
        ([[0, 1, 2, 3], [0, 1, 2, 3]], ("shared-1", "shared-2", "shared-3", "shared-4")),
        ([[-1, 0, 1], [-1, 0, 2]], ("shared", "private-0", "private-1")),
        ([[-1, -1, 1], [0, 0, 1]], ("unpaired", "shared")),
    ],
)
def test_names(labels, names):
    found = name_modules(np.array(labels))
    if "mixed" in names[0]:
        assert sorted(found) == sorted(names)
    else:
        assert found == names


def test_kinds_and_contiguity():
    assert kinds_of(PLANTED) == ["shared", "private", "private"]
    assert contiguity(np.array([[0, 1, 0, 1]])) == pytest.approx(1 / 3)
    assert contiguity(np.array([[-1, 0, 0]])) == 1


def test_what_cannot_be_clustered(clear):
    with pytest.raises(AnalysisError, match="12 layers cannot be split into 13 modules"):
        find_modules(clear.values, 2, 13)
    with pytest.raises(AnalysisError, match=r"shape \(12, 12\) does not hold the pairs of 5 networks"):
        find_modules(clear.values, 5, 2)
    with pytest.raises(AnalysisError, match="no form of clustering 'other'"):
        find_modules(clear.values, 2, 2, form="other")
    with pytest.raises(AnalysisError, match="half of the layers are equal"):
        affinity_of(np.zeros((4, 4)))
    with pytest.raises(AnalysisError, match="all layers are equal"):
        cross_affinity(np.zeros((4, 4)))
    with pytest.raises(AnalysisError, match="2 layers are too few"):
        propose(np.array([[0, 1], [1, 0.0]]), 2, [np.zeros((2, 2))])
    assert np.isnan(find_modules(clear.values, 2, 3).stability)


def test_dead_layers_are_in_no_module(clear):
    values = clear.values.copy()
    values[2], values[:, 2] = np.nan, np.nan
    assert find_modules(values, 2, 3).labels[0, 2] == -1


def test_halves_that_hold_one_point_only_are_left_out():
    layers = planted(0.2)
    layers["a"]["layer_0"] = torch.zeros(60, 8, dtype=torch.float64)
    layers["a"]["layer_0"][7] = 1.0
    joint = joint_gw(layers, tier="fast")
    assert np.isnan(joint.halves).any()
    assert np.isfinite(find_modules(joint.values, 2, 3, list(joint.halves)).stability)
    assert propose(joint.values, 2, list(joint.halves)).k >= 2


def test_networks_that_cannot_be_joined():
    layers = planted(0.2)
    with pytest.raises(AnalysisError, match="at least two networks"):
        joint_gw({"a": layers["a"]})
    with pytest.raises(AnalysisError, match="modules need one of the metrics euclidean"):
        joint_gw(layers, metric="chebyshev")
    del layers["b"]["layer_5"]
    with pytest.raises(AnalysisError, match=r"do not have the same layers \({'a': 6, 'b': 5}\)"):
        joint_gw(layers)
