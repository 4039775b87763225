"""Rows as they come in the wild: what is ambiguous is brought in order or refused, and nothing is taken for granted."""

import json
import os
import shutil

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from helpers.small import encoded
from helpers.tables import parquet, table
from PIL import Image

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.data import decoding
from dilt_hf.data.partitions import make_partitions
from dilt_hf.data.splits import load_splits
from dilt_hf.utils.errors import DataError, PartitionError

COLOURS = {"cat": 10, "dog": 120, "elk": 240}


def animals(names, rows=12, **more):
    """Images whose brightness tells their class, whatever their id."""
    kinds = [names[i % len(names)] for i in range(rows)]
    images = [Image.new("RGB", (4, 4), (COLOURS[kind], i, 0)) for i, kind in enumerate(kinds)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    columns = {"image": images, "label": [names.index(kind) for kind in kinds]}
    return datasets.Dataset.from_dict(columns, features=features)


def assert_labels_are_true(splits):
    for name, split in splits.items():
        for row, label in enumerate(split.labels):
            image = np.asarray(split.dataset[row][split.image_column].convert("RGB"))
            assert image[0, 0, 0] == COLOURS[splits.class_names[label]], (name, row)


def image_folder(folder, classes=("cat", "dog"), each=6):
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (4, 4), (40 * k, i, 0)).save(folder / name / f"{i}.png")
    return folder


# --- Parquet files ---------------------------------------------------------------------------------------------------


def test_files_that_list_their_classes_in_another_order_are_mapped_by_name(tmp_path):
    config = parquet(
        tmp_path, train=animals(["cat", "dog", "elk"]), test=animals(["elk", "cat", "dog"]), validation=animals(["dog"])
    )
    splits = load_splits(config)
    assert splits.class_names == ("cat", "dog", "elk")
    assert_labels_are_true(splits)


def test_two_training_files_may_differ_in_their_order_and_in_which_classes_they_have(tmp_path):
    animals(["cat", "dog"]).to_parquet(tmp_path / "a.parquet")
    animals(["elk", "dog"]).to_parquet(tmp_path / "b.parquet")
    animals(["dog", "elk", "cat"]).to_parquet(tmp_path / "t.parquet")
    files = {"train_files": [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]}
    splits = load_splits(DataConfig(**files, test_files=[str(tmp_path / "t.parquet")]))
    assert_labels_are_true(splits)
    assert len(splits.train) + len(splits.validation) == 24


def test_a_class_that_no_training_file_has_is_refused(tmp_path):
    config = parquet(tmp_path, train=animals(["cat", "dog"]), test=animals(["cat", "elk"]))
    with pytest.raises(DataError, match="has the class 'elk', which no training file has"):
        load_splits(config)


def test_files_with_and_without_class_names_are_not_mixed(tmp_path):
    plain = animals(["cat", "dog"]).cast_column("label", datasets.Value("int64"))
    config = parquet(tmp_path, train=animals(["cat", "dog"]), test=plain)
    with pytest.raises(DataError, match="has no class names in its column 'label', and other files do"):
        load_splits(config)


def test_a_folder_given_as_a_dataset_is_looked_at_as_well(tmp_path):
    folder = tmp_path / "pets"
    folder.mkdir()
    animals(["cat", "dog"]).to_parquet(folder / "train.parquet")
    animals(["dog", "cat"]).to_parquet(folder / "test.parquet")
    with pytest.raises(DataError, match="list their classes differently"):
        load_splits(DataConfig(dataset_name=str(folder)))


@pytest.mark.parametrize("how", ["same", "link", "hard link", "twice"])
def test_no_file_serves_two_splits(tmp_path, how):
    animals(["cat", "dog"]).to_parquet(tmp_path / "a.parquet")
    a, b = tmp_path / "a.parquet", tmp_path / "b.parquet"
    if how == "link":
        b.symlink_to(a)
    elif how == "hard link":
        os.link(a, b)
    train, test = ([str(a), str(a)], [str(a)]) if how == "twice" else ([str(a)], [str(a if how == "same" else b)])
    with pytest.raises(DataError, match=r"is in (both the train and the test split|the train split twice)"):
        load_splits(DataConfig(train_files=train, test_files=test))


