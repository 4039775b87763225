"""Small `datasets` tables and Parquet files of them."""

import datasets
from PIL import Image

from dilt_hf.config.data import DataConfig


def table(rows=12, classes=3, label="label", **more):
    images = [Image.new("RGB", (10, 10), (20 * i, 0, 0)) for i in range(rows)]
    features = {"image": datasets.Image(), label: datasets.ClassLabel(names=[f"c{i}" for i in range(classes)])}
    columns = {"image": images, label: [i % classes for i in range(rows)], **more}
    for name, values in more.items():
        features[name] = datasets.ClassLabel(num_classes=2) if name == "coarse" else datasets.Value("string")
        columns[name] = values
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def parquet(folder, **tables):
    for name, content in tables.items():
        content.to_parquet(folder / f"{name}.parquet")
    return DataConfig(**{f"{name}_files": [str(folder / f"{name}.parquet")] for name in tables})
