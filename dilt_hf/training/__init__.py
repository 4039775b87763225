"""The masked training loop, evaluation, and the Trainer callback."""