@pytest.mark.parametrize("name", ["data[12]", "what?", "all*", "a{b,c}", "50%", "ü ñ", "-x"])
def test_names_are_names(tmp_path, name):
    for folder, classes in ((name, ("cat", "dog")), ("data1", ("elk", "cat"))):
        (tmp_path / folder).mkdir()
        animals(list(classes)).to_parquet(tmp_path / folder / "f.parquet")
        image_folder(tmp_path / folder / "train", classes)
        image_folder(tmp_path / folder / "test", classes, each=2)
    here = tmp_path / name
    files = DataConfig(train_files=[str(here / "f.parquet")], test_files=[str(tmp_path / "data1" / "f.parquet")])
    with pytest.raises(DataError, match="has the class 'elk'"):
        load_splits(files)
    shutil.copyfile(here / "f.parquet", here / "g.parquet")
    splits = load_splits(DataConfig(train_files=[str(here / "f.parquet")], test_files=[str(here / "g.parquet")]))
    assert len(splits.train) + len(splits.validation) == 12
    splits = load_splits(DataConfig(train_dir=str(here / "train"), test_dir=str(here / "test")))
    assert splits.class_names == ("cat", "dog")
    assert len(splits.train) + len(splits.validation) == 12
    with pytest.raises(DataError, match="let the shell expand patterns"):
        load_splits(DataConfig(train_files=[str(tmp_path / "*" / "f.parquet")], test_files=[]))


def test_what_is_no_parquet_file_is_said_in_one_sentence(tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(DataError, match=r"a\.parquet is no readable Parquet file"):
        load_splits(DataConfig(train_files=[str(tmp_path / "a.parquet")]))


@pytest.mark.parametrize("form", ["struct", "binary", "large_binary"])
def test_images_written_by_other_libraries_are_decoded(tmp_path, form):
    images = [encoded(Image.new("RGB", (4, 4), (10 * i, 0, 0)))["bytes"] for i in range(12)]
    labels = pyarrow.array(["cat", "dog"] * 6)
    if form == "struct":
        column = pyarrow.array([{"bytes": image, "path": None} for image in images])
    else:
        column = pyarrow.array(images, type=getattr(pyarrow, form)())
    for name in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table({"picture": column, "kind": labels}), tmp_path / f"{name}.parquet")
    files = {f"{name}_files": [str(tmp_path / f"{name}.parquet")] for name in ("train", "test")}
    with pytest.raises(DataError, match=r"has no class column among picture, kind; name it with --label_column_name"):
        load_splits(DataConfig(**files))
    splits = load_splits(DataConfig(**files, label_column_name="kind"))
    assert splits.train.image_column == "picture"
    assert np.asarray(splits.test.dataset[5]["picture"])[0, 0, 0] == 50


# --- labels ----------------------------------------------------------------------------------------------------------


def labelled(folder, values, column="kind"):
    images = [encoded(Image.new("RGB", (4, 4), (i, 0, 0)))["bytes"] for i in range(len(values))]
    for name in ("train", "test"):
        frame = pandas.DataFrame({"image": images, column: values})
        frame.to_parquet(folder / f"{name}.parquet")
    files = {f"{name}_files": [str(folder / f"{name}.parquet")] for name in ("train", "test")}
    return DataConfig(**files, image_column_name="image", label_column_name=column)


@pytest.mark.parametrize("values", [[0.0, 1.0, float("nan"), 1.0, float("nan"), 0.0], ["a", "b", "", "b", " ", "a"]])
def test_missing_labels_are_no_classes(tmp_path, values):
    config = labelled(tmp_path, values)
    with pytest.raises(DataError, match="training rows have no class in column 'kind': 2, 4"):
        load_splits(config)


