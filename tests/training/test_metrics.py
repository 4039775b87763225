"""Scores, against scikit-learn."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from dilt_hf.training.metrics import PartitionScores


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_scores_agree_with_scikit_learn(pairs):
    predictions, references = (np.array(column) for column in zip(*pairs, strict=True))
    partitions = references // 3
    scores = PartitionScores().compute(predictions=predictions, references=references, partitions=partitions)
    assert scores["accuracy"] == accuracy_score(references, predictions)
    present = sorted(set(references.tolist()))
    recalls = recall_score(references, predictions, labels=present, average=None, zero_division=0)
    assert np.allclose([scores["recall"][c] for c in present], recalls)
    assert np.isclose(scores["balanced_accuracy"], recalls.mean())
    if set(predictions) <= set(references):
        assert np.isclose(scores["balanced_accuracy"], balanced_accuracy_score(references, predictions))
    for k, accuracy in enumerate(scores["partition_accuracy"]):
        rows = partitions == k
        if rows.any():
            assert accuracy == accuracy_score(references[rows], predictions[rows])
        else:
            assert math.isnan(accuracy)
