"""From splits to batches on the device."""

import datasets
import numpy as np
import pytest
import torch
from helpers.crew import prepared
from helpers.small import encoded
from helpers.tables import parquet, table
from PIL import Image

from dilt_hf.config.data import DataConfig
from dilt_hf.data import decoding, loader
from dilt_hf.data.augmentation import Augmentation
from dilt_hf.data.splits import Split, Splits, load_splits
from dilt_hf.utils.errors import ConfigError, DataError

pytestmark = pytest.mark.xdist_group("processes")
CPU = torch.device("cpu")
SHIFT = Augmentation("shift")


def test_an_image_folder_opens_unchanged(image_folder):
    config = DataConfig(train_dir=str(image_folder / "train"), test_dir=str(image_folder / "test"))
    splits = load_splits(config)
    assert splits.class_names == ("dark", "light", "mid")
    assert [len(split) for _, split in splits.items()] == [33, 3, 12]
    assert loader.choose_image_size(splits, config) == 28
    opened = loader.open_images(splits, config, 28, 1, CPU, progress=False)
    brightness = [opened["test"].pixels[splits.test.labels == c].float().mean() for c in range(3)]
    assert brightness[0] < brightness[2] < brightness[1]  # dark < mid < light, so images and labels belong together


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"train": table(30)}, "no labelled validation or test split"),
        ({"train": table(3), "test": table(3)}, "no class has enough rows"),
        ({name: table(30).remove_columns("label") for name in ("train", "test")}, "no class column"),
        ({name: table(30).remove_columns("image") for name in ("train", "test")}, "no image column"),
    ],
)
def test_unusable_tables_are_one_clear_error(tmp_path, tables, message):
    with pytest.raises(DataError, match=message):
        load_splits(parquet(tmp_path, **tables))


def broken_table():
    good = encoded(Image.new("RGB", (4, 4)))
    cells = [good] * 20
    cells[13] = {"bytes": b"not an image", "path": None}
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(num_classes=2)})
    made = datasets.Dataset.from_dict({"image": cells, "label": [0, 1] * 10}, features=features)
    return made.cast_column("image", datasets.Image())


@pytest.mark.parametrize(
    ("resident", "workers"), [(True, 0), (False, 0), pytest.param(False, 1, marks=pytest.mark.slow)]
)
def test_a_corrupt_image_is_one_error_that_names_the_row(resident, workers):
    if workers:
        prepared()
    split = Split("train", broken_table(), "image", np.array([0, 1] * 10), "train", np.arange(100, 120))
    splits = Splits(split, split, split, ("a", "b"), "made up")
    config = DataConfig(dataset_name="x", max_resident_gb=1.0 if resident else 0.0, dataloader_num_workers=workers)

    def read():
        opened = loader.open_images(splits, config, 4, 3, CPU, progress=False)
        list(opened["train"].batches(torch.arange(20), 4))

    with pytest.raises(DataError, match=r"^row 113 of the train split cannot be decoded"):
        read()


@pytest.mark.slow
def test_streamed_and_resident_images_are_the_same():
    prepared()
    config = DataConfig(dataset_name="digits", max_train_samples=60, max_eval_samples=30)
    splits = load_splits(config)
    resident = loader.open_images(splits, config, 8, 3, CPU, progress=False)["train"]
    streamed = loader.StreamedImages(splits.train, 8, 3, workers=2, device=CPU)
    rows = torch.tensor([5, 3, 40, 3, 0])
    for (a, x), (b, y) in zip(resident.batches(rows, 2), streamed.batches(rows, 2), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(x, y)


def test_an_epoch_shuffles_by_its_generator_and_can_be_entered_midway():
    config = DataConfig(dataset_name="digits", max_train_samples=60, max_eval_samples=30)
    splits = load_splits(config)
    source = loader.open_images(splits, config, 8, 3, CPU, progress=False)["train"]
    normalize = decoding.Normalize([0.5], [0.5], 3, CPU)
    feed = loader.Feed(source, torch.arange(len(splits.train)), normalize, SHIFT)

    def run(seed, **part):
        return list(loader.epoch(feed, 10, (seed,), **part))

    whole, again, other = run(1), run(1), run(2)
    assert len(whole) == loader.steps_per_epoch(len(splits.train), 10) == 5
    assert all(
        torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels) for a, b in zip(whole, again, strict=True)
    )
    assert not all(torch.equal(a.pixels, b.pixels) for a, b in zip(whole, other, strict=True))
    midway = run(1, first=2, last=4)
    assert len(midway) == 2
    assert torch.equal(midway[0][0], whole[2][0])
    pixels = whole[0][0]
    assert pixels.shape == (10, 3, 8, 8)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert float(pixels.abs().max()) == pytest.approx(1)


