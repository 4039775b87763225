"""What a dry run knows of data and checkpoints that it does not download."""

import pytest
from helpers.crew import loopback_hub
from helpers.hub_user import User
from helpers.tickets import make_tickets

from dilt_hf.config.data import DataConfig
from dilt_hf.data.described import described
from dilt_hf.data.splits import load_splits
from dilt_hf.utils.errors import DataError

pytestmark = pytest.mark.xdist_group("processes")

CARD = """---
dataset_info:
  features:
  - name: picture
    dtype: image
  - name: animal
    dtype:
      class_label:
        names:
          '0': cat
          '1': dog
          '2': elk
  - name: house
    dtype: string
  splits:
  - name: train
    num_bytes: 1000
    num_examples: 4000
  - name: test
    num_bytes: 1000
    num_examples: 800
  download_size: 2000
  dataset_size: 2000
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
# Pets
"""
FILES = {"data/train-00000-of-00001.parquet": b"rows" * 250, "data/test-00000-of-00001.parquet": b"more" * 250}


def test_imagenet_is_known_without_a_request():
    splits = load_splits(DataConfig(dataset_name="ILSVRC/imagenet-1k", image_size=224), planning=True)
    assert len(splits.train) + len(splits.validation) == 1_281_167
    assert len(splits.test) == 50_000
    assert len(set(splits.class_names)) == 1000
    assert splits.class_names[0] == "tench, Tinca tinca"
    assert splits.source == "ILSVRC/imagenet-1k (as described, not downloaded)"


def test_classes_may_be_chosen_of_a_description():
    config = DataConfig(dataset_name="imagenet-1k", image_size=224, classes=["500-999"])
    assert len(load_splits(config, planning=True).class_names) == 500


def test_what_is_here_is_opened_as_it_is(tmp_path):
    assert described(DataConfig(dataset_name="digits")) is None
    assert described(DataConfig(train_dir=str(tmp_path), test_dir=str(tmp_path / "x"))) is None
    assert described(DataConfig(dataset_name=str(tmp_path))) is None


def test_the_size_of_images_that_are_not_here_must_be_said():
    with pytest.raises(DataError, match="the size of imagenet-1k's images is not known; pass --image_size"):
        load_splits(DataConfig(dataset_name="imagenet-1k"), planning=True)


@pytest.fixture(scope="module")
def hub():
    hub = loopback_hub()
    hub.forget_all()
    for name, card in {"me/pets": CARD, "me/bare": "# Nothing is described"}.items():
        hub.create(name)
        hub.commit(name, FILES | {"README.md": card.encode()})
    return hub


@pytest.fixture(scope="module")
def user(hub, tmp_path_factory):
    user = User(tmp_path_factory.mktemp("described") / "home")
    yield user
    user.end()


@pytest.mark.slow
def test_a_dry_run_fetches_the_description_alone(hub, user):
    hub.traffic()
    plan = user.ask("plan", "me/pets", {"architecture": "conv3"}, {"image_size": 16})
    assert "me/pets (as described, not downloaded): 3601 train, 399 validation, 800 test images at 16 px" in plan
    assert "3 classes; partition_0: 2 classes; partition_1: 1 classes" in plan
    assert "something was left" not in plan
    assert set(hub.traffic()["sent"]) == {"README.md"}


@pytest.mark.slow
def test_of_a_checkpoint_it_fetches_the_configuration(hub, user, tmp_path):
    make_tickets(tmp_path, "conv3", 16)
    hub.create("me/network")
    hub.commit("me/network", {path.name: path.read_bytes() for path in (tmp_path / "theta0").iterdir()})
    hub.traffic()
    plan = user.ask("plan", "me/pets", {"model_name_or_path": "me/network"}, {"image_size": 16})
    assert "Conv3ForImageClassification" in plan
    assert "config.json" in hub.traffic()["sent"]
    assert "model.safetensors" not in hub.traffic()["sent"]


@pytest.mark.slow
def test_data_that_say_nothing_of_their_size_are_refused(hub, user):
    answer = user.ask("plan", "me/bare", {"architecture": "conv3"}, {"image_size": 16})
    assert answer.startswith("DataError: me/bare does not describe its rows and classes")


@pytest.mark.slow
def test_a_column_that_is_not_described_says_so(hub, user):
    answer = user.ask("plan", "me/pets", {"architecture": "conv3"}, {"image_size": 16, "label_column_name": "house"})
    assert answer.startswith("DataError: me/pets does not describe its rows and classes")
    by_house = {"partition_by": "column", "partition_column": "house"}
    answer = user.ask("plan", "me/pets", {"architecture": "conv3"}, {"image_size": 16}, by_house)
    assert answer.startswith("DataError: column 'house' of the train split holds no values (in a dry run")
