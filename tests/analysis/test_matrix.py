"""All pairs of layers: what goes in, what comes out, and finished work that is found again."""

import numpy as np
import pytest
import torch

from dilt_hf.analysis import matrix
from dilt_hf.analysis.gpu import solve_together
from dilt_hf.analysis.gromov import solve
from dilt_hf.analysis.matrix import gw_matrix
from dilt_hf.analysis.spaces import MetricSpace
from dilt_hf.utils.errors import AnalysisError


def network(seed, n=40, depth=3, inputs_seed=0):
    hidden = np.random.default_rng(inputs_seed).normal(size=(n, 6))
    rng = np.random.default_rng(seed)
    layers = {}
    for index in range(depth):
        hidden = np.tanh(1.5 * hidden @ rng.normal(size=(6, 6)))
        layers[f"block_{index + 1}"] = hidden
    return layers


def same(one, other):
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


def test_every_pair_is_that_of_the_solver_however_many_threads():
    a, b = network(1), network(2, depth=2)
    one, three = gw_matrix(a, b, workers=1), gw_matrix(a, b, workers=3)
    same(one, three)
    assert one.layers_a == ("block_1", "block_2", "block_3")
    assert one.value.shape == (3, 2)
    pair = solve(MetricSpace.of(a["block_3"]), MetricSpace.of(b["block_1"]))
    assert one.value[2, 0] == pair.value
    assert one.retention[2, 0] == (pair.permutation == np.arange(40)).mean()
    assert (one.permutation[2, 0] == pair.permutation).all()
    assert ((one.floor_a > 0) & (one.floor_a < 0.1)).all()


def test_swapping_the_networks_transposes():
    a, b = network(1), network(2)
    there, back = gw_matrix(a, b), gw_matrix(b, a)
    np.testing.assert_array_equal(there.value, back.value.T)
    np.testing.assert_array_equal(there.lower_bound, back.lower_bound.T)


def test_a_network_with_itself():
    a = network(1)
    own, both = gw_matrix(a), gw_matrix(a, a)
    assert (own.diagonal == 0).all()
    np.testing.assert_array_equal(own.value, own.value.T)
    np.testing.assert_allclose(own.value, both.value, atol=1e-12)


def test_the_batched_path_agrees_with_the_other():
    """On the CPU: the same code that runs on a GPU, where only the device differs."""
    a, b = network(1), network(2)
    spaces = [(MetricSpace.of(x), MetricSpace.of(y)) for x in a.values() for y in b.values()]
    for tier in ("fast", "default"):
        found = dict(solve_together(spaces, tier, True, torch.device("cpu"), workers=2))
        assert [found[k].value for k in range(9)] == pytest.approx([solve(*each, tier=tier).value for each in spaces])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_cpu():
    a, b = network(1, n=300), network(2, n=300)
    np.testing.assert_allclose(gw_matrix(a, b, device="cuda").value, gw_matrix(a, b).value, rtol=0.02)


def test_finished_pairs_are_found_again(tmp_path, monkeypatch):
    a, b = network(1), network(2)
    first = gw_matrix(a, b, resume_in=tmp_path)
    monkeypatch.setattr(matrix, "solve", None)
    same(first, gw_matrix(a, b, resume_in=tmp_path))
    with pytest.raises(TypeError):
        gw_matrix(a, b, tier="fast", resume_in=tmp_path)  # another tier is other work


def test_an_interrupted_computation_goes_on_with_the_next_block(tmp_path, monkeypatch):
    a, b = network(1), network(2)
    whole = gw_matrix(a, b)
    monkeypatch.setattr(matrix, "BLOCK", 2)
    calls = []

    def failing(*spaces, **options):
        calls.append(spaces)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return solve(*spaces, **options)

    monkeypatch.setattr(matrix, "solve", failing)
    with pytest.raises(KeyboardInterrupt):
        gw_matrix(a, b, resume_in=tmp_path, workers=1)
    calls.clear()
    monkeypatch.setattr(matrix, "solve", lambda *spaces, **options: calls.append(spaces) or solve(*spaces, **options))
    same(whole, gw_matrix(a, b, resume_in=tmp_path, workers=1))
    assert len(calls) == 9 + 6 - 4  # pairs and floors, less two finished blocks


def test_a_dead_layer_is_a_row_of_nan():
    a, b = network(1), network(2)
    a["block_2"] = np.full((40, 7), 3.0)
    found = gw_matrix(a, b)
    assert (found.constant_a, found.constant_b) == (("block_2",), ())
    assert np.isnan(found.value[1]).all()
    assert np.isnan(found.floor_a[1])
    assert (found.permutation[1] == -1).all()
    assert np.isfinite(found.value[[0, 2]]).all()
    own = gw_matrix(a)
    assert np.isnan(own.value[1, 1])
    assert own.value[0, 0] == 0


def test_networks_of_different_depth_have_no_diagonal():
    with pytest.raises(AnalysisError, match="3 and 2 layers"):
        _ = gw_matrix(network(1), network(2, depth=2), tier="fast").diagonal


