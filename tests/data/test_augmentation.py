"""Random views: what they may show, and that they depend on their key alone."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dilt_hf.data.augmentation import Augmentation, RandomView, augment, check_policy, erase, mix
from dilt_hf.utils.errors import ConfigError


@pytest.mark.parametrize("kind", ["shift", "shift_flip", "resized_crop_flip"])
def test_views_keep_shape_and_depend_on_the_generator_alone(kind):
    images = torch.randint(0, 256, (16, 12, 12, 3), dtype=torch.uint8)
    before = images.clone()
    one, same, other = (augment(images, kind, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert one.shape == images.shape
    assert one.dtype == torch.uint8
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(images, before)


def test_shifts_are_whole_pixel_crops_of_the_reflected_image():
    images = torch.arange(8 * 8, dtype=torch.uint8).view(1, 8, 8, 1).repeat(64, 1, 1, 1)
    padded = np.pad(images[0, :, :, 0].numpy(), 1, mode="reflect")
    allowed = {padded[y : y + 8, x : x + 8].tobytes() for y in range(3) for x in range(3)}
    flipped = {np.ascontiguousarray(np.frombuffer(a, np.uint8).reshape(8, 8)[:, ::-1]).tobytes() for a in allowed}
    views = augment(images, "shift", torch.Generator().manual_seed(0))
    seen = {view[:, :, 0].numpy().tobytes() for view in views}
    assert seen <= allowed
    assert len(seen) > 5
    views = augment(images, "shift_flip", torch.Generator().manual_seed(0))
    seen = {view[:, :, 0].contiguous().numpy().tobytes() for view in views}
    assert seen <= allowed | flipped
    assert seen & allowed
    assert seen & (flipped - allowed)


def test_one_pixel_images_survive_every_view():
    for kind in ("none", "shift", "shift_flip", "resized_crop_flip"):
        view = augment(torch.full((2, 1, 1, 3), 9, dtype=torch.uint8), kind, torch.Generator())
        assert view.tolist() == [[[[9, 9, 9]]]] * 2


@pytest.mark.parametrize("kind", ["shift", "shift_flip", "resized_crop_flip"])
def test_a_share_of_a_batch_gets_the_views_that_the_whole_batch_would(kind):
    images = torch.randint(0, 256, (16, 12, 12, 3), dtype=torch.uint8)
    whole = augment(images, kind, torch.Generator().manual_seed(1))
    mine = torch.tensor([2, 3, 10, 11])
    assert torch.equal(augment(images[mine], kind, torch.Generator().manual_seed(1), 16, mine), whole[mine])


def test_erasing_replaces_one_rectangle_of_some_images_by_noise():
    pixels = torch.full((200, 3, 20, 24), 9.0)
    all_of_them = torch.arange(200)
    erased = erase(pixels.clone(), 0.25, torch.Generator().manual_seed(0), 200, all_of_them)
    hit = (erased != 9).any(1)
    touched = hit.flatten(1).any(1)
    assert 0.15 < float(touched.float().mean()) < 0.35
    for image in hit[touched]:
        rows, columns = image.any(1).nonzero().flatten(), image.any(0).nonzero().flatten()
        area = len(rows) * len(columns)
        assert bool(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())  # one full rectangle
        assert int(image.sum()) == area
        assert 0.01 < area / (20 * 24) < 0.4
    mine = torch.tensor([5, 7, 100])
    part = erase(pixels[mine].clone(), 0.25, torch.Generator().manual_seed(0), 200, mine)
    assert torch.equal(part, erased[mine])


@given(st.integers(0, 2**40), st.integers(1, 9), st.sampled_from([(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)]))
def test_mixing_keeps_as_much_of_each_image_as_its_label_says(seed, count, alphas):
    labels = torch.arange(count)
    pixels = labels.view(-1, 1, 1, 1).repeat(1, 3, 8, 8).float()
    mixed, partners, share = mix(pixels.clone(), labels, Augmentation(mixup=alphas[0], cutmix=alphas[1]), seed)
    assert 0 <= share <= 1
    expected = share * labels + (1 - share) * partners
    torch.testing.assert_close(mixed.mean((1, 2, 3)), expected.float(), atol=1e-4, rtol=1e-4)
    assert all(abs(a - b) == 1 or a == b == count - 1 for a, b in zip(labels.tolist(), partners.tolist(), strict=True))


def test_views_of_whole_images_depend_on_their_key_alone():
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    view = RandomView(16, "rand-m9-mstd0.5-inc1")
    first = view(image, 0, "partition_0", 3)
    torch.rand(5)
    np.random.rand(5)
    assert first.shape == (16, 16, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, view(image, 0, "partition_0", 3))
    assert not np.array_equal(first, view(image, 0, "partition_0", 4))


def test_views_of_whole_images_leave_the_global_generators_alone():
    """Without workers dropout draws from the same ones: a training would depend on the number of workers."""
    view, image = RandomView(8, "rand-m9-mstd0.5-inc1"), Image.new("RGB", (16, 16))

    def drawn():
        return random.random(), np.random.random(), float(torch.rand(()))

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = [drawn() for _ in range(3)]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    found = []
    for number in range(3):
        view(image, 5, "view", number)
        found.append(drawn())
    assert found == expected


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "augmix-m3-w3", "original", "v0-mstd0.5", "3a"])
def test_policies_of_timm_are_known(policy):
    check_policy(policy)
    RandomView(8, policy)(Image.new("RGB", (16, 16)), 0)


@pytest.mark.parametrize("policy", ["foo", "rand-m99-foo", "rand-m", "rand-x3", "m9", ""])
def test_misspelt_policies_are_refused(policy):
    with pytest.raises(ConfigError, match="is no policy of timm's"):
        check_policy(policy)