def test_fingerprints_follow_content_not_place(tmp_path):
    def fingerprint(content, name):
        (tmp_path / name).mkdir()
        config = parquet(tmp_path / name, train=content, test=table(6))
        splits = load_splits(config)
        return loader.fingerprint(splits.train, loader.open_images(splits, config, 8, 3, CPU, progress=False)["train"])

    changed = table(60).map(lambda row, i: {"image": Image.new("RGB", (10, 10))} if i == 5 else row, with_indices=True)
    assert fingerprint(table(60), "a") == fingerprint(table(60), "b")
    assert fingerprint(table(60), "c") != fingerprint(changed, "d")


@pytest.mark.slow
def test_a_share_of_a_streamed_epoch_is_that_share_of_the_whole():
    """Random views are drawn by the workers, per image: whoever decodes it, it looks the same."""
    prepared()
    config = DataConfig(dataset_name="digits", max_train_samples=60, max_eval_samples=30)
    split = load_splits(config).train
    normalize = decoding.Normalize([0.5], [0.5], 3, CPU)
    crops = Augmentation("resized_crop_flip", auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5)

    def run(workers, **part):
        source = loader.StreamedImages(
            split, 16, 3, workers=workers, device=CPU, persistent=True, auto_augment=crops.auto_augment
        )
        feed = loader.Feed(source, torch.arange(len(split)), normalize, crops)
        return [list(loader.epoch(feed, 12, ("k", turn), **part)) for turn in (0, 1)]

    whole = run(0)
    mine = loader.shares(12, passes=2, processes=2)[1]
    for theirs, share in ((run(2), torch.arange(12)), (run(2, mine=torch.cat(mine)), torch.cat(mine))):
        for turn in (0, 1):
            assert len(whole[turn]) == len(theirs[turn]) == 4
            for one, other in zip(whole[turn], theirs[turn], strict=True):
                assert torch.equal(one.labels[share], other.labels)
                assert torch.equal(one.pixels[share], other.pixels)
    midway = run(2, first=2, last=3)
    assert torch.equal(midway[0][0].pixels, whole[0][2].pixels)
    assert not torch.equal(whole[0][0].pixels, whole[1][0].pixels)


def test_shares_are_all_images_each_once_and_passes_do_not_depend_on_members():
    for size, passes, members in ((8, 2, 2), (9, 2, 3), (7, 3, 1), (16, 1, 4)):
        by_member = loader.shares(size, passes, members)
        alone = loader.shares(size, passes, 1)[0]
        for number in range(passes):
            together = torch.cat([member[number] for member in by_member])
            assert torch.equal(together, alone[number])
        assert torch.equal(torch.cat(alone), torch.arange(size))


def test_policies_need_images_that_workers_decode():
    config = DataConfig(dataset_name="digits", augmentation="resized_crop_flip", auto_augment="rand-m9-mstd0.5-inc1")
    with pytest.raises(ConfigError, match="--max_resident_gb 0"):
        loader.open_images(load_splits(config), config, 8, 3, CPU, progress=False)


def test_images_that_are_in_two_splits_are_counted(caplog):
    def opened(shared):
        images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(40)]
        test = images[:shared] + [Image.new("RGB", (8, 8), (0, 0, i + 1)) for i in range(10 - shared)]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        tables = {
            name: datasets.Dataset.from_dict({"image": each, "label": [i % 2 for i in range(len(each))]}, features)
            for name, each in (("train", images), ("test", test))
        }
        parts = {
            name: Split(name, table, "image", np.array(table["label"]), name, np.arange(len(table)))
            for name, table in tables.items()
        }
        splits = Splits(parts["train"], parts["test"], parts["test"], ("a", "b"), "pets")
        return loader.open_images(splits, DataConfig(dataset_name="pets"), 8, 3, CPU, progress=False)

    opened(0)
    assert not caplog.records
    opened(3)
    assert "3 of the 10 images of the test split of pets are training images too" in caplog.text
    with pytest.raises(DataError, match="all 10 images of the validation split are training images too"):
        opened(10)


def test_one_dot_is_not_the_size_of_all_images():
    table = datasets.Dataset.from_dict({"image": [Image.new("L", (1, 1))]}).cast_column("image", datasets.Image())
    split = Split("train", table, "image", np.zeros(1, np.int64), "train", np.arange(1))
    splits = Splits(split, split, split, ("a", "b"), "dots")
    with pytest.raises(DataError, match=r"row 0 of the train split is 1 pixel.* pass --image_size"):
        loader.choose_image_size(splits, DataConfig(dataset_name="dots"))
    assert loader.choose_image_size(splits, DataConfig(dataset_name="dots", image_size=16)) == 16
