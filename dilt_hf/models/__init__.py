"""Networks: building, naming their weights, opening checkpoints, counting operations."""
