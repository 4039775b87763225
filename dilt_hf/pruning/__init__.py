"""Pruning methods, one file each: functions that turn trainings into masks."""