def test_whole_numbers_stored_as_floats_are_whole_numbers(tmp_path):
    assert load_splits(labelled(tmp_path, [3.0, 7.0] * 4)).class_names == ("3", "7")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0], [1]] * 3, r"row 0 of the train split has \[0\] in column 'kind', which is neither text"),
        ([0.5, 1.5] * 3, r"row 0 of the train split has 0\.5"),
        ([b"a", b"b"] * 3, r"row 0 of the train split has b'a'"),
        ([{"a": 1}, {"a": 2}] * 3, "which is neither text nor a whole number"),
    ],
)
def test_what_is_no_class_is_refused(tmp_path, values, message):
    with pytest.raises(DataError, match=message):
        load_splits(labelled(tmp_path, values))


def test_an_id_that_no_class_has_is_refused_with_its_row(tmp_path):
    config = parquet(tmp_path, train=table(12), test=table(6))
    path = tmp_path / "train.parquet"
    raw = pyarrow.parquet.read_table(path)
    spoilt = raw.set_column(1, raw.schema.field("label"), pyarrow.array([0, 1, 2, 0, 7, 2, 0, 1, 2, 0, 1, 2]))
    pyarrow.parquet.write_table(spoilt, path)
    with pytest.raises(DataError, match="row 4 of the train split has the id 7 in column 'label', which has 3 classes"):
        load_splits(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([None, "a", "b"] * 4, "row 0 of the train split has no value in column 'place'"),
        ([float("nan"), 1.0, 2.0] * 4, "row 0 of the train split has no value in column 'place'"),
        ([[1], [2], [3]] * 4, "which is neither text nor a whole number"),
    ],
)
def test_partition_columns_are_checked(tmp_path, values, message):
    for name in ("train", "test"):
        images = [encoded(Image.new("RGB", (4, 4), (i, 0, 0)))["bytes"] for i in range(12)]
        frame = pandas.DataFrame({"image": images, "kind": ["x", "y"] * 6, "place": values})
        frame.to_parquet(tmp_path / f"{name}.parquet")
    files = {f"{name}_files": [str(tmp_path / f"{name}.parquet")] for name in ("train", "test")}
    splits = load_splits(DataConfig(**files, label_column_name="kind"))
    with pytest.raises((DataError, PartitionError), match=message):
        make_partitions(PartitionConfig(partition_by="column", partition_column="place"), splits)


# --- folders of images -----------------------------------------------------------------------------------------------


def folders(tmp_path, classes=("cat", "dog")):
    image_folder(tmp_path / "train", classes)
    image_folder(tmp_path / "test", classes, each=3)
    return DataConfig(train_dir=str(tmp_path / "train"), test_dir=str(tmp_path / "test"))


def test_image_folders_open(tmp_path):
    splits = load_splits(folders(tmp_path))
    assert splits.class_names == ("cat", "dog")
    assert [len(split) for _, split in splits.items()] == [10, 2, 6]
    assert splits.test.dataset[5]["image"].getpixel((0, 0)) == (40, 2, 0)


@pytest.mark.parametrize("test", ["train", "train/cat", "."])
def test_folders_inside_one_another_are_refused(tmp_path, test):
    config = folders(tmp_path)
    with pytest.raises(DataError, match="lie inside one another"):
        load_splits(DataConfig(train_dir=config.train_dir, test_dir=str(tmp_path / test)))


def test_an_image_that_two_splits_share_is_refused(tmp_path):
    config = folders(tmp_path)
    (tmp_path / "test/cat/copy.png").symlink_to(tmp_path / "train/cat/0.png")
    with pytest.raises(DataError, match=r"copy\.png \(the same file as .*0\.png\) is in both the train and the test"):
        load_splits(config)


