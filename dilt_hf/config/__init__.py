"""Every option of a run, as frozen dataclasses, and presets of them."""
