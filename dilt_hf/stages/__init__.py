"""Costly steps on disk; `python -m dilt_hf.stages ls|show|gc RUN` explains what is there."""

from dilt_hf.stages.store import BusyError, Stage, Stages

__all__ = ["BusyError", "Stage", "Stages"]