def test_linked_class_folders_are_followed(tmp_path):
    config = folders(tmp_path)
    shutil.move(tmp_path / "train/cat", tmp_path / "elsewhere")
    (tmp_path / "train/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    splits = load_splits(config)
    assert len(splits.train) + len(splits.validation) == 12


def test_images_deeper_in_a_class_belong_to_it(tmp_path):
    config = folders(tmp_path)
    (tmp_path / "train/dog/images").mkdir()
    for file in sorted((tmp_path / "train/dog").glob("*.png"))[:3]:
        shutil.move(file, tmp_path / "train/dog/images" / file.name)
    splits = load_splits(config)
    assert splits.class_names == ("cat", "dog")
    assert len(splits.train) + len(splits.validation) == 12


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.copy(f / "train/cat/0.png", f / "train/x.png"), r"has the image x\.png beside its class"),
        (
            lambda f: [p.rename(p.with_suffix(".xyz")) for p in (f / "train/cat").iterdir()],
            r"end with \.xyz, which",
        ),
        (lambda f: (f / "train/empty").mkdir(), "train/empty holds no images; remove or fill it"),
        (lambda f: (f / "test/dog").rename(f / "test/elk"), "has the class 'elk', which .*train does not have"),
        (lambda f: shutil.rmtree(f / "train/dog"), r"has 1 class folder\(s\); classification needs at least two"),
    ],
)
def test_what_would_lose_or_invent_a_class_is_refused(tmp_path, spoil, message):
    config = folders(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        load_splits(config)


def test_a_folder_of_splits_is_not_taken_for_classes(tmp_path):
    folders(tmp_path / "all")
    with pytest.raises(DataError, match="holds the splits test, train and no classes"):
        load_splits(DataConfig(train_dir=str(tmp_path / "all")))


def test_what_is_left_out_is_said(tmp_path, caplog):
    config = folders(tmp_path)
    for hidden in (".x", "__x"):
        image_folder(tmp_path / "train" / hidden, ("a",))
    (tmp_path / "train/metadata.csv").write_text("file_name,label\n")
    (tmp_path / "train/cat/notes.txt").write_text("")
    (tmp_path / "train/cat/.DS_Store").write_text("")
    splits = load_splits(config)
    assert splits.class_names == ("cat", "dog")
    assert "the folders .x, __x are left out" in caplog.text
    assert "metadata.csv is not read" in caplog.text
    assert "files ending with .txt are not read" in caplog.text
    assert "DS_Store" not in caplog.text


def test_a_changed_image_changes_the_fingerprint_of_streamed_data(tmp_path):
    config = folders(tmp_path)
    before = load_splits(config).train.dataset._fingerprint
    assert load_splits(config).train.dataset._fingerprint == before
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "train/cat/0.png")
    assert load_splits(config).train.dataset._fingerprint != before


def test_ranges_of_numeric_names_are_numeric(tmp_path):
    config = folders(tmp_path, tuple(map(str, range(12))))
    some = DataConfig(train_dir=config.train_dir, test_dir=config.test_dir, classes=["0-2", "10"])
    assert sorted(load_splits(some).class_names, key=int) == ["0", "1", "2", "10"]
    splits = load_splits(config)
    parts = make_partitions(PartitionConfig(partition_by="explicit", partition_classes=["0-5", "6-11"]), splits)
    assert [[splits.class_names[c] for c in part] for part in parts.classes] == [
        ["0", "1", "2", "3", "4", "5"],
        ["10", "11", "6", "7", "8", "9"],
    ]


# --- images ----------------------------------------------------------------------------------------------------------


def test_sixteen_bits_are_scaled_and_the_difference_to_pipelines_said(caplog):
    decoding.warn_once.cache_clear()
    values = np.array([[0, 257, 32896, 65535]] * 4, np.uint16)
    image = decoding.decode(encoded(Image.fromarray(values)), 4, 1, "row 0")
    assert image[0, :, 0].tolist() == [0, 1, 128, 255]
    assert "cut off at 255 by the pipelines of transformers" in caplog.text


