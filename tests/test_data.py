"""From any source to splits to batches."""

import dataclasses

import datasets
import numpy as np
import pytest
import torch
from conftest import encoded
from PIL import Image

from dilt_hf import data, images
from dilt_hf.augmentation import Augmentation
from dilt_hf.config import DataConfig
from dilt_hf.errors import DataError
from dilt_hf.splits import Split, Splits, load_splits

CPU = torch.device("cpu")
SHIFT = Augmentation("shift")


def table(rows=12, classes=3, label="label", **more):
    pictures = [Image.new("RGB", (10, 10), (20 * i, 0, 0)) for i in range(rows)]
    features = {"image": datasets.Image(), label: datasets.ClassLabel(names=[f"c{i}" for i in range(classes)])}
    columns = {"image": pictures, label: [i % classes for i in range(rows)], **more}
    for name, values in more.items():
        features[name] = datasets.ClassLabel(num_classes=2) if name == "coarse" else datasets.Value("string")
        columns[name] = values
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def parquet(folder, **tables):
    for name, content in tables.items():
        content.to_parquet(folder / f"{name}.parquet")
    return DataConfig(**{f"{name}_files": [str(folder / f"{name}.parquet")] for name in tables})


def all_rows(splits):
    return [row for _, split in splits.items() for row in split.labels]


def test_digits_are_split_apart_by_class():
    splits = load_splits(DataConfig(dataset_name="digits"))
    assert len(all_rows(splits)) == 1797
    assert splits.class_names == tuple("0123456789")
    for _, split in splits.items():
        assert np.bincount(split.labels, minlength=10).min() >= len(split) / 10 * 0.7
    again = load_splits(DataConfig(dataset_name="digits"))
    assert np.array_equal(splits.validation.labels, again.validation.labels)


def test_no_row_is_in_two_splits():
    config = DataConfig(dataset_name="digits")
    splits = load_splits(config)
    opened = data.open_images(splits, config, 8, 1, CPU, progress=False)
    seen = [{p.numpy().tobytes() for p in opened[name].pictures} for name in ("train", "validation", "test")]
    unique = len({p.numpy().tobytes() for name in opened for p in opened[name].pictures})
    assert sum(map(len, seen)) == unique  # the 1797 pictures are distinct


def test_an_image_folder_opens_unchanged(picture_folder):
    config = DataConfig(train_dir=str(picture_folder / "train"), test_dir=str(picture_folder / "test"))
    splits = load_splits(config)
    assert splits.class_names == ("dark", "light", "mid")
    assert [len(split) for _, split in splits.items()] == [33, 3, 12]
    assert data.choose_image_size(splits, config) == 28
    opened = data.open_images(splits, config, 28, 1, CPU, progress=False)
    brightness = [opened["test"].pictures[splits.test.labels == c].float().mean() for c in range(3)]
    assert brightness[0] < brightness[2] < brightness[1]  # dark < mid < light, so pictures and labels belong together


def test_a_lone_validation_split_is_the_test_split(tmp_path):
    splits = load_splits(parquet(tmp_path, train=table(60), validation=table(9)))
    assert len(splits.test) == 9
    assert len(splits.validation) == 6
    assert len(splits.train) == 54


def test_given_validation_and_test_splits_are_kept(tmp_path):
    splits = load_splits(parquet(tmp_path, train=table(60), validation=table(9), test=table(6)))
    assert [len(split) for _, split in splits.items()] == [60, 9, 6]


def test_an_unlabelled_test_split_is_not_used(tmp_path):
    hidden = table(6).remove_columns("label").add_column("label", [-1] * 6)
    hidden = hidden.cast_column("label", table(3).features["label"])
    splits = load_splits(parquet(tmp_path, train=table(60), validation=table(9), test=hidden))
    assert len(splits.test) == 9
    assert (splits.test.labels >= 0).all()


def test_a_test_row_without_a_known_class_is_refused_and_the_split_not_dropped(tmp_path):
    kinds = ["pear", "apple"] * 15
    tables = {
        "train": table(30, kind=kinds),
        "validation": table(6, kind=kinds[:6]),
        "test": table(4, kind=["apple", "pear", "apple", "Apple"]),
    }
    config = parquet(tmp_path, **tables)
    with pytest.raises(DataError, match=r"row 3 of the test split has no class"):
        load_splits(dataclasses.replace(config, label_column_name="kind"))


def test_a_set_without_training_rows_is_refused(monkeypatch):
    monkeypatch.setattr(data, "_open_tables", lambda config: ({"test": table(20)}, "made up"))
    with pytest.raises(DataError, match="made up has no train split"):
        load_splits(DataConfig(dataset_name="x"))


def test_two_class_columns_must_be_told_apart(tmp_path):
    config = parquet(tmp_path, train=table(30, coarse=[0, 1] * 15), test=table(6, coarse=[0, 1] * 3))
    with pytest.raises(DataError, match=r"2 class columns \(label, coarse\).*--label_column_name"):
        load_splits(config)
    chosen = DataConfig(train_files=config.train_files, test_files=config.test_files, label_column_name="coarse")
    assert load_splits(chosen).class_names == ("0", "1")


