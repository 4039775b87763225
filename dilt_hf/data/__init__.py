"""From a dataset to batches: splits, partitions, decoding, augmentation, loading."""
