"""Scores of a classifier over partitions, as an `evaluate.Metric` that needs no network."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np


class PartitionScores(evaluate.Metric):
    """Accuracy on all rows and per partition, balanced accuracy, and recall per class.

    `compute(predictions=…, references=…, partitions=…)` takes one class id, one true class id and one partition number
    per row and returns

    - ``accuracy``: fraction of right predictions over all rows;
    - ``partition_accuracy``: the same over the rows of each partition, a list;
    - ``balanced_accuracy``: mean of the recalls of the classes that occur;
    - ``recall``: class id to recall, for the classes that occur.

    All are fractions in [0, 1]; a partition without rows has accuracy NaN.

    Example:
        >>> PartitionScores().compute(predictions=[0, 1, 1], references=[0, 1, 0], partitions=[0, 1, 0])["accuracy"]
        0.6666666666666666
    """

    def __init__(self, **settings: Any):
        super().__init__(keep_in_memory=True, **settings)

    def _info(self) -> evaluate.MetricInfo:
        column = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Accuracy on all rows and per partition, balanced accuracy, recall per class.",
            citation="",
            inputs_description="predictions, references: class ids; partitions: the partition of each row.",
            features=datasets.Features({"predictions": column, "references": column, "partitions": column}),
        )

    def _compute(self, predictions: Any, references: Any, partitions: Any) -> dict[str, Any]:
        references, partitions = np.asarray(references), np.asarray(partitions)
        right = np.asarray(predictions) == references
        recall = {int(c): float(right[references == c].mean()) for c in np.unique(references)}
        return {
            "accuracy": float(right.mean()),
            "partition_accuracy": [
                float(right[partitions == k].mean()) if (partitions == k).any() else float("nan")
                for k in range(int(partitions.max()) + 1)
            ],
            "balanced_accuracy": float(np.mean(list(recall.values()))),
            "recall": recall,
        }
