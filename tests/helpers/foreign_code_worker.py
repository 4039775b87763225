"""Opens repositories whose configurations name code on the Hub, and says what came of each.

    python foreign_code_worker.py FOLDER plain|ours

FOLDER holds checkpoint folders; `plain` lets transformers open the first, `ours` this package all of them, as a ticket
user and as `--model_name_or_path` and `--architecture` would. Prints one JSON object.
"""

import json
import sys
from pathlib import Path


def plain(folder):
    from transformers import AutoModelForImageClassification

    return type(AutoModelForImageClassification.from_pretrained(folder)).__name__


def ours(folder):
    from dilt_hf import ModelConfig
    from dilt_hf.models.factory import build_model
    from dilt_hf.models.safe_loading import load_model

    def build(**source):
        return build_model(ModelConfig(**source), ["a", "b", "c"], 8, seed=0)

    ways = {
        "load": lambda: load_model(folder),
        "checkpoint": lambda: build(model_name_or_path=str(folder)),
        "architecture": lambda: build(architecture=str(folder)),
    }
    return {way: outcome(open_it) for way, open_it in ways.items()}


def outcome(open_it):
    from dilt_hf.utils.errors import DiltError

    try:
        return type(open_it()).__name__
    except DiltError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"failed: {type(error).__name__}: {error}"


def main(folder, way):
    import transformers
    from transformers.utils.import_utils import is_kernels_available

    found = {"transformers": transformers.__version__, "kernels": is_kernels_available()}
    try:
        found["opened"] = {path.name: globals()[way](path) for path in sorted(Path(folder).iterdir())}
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
