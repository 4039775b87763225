"""One file per pruning method: pure functions from weights, gradients or networks to masks."""
