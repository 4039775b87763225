"""Cached steps on disk, and the processes that share them."""
