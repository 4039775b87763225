"""Write the table of what works with which architecture from outcomes that the tests have kept.

python -m helpers.compatibility_table OUTCOMES docs/compatibility.md
"""

import json
import re
import sys
from pathlib import Path

import timm
import torch
import transformers

from dilt_hf.utils.markdown import markdown_table

COLUMNS = {
    "find": "find",
    "save": "save, open",
    "tickets": "tickets",
    "apply": "apply",
    "bfloat16": "bf16",
    "compile": "compile",
    "switch": "switch",
    "hold": "hold",
    "blocks": "blocks",
    "weights": "layers",
}
TEXT = """# Which architectures work

Small networks with random weights, each taken through a whole life with tickets by `make compat` (transformers
{transformers}, timm {timm}, torch {torch}): {passed} of {all} pass; {refused} are refused, in one sentence before
anything is trained.

- **find**: weights are found prunable, masks keep exactly as many as they should, operations are counted for every
  tensor, each gets a gradient. The number is the share of the network's matrix weights that masks do not cover.
- **save, open**: θ0 is timm's or transformers' own, and gives equal logits after saving and opening.
- **tickets, apply, bf16, compile, switch, hold**: tickets are saved and opened; removed weights are exactly 0 when a
  ticket is applied (in bfloat16 and to a compiled network too), switched, and held through steps of AdamW.
- **blocks, layers**: how many residual blocks, and layers with weights, the analysis compares; no weight lies in two.
"""


def main(outcomes, target):
    found = {tuple(path.stem.split(" ", 1)): json.loads(path.read_text()) for path in Path(outcomes).glob("*.json")}
    refusals, parts = {}, []
    for library in ("transformers", "timm"):
        rows = []
        for name in sorted(name for each, name in found if each == library):
            steps = found[library, name]
            last = list(steps.values())[-1]
            if not last.startswith("ok") and len(steps) < 3:
                refusals[name] = re.sub(r"\S*/(?=configuration\.json)", "", last.removeprefix("refused: "))
                rows.append([f"`{name}`", "refused, see below", *[""] * (len(COLUMNS) - 1)])
            else:
                rows.append([f"`{name}`", *(shown(steps[step]) for step in COLUMNS)])
        head = ["model_type" if library == "transformers" else "network of a family", *COLUMNS.values()]
        parts += [f"## {library}", markdown_table(head, rows)]
    text = TEXT.format(
        transformers=transformers.__version__,
        timm=timm.__version__,
        torch=torch.__version__.split("+")[0],
        all=len(found),
        refused=len(refusals),
        passed=len(found) - len(refusals),
    )
    said = "\n".join(f"- `{name}`: {reason}" for name, reason in sorted(refusals.items()))
    Path(target).parent.mkdir(exist_ok=True)
    Path(target).write_text("\n\n".join([text.strip(), *parts, "## Refused", said]) + "\n")


def shown(outcome):
    """Shorten an outcome for a cell."""
    if not outcome.startswith("ok"):
        return "none" if "no residual blocks" in outcome else "**fails**"
    number = re.match(r"ok: (\d+ %|\d+)", outcome)
    return number[1] if number else "✓"


if __name__ == "__main__":
    main(*sys.argv[1:])
