"""Splitting the training data into N disjoint, covering partitions, without decoding an image.

A `Partitioning` says for every row of any split which partition it belongs to. Class partitions keep the global class
ids: a partition is a subset of the ids and the rows that carry them. Partitions by column and the sibling split divide
rows instead, so every partition may hold every class.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dilt_hf.config.data import PartitionConfig
from dilt_hf.data.classes import class_ids
from dilt_hf.data.splits import Split, Splits
from dilt_hf.utils.errors import PartitionError
from dilt_hf.utils.seeding import generator_for


@dataclasses.dataclass(frozen=True)
class Partitioning:
    """N disjoint parts of the data.

    Attributes:
        kind: how they were made, as in `PartitionConfig.partition_by`.
        classes: the global class ids of each partition, ascending.
        groups: for partitions by column, the column's values of each partition; else empty.
        column: the column that decides, for partitions by column.
        seed: the seed of a sibling split.
        assigned: for clusters of images, the partition of every row of each split.
    """

    kind: str
    classes: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[Any, ...], ...] = ()
    column: str | None = None
    seed: int = 0
    assigned: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def identity(self) -> dict[str, Any]:
        """Return what determines it, as JSON values."""
        own = {name: getattr(self, name) for name in ("kind", "classes", "groups", "column", "seed")}
        found = {name: hashlib.sha256(rows.tobytes()).hexdigest() for name, rows in self.assigned.items()}
        return own | ({"assigned": found} if found else {})

    def as_json(self) -> tuple[Any, Any]:
        """Return the classes, and the partition of every row by split, as JSON values."""
        return self.classes, {name: rows.tolist() for name, rows in self.assigned.items()}

    @classmethod
    def from_json(cls, kind: str, classes: Any, assigned: Any) -> Partitioning:
        """Make a partitioning of what `as_json` returned."""
        rows = {name: np.array(each, np.int64) for name, each in assigned.items()}
        return cls(kind, tuple(map(tuple, classes)), assigned=rows)

    def __len__(self) -> int:
        return len(self.classes)

    def assign(self, split: Split) -> np.ndarray:
        """Return the partition of every row of `split`, int64 (n,).

        The rows of a sibling split are dealt class by class.
        """
        if self.assigned:
            return self.assigned[split.name]
        if self.kind == "sibling":
            return _deal(split.labels, len(self), self.seed, split.name)
        if self.kind == "column":
            values = split.column(self.column)  # type: ignore[arg-type]
            lookup = {value: k for k, group in enumerate(self.groups) for value in group}
            unknown = sorted({str(v) for v in np.unique(values).tolist() if v not in lookup})
            if unknown:
                raise PartitionError(
                    f"the {split.name} split has values of '{self.column}' that no training row has: "
                    f"{', '.join(unknown[:5])}."
                )
            return np.array([lookup[value] for value in values.tolist()], np.int64)
        table = np.full(1 + max(max(ids) for ids in self.classes), -1, np.int64)
        for k, ids in enumerate(self.classes):
            table[list(ids)] = k
        return table[split.labels]

    def rows(self, split: Split) -> list[torch.Tensor]:
        """Return the row numbers of `split` in each partition, int64."""
        assigned = self.assign(split)
        return [torch.from_numpy(np.flatnonzero(assigned == k)) for k in range(len(self))]


def make_partitions(
    config: PartitionConfig,
    splits: Splits,
    embed: Callable[[], np.ndarray] | None = None,
    embed_images: Callable[[str], np.ndarray] | None = None,
) -> Partitioning:
    """Make the partitions that `config` describes, checked: N of them, none empty, disjoint, together everything.

    Args:
        embed: for `partition_by="clusters"`, gives the class-mean embeddings (classes, features); called only then.
        embed_images: for `partition_by="image_clusters"`, the embeddings (rows, features) of a split by its name.

    Raises:
        PartitionError: when they are not so, or name a class that does not exist, or a class has no training row.

    Example:
        >>> from dilt_hf import DataConfig, load_splits
        >>> make_partitions(PartitionConfig(num_partitions=2), load_splits(DataConfig(dataset_name="digits"))).classes
        ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
    """
    n, names = config.num_partitions, splits.class_names
    counts = np.bincount(splits.train.labels, minlength=len(names))
    if not counts.all():
        empty = [names[c] for c in np.flatnonzero(counts == 0)[:5]]
        raise PartitionError(
            f"{int((counts == 0).sum())} of {len(names)} classes have no training row ({', '.join(empty)}, …); "
            "add rows, or drop these classes from the dataset."
        )
    if config.partition_by == "column":
        return _by_column(config, splits.train)
    if config.partition_by == "image_clusters":
        if embed_images is None:
            raise PartitionError("partitions by clusters of images need embeddings.")
        embedded = {name: embed_images(name) for name, _ in splits.items()}
        return _by_images(splits, cluster_images(embedded, n, config.partition_seed))
    every = tuple(range(len(names)))
    if config.partition_by == "sibling":
        if n > counts.min():
            raise PartitionError(
                f"class '{names[int(counts.argmin())]}' has {counts.min()} rows, too few for {n} siblings."
            )
        return Partitioning("sibling", (every,) * n, seed=config.partition_seed)
    if n > len(names):
        raise PartitionError(f"{len(names)} classes cannot fill {n} partitions; lower --num_partitions.")
    if config.partition_by == "range":
        classes = [part.tolist() for part in np.array_split(np.array(every), n)]
    elif config.partition_by == "random":
        order = torch.randperm(len(names), generator=generator_for(config.partition_seed, "random classes"))
        classes = [part.tolist() for part in np.array_split(order.numpy(), n)]
    elif config.partition_by == "explicit":
        classes = [class_ids(part, names) for part in _read_explicit(config, names)]
    else:
        if embed is None:
            raise PartitionError("partitions by clusters need class embeddings.")
        classes = cluster_classes(embed(), n)
    return Partitioning(config.partition_by, check_partitions(classes, names, n))


def check_partitions(
    classes: Sequence[Sequence[int]], names: Sequence[str], expected: int
) -> tuple[tuple[int, ...], ...]:
    """Check that `classes` are `expected` disjoint, covering, non-empty sets; return each ascending."""
    if len(classes) != expected:
        raise PartitionError(f"{len(classes)} partitions are listed, but --num_partitions is {expected}.")
    owner: dict[int, int] = {}
    for k, ids in enumerate(classes):
        if not ids:
            raise PartitionError(f"partition {k} is empty; give it at least one class.")
        for c in ids:
            if c in owner:
                where = f"partitions {owner[c]} and {k}" if owner[c] != k else f"partition {k} twice"
                raise PartitionError(f"class '{names[c]}' is in {where}; partitions must be disjoint.")
            owner[c] = k
    missing = [names[c] for c in range(len(names)) if c not in owner]
    if missing:
        raise PartitionError(
            f"{len(missing)} classes are in no partition ({', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}); partitions must cover all classes."
        )
    return tuple(tuple(sorted(ids)) for ids in classes)


def cluster_classes(embeddings: np.ndarray, n: int) -> list[list[int]]:
    """Group similar classes: agglomerative clustering (Ward) of class-mean embeddings, scaled to unit length.

    Args:
        embeddings: (classes, features), finite.
        n: how many clusters. They may differ in size.

    Raises:
        PartitionError: for embeddings that are not finite.
    """
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.preprocessing import normalize

    if not np.isfinite(embeddings).all():
        raise PartitionError("the class embeddings are not finite; check the embedding model.")
    labels = AgglomerativeClustering(n_clusters=n).fit_predict(normalize(embeddings))
    clusters = [np.flatnonzero(labels == k).tolist() for k in range(n)]
    return sorted(clusters)  # by lowest class id, so that the numbering does not depend on the library


def cluster_images(embeddings: Mapping[str, np.ndarray], n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Group similar images: k-means of the training images' embeddings, scaled to unit length; other splits go to the
    nearest centre. The largest cluster is number 0.

    Args:
        embeddings: (rows, features) by split; "train" among them.

    Returns:
        The cluster of every row, int64 (rows,), by split.

    Raises:
        PartitionError: for embeddings that are not finite, or fewer different images than clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import normalize

    if not all(np.isfinite(each).all() for each in embeddings.values()):
        raise PartitionError("the embeddings are not finite; check the embedding model.")
    unit = {name: normalize(each.astype(np.float64)) for name, each in embeddings.items()}
    if len(np.unique(unit["train"], axis=0)) < n:
        raise PartitionError(f"the training images are too much alike for {n} clusters; lower --num_partitions.")
    found = KMeans(n, n_init=10, random_state=seed).fit(unit["train"])
    number = np.argsort(np.argsort(-np.bincount(found.labels_, minlength=n), kind="stable"))
    return {name: number[found.predict(each)].astype(np.int64) for name, each in unit.items()}


def _by_images(splits: Splits, assigned: Mapping[str, np.ndarray]) -> Partitioning:
    """Partition by image: a partition may hold every class; its loss is over those of its training rows."""
    labels = splits.train.labels
    classes = [tuple(np.unique(labels[assigned["train"] == k]).tolist()) for k in range(assigned["train"].max() + 1)]
    return Partitioning("image_clusters", tuple(classes), assigned=assigned)


def _by_column(config: PartitionConfig, train: Split) -> Partitioning:
    values = train.column(config.partition_column)  # type: ignore[arg-type]
    distinct, counts = np.unique(values, return_counts=True)
    n = config.num_partitions
    if len(distinct) < n:
        raise PartitionError(
            f"column '{config.partition_column}' has {len(distinct)} distinct values, too few for {n} partitions."
        )
    groups: list[list[int]] = [[] for _ in range(n)]
    load = np.zeros(n, np.int64)
    for position in np.argsort(-counts, kind="stable"):  # the largest environment first, to the emptiest partition
        k = int(load.argmin())
        groups[k].append(position)
        load[k] += counts[position]
    ordered = sorted(sorted(group) for group in groups)
    classes = [np.unique(train.labels[np.isin(values, distinct[group])]).tolist() for group in ordered]
    return Partitioning(
        "column",
        tuple(tuple(ids) for ids in classes),
        groups=tuple(tuple(distinct[group].tolist()) for group in ordered),
        column=config.partition_column,
    )


def _deal(labels: np.ndarray, n: int, seed: int, split: str) -> np.ndarray:
    """Assign rows to siblings: the rows of each class in random order, dealt in turn."""
    shuffled = torch.randperm(len(labels), generator=generator_for(seed, "siblings", split)).numpy()
    assigned = np.empty(len(labels), np.int64)
    for start, label in enumerate(np.unique(labels)):
        rows = shuffled[labels[shuffled] == label]
        assigned[rows] = (np.arange(len(rows)) + start) % n
    return assigned


def _read_explicit(config: PartitionConfig, names: Sequence[str]) -> list[list[int | str]]:
    if not config.partition_file:
        return [_entries(part, names) for part in config.partition_classes]
    with open(config.partition_file, encoding="utf-8-sig") as file:
        try:
            lists = json.load(file)
        except (ValueError, RecursionError) as error:
            raise PartitionError(f"{config.partition_file} is not JSON ({error}).") from error
    if not isinstance(lists, list) or not all(isinstance(part, list) for part in lists):
        raise PartitionError(f"{config.partition_file} must hold a list with one list of classes per partition.")
    return lists


def _entries(text: str, names: Sequence[str]) -> list[int | str]:
    """Divide a list of classes at its commas: those of a name stand in quotes, or the list is that name."""
    if text in names:
        return [text]
    row = next(csv.reader([text], skipinitialspace=True), [])
    return [entry for entry in row if entry.strip()]
