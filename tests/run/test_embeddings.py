"""Embeddings of images by a model: complete checkpoints only, of any architecture and number of channels."""

import numpy as np
import pytest
import torch
from helpers.small import CPU
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BitImageProcessor,
    CLIPConfig,
    CLIPModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from dilt_hf.config.data import DataConfig
from dilt_hf.data.opened import open_data
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.run.context import open_run
from dilt_hf.run.embeddings import class_embeddings, image_embeddings
from dilt_hf.utils.errors import DataError

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8}
MODELS = {
    "vit": lambda: ViTModel(ViTConfig(**SMALL, patch_size=4)),
    "vit without a pooler": lambda: ViTModel(ViTConfig(**SMALL, patch_size=4), add_pooling_layer=False),
    "clip": lambda: CLIPModel(
        CLIPConfig(
            vision_config={**SMALL, "patch_size": 4},
            text_config={k: v for k, v in SMALL.items() if k != "image_size"} | {"vocab_size": 9},
        )
    ),
    "resnet": lambda: ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[8], depths=[1], layer_type="basic")),
    "grey": lambda: ViTModel(ViTConfig(**SMALL, patch_size=4, num_channels=1)),
}


def saved(folder, name):
    torch.manual_seed(0)
    model = MODELS[name]()
    model.save_pretrained(folder)
    size = {"height": 8, "width": 8}
    BitImageProcessor(
        do_resize=False, do_center_crop=False, crop_size=size, do_convert_rgb=False, image_mean=[0.5], image_std=[0.5]
    ).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_images_are_embedded_the_same_every_time(tmp_path, name, channels):
    config = DataConfig(dataset_name="digits", max_train_samples=60, max_eval_samples=20)
    data = open_data(config, channels, CPU, progress=False)
    found = [class_embeddings(data, saved(tmp_path, name)) for _ in range(2)]
    assert np.array_equal(*found)
    assert found[0].shape == (10, 8 if name == "resnet" else 16)
    assert np.isfinite(found[0]).all()
    assert len(np.unique(found[0], axis=0)) == 10
    assert image_embeddings(data, "test", str(tmp_path)).shape[0] == len(data.splits.test)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    data = open_data(DataConfig(dataset_name="digits", max_train_samples=60), 3, CPU, progress=False)
    weights = f"{saved(tmp_path, 'vit')}/model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if "layernorm_before" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks the weights .*\(2 in all\), so its embeddings would be random"):
        class_embeddings(data, str(tmp_path))
    assert AutoModel.from_pretrained(tmp_path) is not None  # which transformers would not mind


class SecondProcess(ProcessGroup):
    """One that is not first: what it embeds must not matter."""

    def agree_all(self, decide):
        return [[[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]], {}]


def test_all_processes_take_the_clusters_of_the_first(tmp_path, quick_config, change):
    clusters = {"partition_by": "clusters", "embedding_model": saved(tmp_path, "vit")}
    config = change(quick_config, "partition", num_partitions=2, **clusters)
    alone, other = open_run(config, progress=False), open_run(config, SecondProcess(), progress=False)
    assert alone.partitioning.classes != other.partitioning.classes == ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9))
    rows = alone.data.splits.train.labels[other.subsets[0].rows]
    assert set(rows.tolist()) == {0, 2, 4, 6, 8}
