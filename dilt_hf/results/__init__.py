"""Scores of a run as tables, sentences and figures."""
