"""Masks: algebra, exact selection, overlap, files."""