def test_text_labels_work_when_named(tmp_path):
    names = ["pear", "apple"] * 15
    config = parquet(tmp_path, train=table(30, kind=names), test=table(6, kind=names[:6]))
    chosen = DataConfig(train_files=config.train_files, test_files=config.test_files, label_column_name="kind")
    splits = load_splits(chosen)
    assert splits.class_names == ("apple", "pear")
    assert splits.test.labels.tolist() == [1, 0, 1, 0, 1, 0]


def test_limits_take_rows_evenly_from_every_class(tmp_path):
    config = parquet(tmp_path, train=table(90), test=table(30))
    limited = DataConfig(
        train_files=config.train_files, test_files=config.test_files, max_train_samples=30, max_eval_samples=6
    )
    splits = load_splits(limited)
    assert np.bincount(splits.test.labels).tolist() == [2, 2, 2]
    assert len(splits.train) + len(splits.validation) == 30


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"train": table(30)}, "no labelled validation or test split"),
        ({"train": table(3), "test": table(3)}, "no class has enough rows"),
        ({name: table(30).remove_columns("label") for name in ("train", "test")}, "no class column"),
        ({name: table(30).remove_columns("image") for name in ("train", "test")}, "no picture column"),
    ],
)
def test_unusable_tables_are_one_clear_error(tmp_path, tables, message):
    with pytest.raises(DataError, match=message):
        load_splits(parquet(tmp_path, **tables))


def test_splits_whose_class_ids_differ_in_meaning_are_refused():
    with pytest.raises(DataError, match="different classes"):
        data._labels({"train": table(30), "test": table(6, classes=2)}, "label", "train")


def test_missing_folders_and_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        load_splits(DataConfig(train_dir=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"there is no file .*none\.parquet"):
        load_splits(DataConfig(train_files=[str(tmp_path / "none.parquet")]))


def broken_table():
    good = encoded(Image.new("RGB", (4, 4)))
    cells = [good] * 20
    cells[13] = {"bytes": b"not a picture", "path": None}
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(num_classes=2)})
    made = datasets.Dataset.from_dict({"image": cells, "label": [0, 1] * 10}, features=features)
    return made.cast_column("image", datasets.Image())


@pytest.mark.parametrize(("resident", "workers"), [(True, 0), (False, 0), (False, 1)])
def test_a_corrupt_picture_is_one_error_that_names_the_row(resident, workers):
    split = Split("train", broken_table(), "image", np.array([0, 1] * 10), "train", np.arange(100, 120))
    splits = Splits(split, split, split, ("a", "b"), "made up")
    config = DataConfig(dataset_name="x", max_resident_gb=1.0 if resident else 0.0, dataloader_num_workers=workers)

    def read():
        opened = data.open_images(splits, config, 4, 3, CPU, progress=False)
        list(opened["train"].batches(torch.arange(20), 4))

    with pytest.raises(DataError, match=r"^row 113 of the train split cannot be decoded"):
        read()


def test_streamed_and_resident_pictures_are_the_same():
    config = DataConfig(dataset_name="digits", max_train_samples=60, max_eval_samples=30)
    splits = load_splits(config)
    resident = data.open_images(splits, config, 8, 3, CPU, progress=False)["train"]
    streamed = data.StreamedImages(splits.train, 8, 3, workers=2, device=CPU)
    rows = torch.tensor([5, 3, 40, 3, 0])
    for (a, x), (b, y) in zip(resident.batches(rows, 2), streamed.batches(rows, 2), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(x, y)


def test_an_epoch_shuffles_by_its_generator_and_can_be_entered_midway():
    config = DataConfig(dataset_name="digits", max_train_samples=60, max_eval_samples=30)
    splits = load_splits(config)
    source = data.open_images(splits, config, 8, 3, CPU, progress=False)["train"]
    normalize = images.Normalize([0.5], [0.5], 3, CPU)

    def run(seed, **part):
        return list(data.epoch(source, torch.arange(len(splits.train)), 10, normalize, SHIFT, (seed,), **part))

    whole, again, other = run(1), run(1), run(2)
    assert len(whole) == data.steps_per_epoch(len(splits.train), 10) == 5
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
    assert float(pixels.min()) >= -1
    assert float(pixels.max()) <= 1


def test_fingerprints_follow_content_not_place(tmp_path):
    def fingerprint(content, name):
        (tmp_path / name).mkdir()
        config = parquet(tmp_path / name, train=content, test=table(6))
        splits = load_splits(config)
        return data.fingerprint(splits.train, data.open_images(splits, config, 8, 3, CPU, False)["train"])

    changed = table(60).map(lambda row, i: {"image": Image.new("RGB", (10, 10))} if i == 5 else row, with_indices=True)
    assert fingerprint(table(60), "a") == fingerprint(table(60), "b")
    assert fingerprint(table(60), "c") != fingerprint(changed, "d")
