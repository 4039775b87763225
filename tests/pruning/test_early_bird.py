"""A mask has settled when it has been nearly the same for five epochs."""

import torch

from dilt_hf.pruning.early_bird import WINDOW, EarlyBird

BEFORE = {"w": torch.arange(100) < 80}  # 80 weights are left before the round


def ranked(first):
    """Weights of which `first`, `first` + 1, … are the largest; those that are gone are larger still."""
    weights = -torch.arange(100.0).roll(first).abs()
    return {"w": weights - 200}


def masks_drawn_from(offsets, threshold=0.1, kept=40):
    bird = EarlyBird(BEFORE, kept, threshold)
    return [bird({"w": (torch.arange(100) - offset - 20.0).abs().neg().exp()}) for offset in offsets]


def test_a_mask_that_stays_settles_after_five_looks():
    assert masks_drawn_from([20] * 6) == [False] * 4 + [True] * 2


def test_a_mask_that_wanders_does_not():
    assert not any(masks_drawn_from([0, 5, 10, 15, 20, 25, 30]))


def test_it_is_the_farthest_pair_of_the_last_five_that_counts():
    # one step moves 2 of the 80 weights (one in, one out): after four steps the ends differ in 8, which is 0.1
    assert masks_drawn_from([10, 11, 12, 13, 14], threshold=0.1)[-1] is False
    assert masks_drawn_from([10, 11, 12, 13, 14], threshold=0.101)[-1] is True
    assert masks_drawn_from([30, 11, 12, 13, 14, 14], threshold=0.101)[-2:] == [False, True]


def test_its_memory_is_five_masks():
    bird = EarlyBird(BEFORE, 40, 0.1)
    for _ in range(8):
        bird({"w": torch.rand(100)})
    assert len(bird.state) == WINDOW
