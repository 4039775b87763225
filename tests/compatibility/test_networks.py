"""Architectures of transformers and timm, each through a whole life with tickets. All of them: `make compat`."""

import json
import os
from pathlib import Path

import pytest
from helpers.compatibility import configuration_file, life
from networks import SIZES, TIMM_OVERRIDES, TIMM_QUICK, TIMM_REST, TIMM_SIZES, TRANSFORMERS

CLASSES = 5
KEPT = os.environ.get("DILT_COMPAT")  # the folder that outcomes are kept in; then every family takes its turn
pytestmark = pytest.mark.slow
# One true sentence before anything is trained: part of it, by the network.
REFUSED = {
    "dinat": "requires the natten library",
    "dinov2 swiglu": "is stored with merged or split tensors",
    "imagegpt": "ImageGPTForImageClassification takes colours as words",
    "shieldgemma2": "ShieldGemma2ForImageClassification takes text",
}


# They have no residual blocks; their layers can be compared all the same.
PLAIN = {"vgg11"}


def check(name, outcomes, library="transformers"):
    if KEPT:
        Path(KEPT).mkdir(parents=True, exist_ok=True)
        Path(KEPT, f"{library} {name}.json").write_text(json.dumps(outcomes))
    wrong = {step: outcome for step, outcome in outcomes.items() if not outcome.startswith("ok")}
    if name in PLAIN:
        assert "has no residual blocks; use layers='weights'" in wrong.pop("blocks")
    if name in REFUSED:
        assert list(wrong) == [list(outcomes)[-1]], outcomes
        assert REFUSED[name] in next(iter(wrong.values()))
    else:
        assert not wrong
        assert name in PLAIN or ", 0 tensors in two" in outcomes["blocks"]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_an_image_classifier_of_transformers(name, tmp_path):
    architecture = configuration_file(name, TRANSFORMERS[name], tmp_path)
    check(name, life(architecture, SIZES.get(name, 32), CLASSES, tmp_path))


@pytest.mark.parametrize("name", TIMM_QUICK + (TIMM_REST if KEPT else ()))
def test_a_family_of_timm(name, tmp_path):
    size = TIMM_SIZES.get(name, 64)
    check(name, life(f"timm:{name}", size, CLASSES, tmp_path, TIMM_OVERRIDES.get(name)), "timm")