def test_wide_integers_are_what_a_pipeline_makes_of_them_or_refused():
    small = Image.fromarray(np.array([[0, 7, 255, 100]] * 4, np.int32))
    assert decoding.decode(encoded(small, format="TIFF"), 4, 3, "row 0")[0, :, 0].tolist() == [0, 7, 255, 100]
    for values in (np.array([[0, 70_000]] * 2, np.int32), np.array([[0.0, 0.5]] * 2, np.float32)):
        with pytest.raises(DataError, match=r"row 3 cannot be decoded .* nothing says their range"):
            decoding.decode(encoded(Image.fromarray(values), format="TIFF"), 2, 1, "row 3")


# --- what else a stranger's data may hold ----------------------------------------------------------------------------


def test_a_row_without_a_class_is_named_whatever_the_order_of_the_classes(tmp_path):
    other = animals(["dog", "cat"])
    other = datasets.Dataset.from_dict(
        {"image": other["image"], "label": [None, *other["label"][1:]]}, features=other.features
    )
    with pytest.raises(DataError, match="row 0 of the test split has no class"):
        load_splits(parquet(tmp_path, train=animals(["cat", "dog"]), test=other))


def test_classes_that_are_called_by_numbers_are_text(tmp_path):
    config = parquet(tmp_path, train=animals(["cat", "dog"]), test=animals(["cat", "dog"], rows=6))
    for path in [*config.train_files, *config.test_files]:
        rows = pyarrow.parquet.read_table(path)
        stored = json.loads(rows.schema.metadata[b"huggingface"])
        stored["info"]["features"]["label"]["names"] = [3, 5]
        renamed = rows.replace_schema_metadata({b"huggingface": json.dumps(stored).encode()})
        pyarrow.parquet.write_table(renamed, path)
    assert load_splits(config).class_names == ("3", "5")


@pytest.mark.parametrize("other", ["another name", "numbers"])
def test_images_of_a_held_out_split_lie_where_those_of_the_training_rows_do(tmp_path, other):
    test = animals(["cat", "dog"])
    if other == "numbers":
        test = test.remove_columns("image").add_column("image", list(range(len(test))))
    else:
        test = test.rename_column("image", "picture")
    with pytest.raises(DataError, match=r"column 'image' (is missing|holds Value).* in the test split"):
        load_splits(parquet(tmp_path, train=animals(["cat", "dog"]), test=test))


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_table_opens_no_other_file_of_this_machine(tmp_path, as_folder):
    config = parquet(tmp_path, train=animals(["cat", "dog"]), test=animals(["cat", "dog"], rows=6))
    rows = pyarrow.parquet.read_table(config.train_files[0])
    cells = rows["image"].combine_chunks()
    paths = pyarrow.array([None] * 5 + ["/home/me/secret.png"] + [None] * 6)
    whole = cells.field("bytes").to_pylist()
    content = pyarrow.array([*whole[:5], None, *whole[6:]], pyarrow.binary())
    column = pyarrow.StructArray.from_arrays([content, paths], ["bytes", "path"])
    pyarrow.parquet.write_table(rows.set_column(0, rows.schema.field(0), column), config.train_files[0])
    if as_folder:
        config = DataConfig(dataset_name=os.path.dirname(config.train_files[0]))
    with pytest.raises(DataError, match=r"row 5 of .* names the file '.*secret.png' .* and holds no image"):
        load_splits(config)