def test_pot_takes_what_is_not_n_equal_points():
    import ot

    a, b = network(1, depth=1), network(2, depth=1)
    fewer = {name: points[:30] for name, points in b.items()}
    found = gw_matrix(a, fewer, paired=False)
    one, other = (MetricSpace.of(layers["block_1"]).distances for layers in (a, fewer))
    log = ot.gromov.gromov_wasserstein(one, other, ot.unif(40), ot.unif(30), "square_loss", log=True)[1]
    assert found.value[0, 0] == pytest.approx(float(log["gw_dist"]), rel=1e-3)
    assert 0 < found.lower_bound[0, 0] <= found.value[0, 0]
    assert matrix.WINNERS[found.start[0, 0]] == "POT"
    weights = np.linspace(1, 2, 40) / np.linspace(1, 2, 40).sum()
    weighted = gw_matrix(a, b, weights_a=weights, weights_b=weights)
    assert weighted.value[0, 0] <= weighted.identity[0, 0]
    assert np.isfinite(gw_matrix(a, b, metric="chebyshev").value).all()
    for metric in matrix.NEGATIVE_TYPE:
        assert matrix.WINNERS[gw_matrix(a, b, metric=metric).start[0, 0]] != "POT"


def broken(change):
    layers = network(1)
    layers["block_2"] = change(layers["block_2"].copy())
    return layers


def put(value):
    def change(points):
        points[7, 2] = value
        return points

    return change


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: (broken(put(np.nan)), network(2)), "layer 'block_2' of network a is not finite at probe 7"),
        (lambda: (network(2), broken(put(np.inf))), "layer 'block_2' of network b is not finite at probe 7"),
        (lambda: (broken(lambda x: x[:, :, None]), network(2)), r"shape \(40, 6, 1\); pool it"),
        (lambda: (broken(lambda x: x[:39]), network(2)), "network a have unequal numbers of probes"),
        (lambda: (network(1, n=1), network(2, n=1)), "network a has 1 probe"),
        (lambda: (network(1), network(2, n=30)), "network a has 40 probes and network b 30"),
        (lambda: ({}, network(2)), "network a has no layers"),
        (lambda: (broken(lambda x: x[:, :0]), network(2)), "'block_2' of network a cannot be compared: its shape"),
    ],
)
def test_bad_representations_are_named(arguments, message):
    with pytest.raises(AnalysisError, match=message):
        gw_matrix(*arguments())


def test_bad_settings_are_named():
    a = network(1)
    with pytest.raises(AnalysisError, match="weights_a must be 40 positive numbers that sum to 1"):
        gw_matrix(a, a, weights_a=np.ones(40))
    with pytest.raises(AnalysisError, match="'distant' is no metric"):
        gw_matrix(a, a, metric="distant")
    with pytest.raises(AnalysisError, match="workers must be at least 1, not -1"):
        gw_matrix(a, a, workers=-1)
    with pytest.raises(AnalysisError, match="no tier 'best'"):
        gw_matrix(a, a, tier="best")


def test_half_precision_is_compared_in_full():
    layers = {name: torch.from_numpy(points).to(torch.bfloat16) for name, points in network(1).items()}
    full = {name: points.float() for name, points in layers.items()}
    same(gw_matrix(layers, tier="fast"), gw_matrix(full, tier="fast"))


def test_one_dead_layer_does_not_make_the_other_dead():
    dead, alive = {"x": np.ones((9, 2))}, {"y": np.random.default_rng(0).normal(size=(9, 2))}
    found = gw_matrix(alive, dead)
    assert (found.constant_a, found.constant_b) == ((), ("x",))
    assert gw_matrix({name: points[:3] for name, points in alive.items()}).value[0, 0] == 0


def test_probes_at_one_place_are_counted():
    a = network(1)
    a["block_2"][3] = a["block_2"][5]
    assert gw_matrix(a, tier="fast").coincident_a.tolist() == [0, 2, 0]


def test_near_duplicates_do_not_keep_it_from_ending():
    """Collapsed classes: distances within one are rounding of those between."""
    rng = np.random.default_rng(0)
    centres = 100 * rng.normal(size=(2, 10, 8))[:, rng.integers(0, 10, 200)]
    a, b = (points + 1e-2 * rng.normal(size=(200, 8)) for points in centres)
    for tier in ("fast", "default"):
        assert gw_matrix({"x": a}, {"x": b}, tier=tier).steps.max() < 120


def test_pot_on_paired_probes_is_not_above_the_identity():
    a = network(1)
    b = {name: points + 0.2 * np.random.default_rng(0).normal(size=points.shape) for name, points in a.items()}
    found = gw_matrix(a, b, metric="chebyshev")
    assert (found.value <= found.identity + 1e-9).all()
    own = gw_matrix(a, metric="chebyshev")
    assert (own.permutation[1, 0] == -1).all()
    np.testing.assert_array_equal(own.value, own.value.T)
    weights = np.linspace(1, 2, 40) / np.linspace(1, 2, 40).sum()
    weighted = gw_matrix(a, weights_a=weights)
    assert (np.diagonal(weighted.value) == 0).all()
    np.testing.assert_allclose(weighted.value, gw_matrix(a, a, weights_a=weights, weights_b=weights).value, atol=1e-6)
    with pytest.raises(AnalysisError, match="weights_b belongs to a second network"):
        gw_matrix(a, weights_b=weights)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_pairs_are_not_believed(tmp_path, damage):
    gw_matrix(network(1), tier="fast", resume_in=tmp_path)
    for path in tmp_path.glob("gw-*/pairs.safetensors"):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content[:-9] if damage == "truncated" else content)
        if damage == "missing":
            path.unlink()
    with pytest.raises((AnalysisError, OSError), match=r"damaged|delete|lacks"):
        gw_matrix(network(1), tier="fast", resume_in=tmp_path)
