"""Recipes as their users call them, but in the process that asks: nothing is imported anew."""

import runpy
import sys
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"


def run_recipe(name, arguments):
    """Run `recipes/NAME.py ARGUMENTS`; its `SystemExit` comes through."""
    before = sys.argv, sys.path[:]
    sys.argv = [f"recipes/{name}.py", *map(str, arguments)]
    sys.path.insert(0, str(RECIPES))
    try:
        runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
