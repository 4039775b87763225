"""One progress line per search, of all process groups, on one screen, with the time that is left."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from typing import Any

from dilt_hf.engine.process_groups import ProcessGroup

REFRESH_SECONDS = 0.5
FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {remaining} left"


class Board:
    """Progress lines, drawn by the first process; the others tell it through the store of the launch.

    Without a terminal nothing is drawn. Lines that are not among `totals` are not drawn either.

    Args:
        totals: the steps of each line, by its name.
        group: this process among those launched.
        enabled: whether anything is to be drawn at all.

    Example:
        >>> with Board({"partition_0": 100}, ProcessGroup(), enabled=False) as board:
        ...     board.add("partition_0", "round 0", 25)
    """

    def __init__(self, totals: Mapping[str, int], group: ProcessGroup, enabled: bool = True):
        self.totals, self.group, self.enabled = dict(totals), group, enabled
        self._mine: dict[str, dict[str, int]] = {line: {} for line in totals}
        self._found: dict[str, set[str]] = {line: set() for line in totals}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, line: str, part: str, steps: int) -> None:
        """Count more steps of one part of a line as done."""
        with self._lock:
            parts = self._mine.setdefault(line, {})
            parts[part] = parts.get(part, 0) + steps

    def found(self, line: str, part: str, steps: int) -> None:
        """Count a part of a line as done before this launch."""
        with self._lock:
            if part not in self._mine.setdefault(line, {}):
                self._mine[line][part] = steps
                self._found.setdefault(line, set()).add(part)

    def __enter__(self) -> Board:
        draws = self.group.is_world_zero and sys.stderr.isatty()
        if self.enabled and self.group.is_group_zero and (draws or self.group.store is not None):
            target = self._draw if self.group.is_world_zero else self._tell
            self._thread = threading.Thread(target=target, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _tell(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            with self._lock:
                message = json.dumps(self._mine)
            self.group.store.set(f"progress/{self.group.index}", message)

    def _draw(self) -> None:
        from tqdm.auto import tqdm

        width = max(map(len, self.totals))
        bars = {
            line: tqdm(
                total=total,
                desc=line.ljust(width),
                position=position,
                bar_format=FORMAT,
                smoothing=0,
                leave=False,
                disable=None,
            )
            for position, (line, total) in enumerate(self.totals.items())
        }
        try:
            while not self._stop.wait(REFRESH_SECONDS):
                for line, (done, before) in self._all().items():
                    bars[line].initial, bars[line].n = before, min(done, self.totals[line])
                    bars[line].refresh()
        finally:
            for bar in reversed(bars.values()):
                bar.close()

    def _all(self) -> dict[str, tuple[int, int]]:
        """Return steps done, and steps of these that were done before this launch, of each line."""
        parts: dict[str, dict[str, int]] = {line: {} for line in self.totals}
        for index in range(1, self.group.count):
            if self.group.store is not None and self.group.store.check([f"progress/{index}"]):
                theirs = json.loads(self.group.store.get(f"progress/{index}"))
                for line in parts:
                    parts[line] |= theirs.get(line, {})
        with self._lock:
            for line in self.totals:
                for part, steps in self._mine[line].items():
                    parts[line][part] = max(steps, parts[line].get(part, 0))
            return {
                line: (sum(parts[line].values()), sum(self._mine[line][part] for part in self._found[line]))
                for line in self.totals
            }