@pytest.mark.parametrize("option", ["train_dir", "dataset_name"])
def test_a_folder_of_splits_that_share_a_file_is_refused(tmp_path, option):
    train, test = image_folder(tmp_path / "pets" / "train"), image_folder(tmp_path / "pets" / "test", each=2)
    (test / "cat" / "0.png").unlink()
    os.link(train / "cat" / "0.png", test / "cat" / "0.png")
    config = (
        DataConfig(dataset_name=str(tmp_path / "pets"))
        if option == "dataset_name"
        else DataConfig(train_dir=str(train), test_dir=str(test))
    )
    with pytest.raises(DataError, match="is in both the train and the test split"):
        load_splits(config)


def test_names_that_are_no_text_and_files_that_are_none_are_refused(tmp_path):
    train, test = image_folder(tmp_path / "train"), image_folder(tmp_path / "test", each=2)
    config = DataConfig(train_dir=str(train), test_dir=str(test))
    odd = os.fsencode(test / "cat") + b"/\xff.png"
    with open(odd, "wb"):
        with pytest.raises(DataError, match="is not named in UTF-8; rename it"):
            load_splits(config)
        os.unlink(odd)
    os.mkfifo(test / "cat" / "pipe.png")  # opening it would wait for ever
    with pytest.raises(DataError, match=r"pipe.png is no regular file"):
        load_splits(config)


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path, monkeypatch):
    train, test = image_folder(tmp_path / "train"), image_folder(tmp_path / "test", each=2)
    (train / "cat" / "more").mkdir()
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PermissionError, match="more"):
        load_splits(DataConfig(train_dir=str(train), test_dir=str(test)))


# --- folders that `datasets` understands -----------------------------------------------------------------------------


def test_what_save_to_disk_wrote_is_read_as_it_was_written(tmp_path):
    """`load_dataset` would take its caches for rows, and give all splits the classes of the first."""
    tables = datasets.DatasetDict({"train": animals(["cat", "dog"]), "test": animals(["cat", "dog"], rows=6)})
    tables.save_to_disk(tmp_path / "pets")
    before = load_splits(DataConfig(dataset_name=str(tmp_path / "pets")))
    assert_labels_are_true(before)
    datasets.load_from_disk(str(tmp_path / "pets"))["train"].map(lambda row: {"label": 1 - row["label"]})
    after = load_splits(DataConfig(dataset_name=str(tmp_path / "pets")))
    assert [len(split) for _, split in after.items()] == [len(split) for _, split in before.items()]
    assert_labels_are_true(after)
    tables["test"] = animals(["dog", "cat"], rows=6)
    tables.save_to_disk(tmp_path / "swapped")
    with pytest.raises(DataError, match="have different classes"):
        load_splits(DataConfig(dataset_name=str(tmp_path / "swapped")))


def test_arrow_files_by_themselves_are_refused(tmp_path):
    animals(["cat", "dog"]).save_to_disk(tmp_path / "one")
    (tmp_path / "bare").mkdir()
    for name in ("train", "test"):
        shutil.copy(next((tmp_path / "one").glob("*.arrow")), tmp_path / "bare" / f"{name}.arrow")
    with pytest.raises(DataError, match="Arrow files without the description"):
        load_splits(DataConfig(dataset_name=str(tmp_path / "bare")))


def test_an_image_folder_by_name_has_the_classes_that_it_has_by_its_splits(tmp_path):
    for split, each in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name / "camera 1").mkdir(parents=True)
            for i in range(each):
                place = tmp_path / "pets" / split / name / "camera 1" / f"{i}.png"
                Image.new("RGB", (4, 4), (COLOURS[name], i, len(split))).save(place)
    splits = load_splits(DataConfig(dataset_name=str(tmp_path / "pets")))
    assert splits.class_names == ("cat", "dog")
    assert_labels_are_true(splits)
    shutil.rmtree(tmp_path / "pets" / "test" / "cat")
    (tmp_path / "pets" / "test" / "cat").mkdir()
    (tmp_path / "pets" / "test" / "cat" / "0.heic").write_bytes(b"x")
    with pytest.raises(DataError, match="holds no images"):
        load_splits(DataConfig(dataset_name=str(tmp_path / "pets")))
