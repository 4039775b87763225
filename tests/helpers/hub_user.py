"""A user of the loopback Hub, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path


class User:
    """A process that uses the Hub; `ask` does a step of hub_worker.py."""

    def __init__(self, hub, home, **environment):
        settings = (
            os.environ
            | hub.environment
            | {"HF_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1])}
            | environment
        )
        command = [sys.executable, "-m", "helpers.hub_worker"]
        self.log = open(home.parent / f"{home.name}.log", "w+")  # noqa: SIM115 (open as long as the process)
        self.process = subprocess.Popen(
            command, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )

    def ask(self, *step):
        self.process.stdin.write(json.dumps([str(part) if isinstance(part, Path) else part for part in step]) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer: "):
                return line.removeprefix("answer: ").strip()
        self.log.seek(0)
        raise AssertionError(self.log.read()[-3000:])

    def end(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
        self.log.close()
