"""Images are normalised as a checkpoint has learnt them, or not at all."""

import json

import pytest

from dilt_hf.config.data import DataConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.run.normalization import check_normalization
from dilt_hf.utils.errors import ConfigError


def checkpoint(folder, **processor):
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return ModelConfig(model_name_or_path=str(folder))


def data(mean, std):
    return DataConfig(dataset_name="digits", image_mean=mean, image_std=std)


def test_other_means_than_the_checkpoints_are_refused_with_the_right_ones(tmp_path):
    model = checkpoint(tmp_path, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    check_normalization(model, data([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for mean, std in (([0.5], [0.5]), ([0.485, 0.456, 0.406], [0.5])):
        with pytest.raises(ConfigError, match=r"pass --image_mean 0.485 0.456 0.406 --image_std 0.229 0.224 0.225"):
            check_normalization(model, data(mean, std))


def test_one_number_serves_all_channels(tmp_path):
    check_normalization(checkpoint(tmp_path, image_mean=[0.5] * 3, image_std=[0.5] * 3), data([0.5], [0.5]))


@pytest.mark.parametrize(
    "processor", [{}, {"image_mean": [0.1], "image_std": [0.1], "do_normalize": False}, {"image_mean": "x"}]
)
def test_a_checkpoint_that_does_not_say_is_taken_as_it_is(tmp_path, processor):
    check_normalization(checkpoint(tmp_path, **processor), data([0.5], [0.5]))
    check_normalization(ModelConfig(architecture="conv3"), data([0.3], [0.3]))


def test_networks_of_timm_say_what_they_were_trained_on():
    model = ModelConfig(model_name_or_path="timm:resnet18.a1_in1k", reset_head=True)
    with pytest.raises(ConfigError, match=r"pass --image_mean 0.485 0.456 0.406"):
        check_normalization(model, data([0.5], [0.5]))
