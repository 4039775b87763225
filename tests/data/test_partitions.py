"""Disjoint, covering partitions, made without decoding an image."""

import json

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.data import decoding
from dilt_hf.data.classes import class_ids
from dilt_hf.data.partitions import check_partitions, cluster_classes, cluster_images, make_partitions
from dilt_hf.data.splits import Split, Splits
from dilt_hf.utils.errors import PartitionError

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")


def splits(rows_per_class=10, names=NAMES, skip=()):
    labels = np.array([c for c in range(len(names)) if c not in skip for _ in range(rows_per_class)])
    place = [["lab", "field", "zoo"][i % 3] for i in range(len(labels))]
    images = [Image.new("L", (2, 2))] * len(labels)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names)), "place": datasets.Value("string")}
    )
    table = datasets.Dataset.from_dict({"image": images, "label": labels, "place": place}, features=features)
    parts = [
        Split(name, table, "image", labels, name, np.arange(len(labels))) for name in ("train", "validation", "test")
    ]
    return Splits(*parts, tuple(names), "made up")


def embeddings():
    """Of six classes, the first three alike and the last three alike."""
    return np.repeat([[1.0, 0.0], [0.0, 1.0]], 3, axis=0) + 0.01 * np.eye(6)[:, :2]


def config(by, n=2, **fields):
    return PartitionConfig(num_partitions=n, partition_by=by, **fields)


@pytest.mark.parametrize(
    "settings",
    [
        config("range"),
        config("range", 4),
        config("random", 3, partition_seed=5),
        config("explicit", 2, partition_classes=["ant,4-5", "bee,cat,3"]),
        config("column", 2, partition_column="place"),
        config("sibling", 3),
        config("clusters", 2),
    ],
    ids=lambda settings: f"{settings.partition_by}-{settings.num_partitions}",
)
def test_partitions_are_disjoint_cover_everything_and_decode_nothing(settings, monkeypatch):
    decodes = []
    monkeypatch.setattr(decoding, "decode", lambda *a: decodes.append(a))
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *a, **k: decodes.append(a))
    data = splits()
    made = make_partitions(settings, data, embed=embeddings)
    assert len(made) == settings.num_partitions
    for _, split in data.items():
        rows = np.concatenate([part.numpy() for part in made.rows(split)])
        assert sorted(rows.tolist()) == list(range(len(split)))
        for k, part in enumerate(made.rows(split)):
            assert len(part)
            assert set(split.labels[part.numpy()]) <= set(made.classes[k])
    assert decodes == []
    assert make_partitions(settings, data, embed=embeddings) == made


def test_class_partitions_keep_global_ids():
    made = make_partitions(config("explicit", 2, partition_classes=["fox,bee", "ant,cat,dog,elk"]), splits())
    assert made.classes == ((1, 5), (0, 2, 3, 4))


def test_random_partitions_follow_their_seed():
    made = {seed: make_partitions(config("random", partition_seed=seed), splits()).classes for seed in range(8)}
    assert make_partitions(config("random", partition_seed=3), splits()).classes == made[3]
    assert len(set(made.values())) > 3


def test_siblings_share_classes_evenly_and_not_rows():
    made = make_partitions(config("sibling", 2), splits())
    rows = [part.numpy() for part in made.rows(splits().train)]
    assert [np.bincount(splits().train.labels[part]).tolist() for part in rows] == [[5] * 6, [5] * 6]
    assert not set(rows[0]) & set(rows[1])


def test_environments_are_whole():
    made = make_partitions(config("column", 3, partition_column="place"), splits())
    assert sorted(made.groups) == [("field",), ("lab",), ("zoo",)]
    values = np.array(splits().train.column("place"))
    for k, part in enumerate(made.rows(splits().train)):
        assert set(values[part.numpy()]) == set(made.groups[k])


def test_similar_classes_are_clustered_together():
    near = np.array([[1, 0, 0.1], [0, 1, 0], [1, 0, 0], [0, 1, 0.1]])
    assert cluster_classes(near, 2) == [[0, 2], [1, 3]]
    with pytest.raises(PartitionError, match="not finite"):
        cluster_classes(near * np.nan, 2)


