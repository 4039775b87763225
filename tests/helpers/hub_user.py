"""A user of the loopback Hub, in a process of its own."""

import multiprocessing
from pathlib import Path

from helpers.crew import Crew
from helpers.hub_worker import serve


class User:
    """A process that uses the Hub; `ask` does a step of hub_worker.py.

    Args:
        home: a new folder; the cache of the user is in it.
        fresh: variables for an interpreter of its own, which the client reads when it is imported.
    """

    def __init__(self, home, fresh=None):
        home.mkdir(parents=True, exist_ok=True)
        self.connection, theirs = multiprocessing.Pipe()
        self.crew = Crew(1, home, serve, theirs, launched=False, fresh=fresh)
        self.process = self.crew.processes[0]
        theirs.close()

    def ask(self, *step):
        self.begin(*step)
        try:
            return self.connection.recv()
        except EOFError:
            raise AssertionError(self.crew.output[-3000:]) from None

    def begin(self, *step):
        """Ask, and do not wait for the answer."""
        self.connection.send([str(part) if isinstance(part, Path) else part for part in step])

    def end(self):
        self.connection.close()
        self.process.join(60)
