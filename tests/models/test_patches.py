"""SigLIP-2 on images: cut as its own image processor cuts them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from dilt_hf.config.model import ModelConfig
from dilt_hf.data.decoding import Normalize, image_processor
from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.factory import build_model, save_model
from dilt_hf.models.safe_loading import load_model
from dilt_hf.utils.errors import ModelError

PART = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIG = {
    "model_type": "siglip2",
    "vision_config": PART | {"patch_size": 8, "num_patches": 16},
    "text_config": PART | {"vocab_size": 99},
}


@pytest.fixture(scope="module")
def architecture(tmp_path_factory):
    path = tmp_path_factory.mktemp("siglip2") / "configuration.json"
    path.write_text(json.dumps(CONFIG))
    return ModelConfig(architecture=str(path))


def test_images_give_what_plain_transformers_makes_of_them(architecture, tmp_path):
    model = build_model(architecture, ["a", "b", "c"], 32, seed=0)
    save_model(model, tmp_path / "theta0", image_processor(32, [0.4], [0.3], 3))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    pixels = Normalize([0.4], [0.3], 3, torch.device("cpu"))(torch.from_numpy(image)[None])
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "theta0").eval()
    inputs = AutoImageProcessor.from_pretrained(tmp_path / "theta0")(Image.fromarray(image), return_tensors="pt")
    with torch.no_grad():
        expected = plain(**inputs).logits
        torch.testing.assert_close(model(pixels).logits, expected)
        torch.testing.assert_close(load_model(tmp_path / "theta0")(pixel_values=pixels).logits, expected)
        torch.testing.assert_close(logits_of(model, **inputs), expected)


def test_images_that_do_not_divide_into_patches_are_refused(architecture):
    with pytest.raises(ModelError, match="images of 30 x 30 do not divide into patches of 8 x 8"):
        build_model(architecture, ["a", "b"], 30, seed=0)