def test_partitions_are_read_from_a_json_file(tmp_path):
    file = tmp_path / "p.json"
    file.write_text(json.dumps([["fox", 0], ["1-4"]]))
    made = make_partitions(config("explicit", 2, partition_file=str(file)), splits())
    assert made.classes == ((0, 5), (1, 2, 3, 4))
    file.write_text("[1, 2]")
    with pytest.raises(PartitionError, match="one list of classes per partition"):
        make_partitions(config("explicit", 2, partition_file=str(file)), splits())
    file.write_text("{")
    with pytest.raises(PartitionError, match="is not JSON"):
        make_partitions(config("explicit", 2, partition_file=str(file)), splits())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config("range", 7), "6 classes cannot fill 7 partitions"),
        (config("explicit", 2, partition_classes=["0-2", "2-5"]), "'cat' is in partitions 0 and 1"),
        (config("explicit", 2, partition_classes=["0-2,1", "3-5"]), "'bee' is in partition 0 twice"),
        (config("explicit", 2, partition_classes=["0-2", "3-4"]), r"1 classes are in no partition \(fox\)"),
        (config("explicit", 2, partition_classes=["0-5", ""]), "partition 1 is empty"),
        (config("explicit", 3, partition_classes=["0-2", "3-5"]), "2 partitions are listed"),
        (config("explicit", 2, partition_classes=["ant,cow", "1-5"]), "'cow' is neither a class"),
        (config("explicit", 2, partition_classes=["0-6", "1"]), "ids, which run from 0 to 5"),
        (config("column", 4, partition_column="place"), "3 distinct values, too few for 4"),
        (config("column", 2, partition_column="colour"), "no column 'colour'"),
        (config("sibling", 11), "too few for 11 siblings"),
    ],
)
def test_impossible_partitions_are_one_clear_sentence(settings, message):
    with pytest.raises((PartitionError, Exception), match=message) as caught:
        make_partitions(settings, splits())
    assert str(caught.value).count("\n") == 0


def test_a_class_without_training_rows_is_named():
    with pytest.raises(PartitionError, match=r"1 of 6 classes have no training row \(dog"):
        make_partitions(config("range"), splits(skip=(3,)))


def test_names_win_over_numbers():
    assert class_ids(["7", "8-9"], ["7", "8", "9"]) == [0, 1, 2]
    assert class_ids(["0-2", "11"], sorted(map(str, range(12)))) == [0, 1, 4, 3]  # a range of names, not of places
    with pytest.raises(PartitionError, match="'0-1' is neither a class"):
        class_ids(["0-1"], ["7", "8", "9"])


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=4))
def test_whatever_is_accepted_is_a_partition(lists):
    try:
        made = check_partitions(lists, NAMES, 3)
    except PartitionError:
        assert len(lists) != 3 or sorted(c for part in lists for c in part) != list(range(6)) or not all(lists)
    else:
        assert sorted(c for part in made for c in part) == list(range(6))
        assert all(made)


def test_images_are_clustered_by_what_they_show():
    rng = np.random.default_rng(0)
    centres = np.eye(3) * 5
    kinds = {"train": np.repeat([0, 1, 2], [50, 30, 20]), "test": np.repeat([2, 0, 1], 4)}
    embeddings = {name: centres[kind] + 0.1 * rng.standard_normal((len(kind), 3)) for name, kind in kinds.items()}
    found = cluster_images(embeddings, 3)
    assert all(np.array_equal(found[name], kind) for name, kind in kinds.items()), "the largest is number 0"
    with pytest.raises(PartitionError, match="too much alike for 3 clusters"):
        cluster_images({"train": np.ones((9, 2))}, 3)
    with pytest.raises(PartitionError, match="not finite"):
        cluster_images({"train": np.full((9, 2), np.nan)}, 2)


def test_partitions_of_images_say_what_determines_them():
    from dilt_hf.data.splits import load_splits

    digits = load_splits(DataConfig(dataset_name="digits", max_train_samples=100, max_eval_samples=40))
    rng = np.random.default_rng(0)
    embedded = {name: rng.standard_normal((len(split), 4)) for name, split in digits.items()}
    settings = PartitionConfig(num_partitions=2, partition_by="image_clusters")
    parts, again = (make_partitions(settings, digits, embed_images=embedded.__getitem__) for _ in range(2))
    assert sum(len(rows) for rows in parts.rows(digits.test)) == len(digits.test)
    assert json.dumps(parts.identity()) == json.dumps(again.identity())
    other = make_partitions(settings, digits, embed_images=lambda name: np.roll(embedded[name], 1, axis=0))
    assert json.dumps(parts.identity()) != json.dumps(other.identity())
    with pytest.raises(PartitionError, match="need embeddings"):
        make_partitions(settings, digits)


def test_names_with_commas_stand_in_quotes_or_alone(tmp_path):
    named = splits(names=["tench, Tinca tinca", "salt, pepper", "cat", "dog"])
    for classes in (["tench, Tinca tinca", '"salt, pepper", cat,dog'], ["0", "1-3"]):
        config = PartitionConfig(partition_by="explicit", partition_classes=classes)
        assert make_partitions(config, named).classes == ((0,), (1, 2, 3))


def test_a_partition_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "parts.json"
    path.write_text('[["a"], ["b"]]', encoding="utf-8-sig")
    config = PartitionConfig(partition_by="explicit", partition_file=str(path))
    assert make_partitions(config, splits(names=["a", "b"])).classes == ((0,), (1,))


def test_a_range_that_could_mean_names_or_places_is_refused():
    for names, entry in ((["-1", "0", "1", "2"], "0-1"), ([*map(str, [0, 1, 10, 11, 2, 3]), "other"], "0-2")):
        with pytest.raises(PartitionError, match="could mean the classes called"):
            class_ids([entry], names)
    assert class_ids(["0-2"], ["0", "1", "2", "other"]) == [0, 1, 2]
    assert class_ids(["0", "1"], ["-1", "0", "1", "2"]) == [1, 2]
