"""From any source to three splits of labelled rows."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.tables import parquet, table

from dilt_hf.config.data import DataConfig
from dilt_hf.data import splits as splits_module
from dilt_hf.data.classes import read_labels
from dilt_hf.data.loader import open_images
from dilt_hf.data.splits import load_splits
from dilt_hf.utils.errors import DataError


def all_rows(splits):
    return [row for _, split in splits.items() for row in split.labels]


def test_digits_are_built_in_whatever_lies_in_the_folder_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "results.jsonl").write_text('{"a": 1}\n{"a": "b"}\n')
    monkeypatch.chdir(tmp_path)
    assert load_splits(DataConfig(dataset_name="digits")).source == "scikit-learn's digits"


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
    opened = open_images(splits, config, 8, 1, torch.device("cpu"), progress=False)
    seen = [{p.numpy().tobytes() for p in opened[name].pixels} for name in ("train", "validation", "test")]
    unique = len({p.numpy().tobytes() for name in opened for p in opened[name].pixels})
    assert sum(map(len, seen)) == unique  # the 1797 images are distinct


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
    monkeypatch.setattr(splits_module, "open_source", lambda config: ({"test": table(20)}, "made up"))
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


def test_splits_whose_class_ids_differ_in_meaning_are_refused():
    with pytest.raises(DataError, match="different classes"):
        read_labels({"train": table(30), "test": table(6, classes=2)}, "label", "train")


def test_missing_folders_and_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        load_splits(DataConfig(train_dir=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"there is no file .*none\.parquet"):
        load_splits(DataConfig(train_files=[str(tmp_path / "none.parquet")]))


def test_some_classes_only(tmp_path):
    whole = load_splits(DataConfig(dataset_name="digits"))
    some = load_splits(DataConfig(dataset_name="digits", classes=["6-8", "1"]))
    assert some.class_names == ("1", "6", "7", "8")
    for name, split in some.items():
        all_of_it = getattr(whole, name) if name == "test" else None
        assert set(split.labels.tolist()) == {0, 1, 2, 3}
        if all_of_it is not None:
            rows = np.flatnonzero(np.isin(all_of_it.labels, [1, 6, 7, 8]))
            assert split.source_rows.tolist() == all_of_it.source_rows[rows].tolist()
            assert [some.class_names[label] for label in split.labels] == [str(c) for c in all_of_it.labels[rows]]
    config = parquet(
        tmp_path, train=table(30, kind=["pear", "apple", "0-1"] * 10), test=table(6, kind=["pear", "apple"] * 3)
    )
    named = {"train_files": config.train_files, "test_files": config.test_files, "label_column_name": "kind"}
    assert load_splits(DataConfig(**named, classes=["pear", "apple"])).class_names == ("apple", "pear")


def test_classes_that_are_not_there_are_named():
    with pytest.raises(
        DataError, match=r"--classes names '7-12', which is neither a class .* nor a range of their names"
    ):
        load_splits(DataConfig(dataset_name="digits", classes=["7-12"]))
    with pytest.raises(DataError, match="--classes 3 leaves a single class"):
        load_splits(DataConfig(dataset_name="digits", classes=["3"]))
