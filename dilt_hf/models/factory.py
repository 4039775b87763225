"""θ0: building it, and keeping it as an ordinary transformers checkpoint.

A θ0 folder holds `config.json`, `model.safetensors` and `preprocessor_config.json`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dilt_hf.config.model import ModelConfig
from dilt_hf.models.anatomy import check_images
from dilt_hf.models.configurations import (
    MODEL_CONFIG_FILE,
    MOST_CONFIG_BYTES,
    check_declared,
    classifier_class,
    fetch_configuration,
    quiet_transformers,
    register_architectures,
)
from dilt_hf.models.limits import within_memory
from dilt_hf.models.patches import accept_images, fitting_processor
from dilt_hf.models.presets import PRESETS, default_patch_size
from dilt_hf.models.standardised import mask_products
from dilt_hf.models.weights import TIMM_PREFIX, WEIGHTS_FILE, checkpoint_tensors, head_parameters, read_weights
from dilt_hf.utils.errors import DiltError, ModelError
from dilt_hf.utils.files import read_json
from dilt_hf.utils.seeding import derive_seed

logger = logging.getLogger(__name__)
TIMM = "timm:"
QUANTISED = ("I8", "U8", "I4", "U4", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4")  # as safetensors calls them
_UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls classes that have no names
PROCESSOR_FILE, CODE_FILE = "preprocessor_config.json", "architectures.py"


# --- building θ0 -----------------------------------------------------------------------------------------------------


def build_model(
    config: ModelConfig, class_names: Sequence[str], image_size: int, seed: int, planning: bool = False
) -> nn.Module:
    """Build the network with its first weights, in float32 on the CPU: drawn from `seed`, or a checkpoint's.

    The head has one output per class, whatever the partitions are: they share θ0 and all mask shapes.

    Args:
        planning: draw new weights in place of those of a checkpoint on the Hub, which are not downloaded.

    Raises:
        ModelError: for an unknown architecture, one that cannot be configured so or does not take these images, or a
            checkpoint whose head does not have one output per class.
        Exception: errors of the Hub and of the operating system pass through.

    Example:
        >>> model = build_model(ModelConfig(architecture="resnet-micro"), ["cat", "dog"], image_size=32, seed=0)
        >>> type(model).__name__
        'ResNetForImageClassification'
    """
    register_architectures()
    labels = {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: position for position, name in enumerate(class_names)},
    }
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(derive_seed(seed, "theta0"))
        if config.model_name_or_path and not config.model_name_or_path.startswith(TIMM):
            model = _from_checkpoint(config, len(class_names), labels, planning)
        else:
            model = _from_architecture(config, image_size, labels, planning)
        if config.weights_file:
            _fill(model, config)
    model = model.float().eval()
    _check_finite(model, config)
    mask_products(model)
    accept_images(model)
    check_images(model, image_size, config.num_channels, len(class_names))
    return model


def _check_finite(model: nn.Module, config: ModelConfig) -> None:
    """Refuse a checkpoint with numbers that are none: every image would be of the first class.

    A single infinite number that is no parameter is a bound, such as that of activations that are not clipped.
    """
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        is_bound = tensor.ndim == 0 and name not in parameters and not bool(tensor.isnan())
        if not is_bound and not bool(torch.isfinite(tensor).all()):
            where = config.weights_file or config.model_name_or_path or config.architecture
            raise ModelError(f"'{name}' of {where} is not finite (NaN or infinite); give a checkpoint that is.")


def _from_checkpoint(config: ModelConfig, num_labels: int, labels: dict[str, Any], planning: bool) -> nn.Module:
    from transformers import AutoModelForImageClassification

    where = config.model_name_or_path or ""
    settings = fetch_configuration(where, config.model_revision, config.config_overrides)
    if settings.num_labels != num_labels and not config.reset_head:
        raise ModelError(
            f"the head of {where} has {settings.num_labels} outputs, but the dataset has {num_labels} classes; "
            "pass --reset_head true to train a new head, or choose the data it was trained on."
        )
    order = None if config.reset_head else output_order(_class_names(settings), list(labels["label2id"]), where)
    _name_classes(settings, labels)
    if planning and not os.path.exists(where):
        with _building(where):
            return classifier_class(settings)._from_config(settings)
    with _building(where):
        model, report = AutoModelForImageClassification.from_pretrained(
            where,
            config=settings,
            revision=config.model_revision,
            trust_remote_code=False,
            use_safetensors=True,  # nothing is ever unpickled
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    unexpected = sorted(report["unexpected_keys"])
    if unexpected:
        what = (
            f"{where} has {', '.join(unexpected[:3])} ({len(unexpected)} tensors), which {type(model).__name__} lacks"
        )
        if not config.reset_head:
            raise ModelError(
                f"{what}: its config does not describe its weights; correct it, or pass --reset_head true."
            )
        logger.warning("%s: they are left out.", what)
    for path in _weights_files(where, config.model_revision):
        _check_plain(path)
    new = set(head_parameters(model))
    filled = {*report["missing_keys"], *(key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])}
    if filled - (new if config.reset_head else set()):
        raise ModelError(
            f"{where} lacks {', '.join(sorted(filled - new)[:3] or sorted(filled)[:3])} in the shape that its config "
            "says; it would start with random weights there."
        )
    if order is not None:
        _reorder_outputs(model, order)
    return model


def output_order(stored: Sequence[str], wanted: Sequence[str], where: str) -> list[int] | None:
    """Return which output of a checkpoint is which class of the data, by the names of both; None where each is its own.

    Names that have nothing in common, such as those of ImageNet's synsets and their descriptions, say nothing: a
    warning says that they are taken to be the same classes in the same order.

    Raises:
        ModelError: when some names are the same and stand for other outputs.

    Example:
        >>> output_order(["dog", "cat"], ["cat", "dog"], "me/pets")
        [1, 0]
    """
    if list(stored) == list(wanted) or all(_UNNAMED.fullmatch(name) for name in stored):
        return None
    stored, wanted = ([name.strip().casefold() for name in names] for names in (stored, wanted))
    if stored == wanted:
        return None
    places = {name: place for place, name in enumerate(stored)}
    if set(places) == set(wanted) and len(places) == len(stored):
        logger.warning("the outputs of %s have another order than the classes of the data; they go by name.", where)
        return [places[name] for name in wanted]
    moved = [name for place, name in enumerate(wanted) if name in places and stored[place] != name]
    if moved:
        raise ModelError(
            f"the classes of {where} are not those of the data: its output {places[moved[0]]} is '{moved[0]}', which "
            f"is class {list(wanted).index(moved[0])} there; name the classes alike, or pass --reset_head true to "
            "train a new head."
        )
    differing = next(place for place, name in enumerate(wanted) if stored[place] != name)
    logger.warning(
        "the classes of %s are taken to be those of the data in the same order, though their names differ: output %d "
        "is '%s' there, and '%s' in the data.",
        where,
        differing,
        stored[differing],
        wanted[differing],
    )
    return None


def _class_names(settings: Any) -> list[str]:
    return [str(settings.id2label.get(k, f"LABEL_{k}")) for k in range(settings.num_labels)]


@torch.no_grad()
def _reorder_outputs(model: nn.Module, order: Sequence[int]) -> None:
    for name, parameter in head_parameters(model).items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if parameter.shape[0] != len(order) or not isinstance(owner, (nn.Linear, nn.modules.conv._ConvNd)):
            raise ModelError(
                f"the outputs of {type(model).__name__} are not those of a linear layer ('{name}'), so they cannot be "
                "brought into the order of the data's classes; pass --reset_head true, or order the data as it does."
            )
        parameter.copy_(parameter[list(order)])


def _from_architecture(config: ModelConfig, image_size: int, labels: dict[str, Any], planning: bool) -> nn.Module:
    name = config.architecture or config.model_name_or_path or ""
    settings = labels | config.config_overrides
    with _building(name):
        if name.startswith(TIMM):
            return _from_timm(name.removeprefix(TIMM), config, image_size, labels, planning)
        if name in PRESETS:
            settings = PRESETS[name](image_size, config.patch_size, **{"num_channels": config.num_channels} | settings)
            check_declared(type(settings), config.config_overrides)
        elif os.path.exists(name) or "/" in name:
            settings = fetch_configuration(name, config.model_revision, settings)
            _set_image_size(settings, image_size, config.config_overrides)
        else:
            raise ModelError(
                f"there is no architecture '{name}'; use one of {', '.join(PRESETS)}, timm:NAME, or the Hub id, folder "
                "or JSON file of a transformers config."
            )
        _name_classes(settings, labels)
        return classifier_class(settings)._from_config(settings)


def _name_classes(settings: Any, labels: Mapping[str, Any]) -> None:
    """Give a configuration its classes; some have a field with their number besides."""
    settings.num_labels = len(labels["id2label"])
    for name, value in labels.items():
        setattr(settings, name, value)


def _set_image_size(settings: Any, image_size: int, chosen: Mapping[str, Any]) -> None:
    """Let a configuration that fixes the size of its images have the size of the data's."""
    inner = getattr(settings, "vision_config", settings)
    fixed = getattr(inner, "image_size", None)
    if fixed is None or "image_size" in chosen or "vision_config" in chosen:
        return
    wanted: Any = type(fixed)([image_size] * len(fixed)) if isinstance(fixed, (list, tuple)) else image_size
    if fixed != wanted:
        logger.warning("the architecture's image_size is %s: set to %s, the size of the data's images.", fixed, wanted)
        inner.image_size = wanted


def _weights_files(where: str, revision: str | None) -> list[Path]:
    """Return the weights files of a checkpoint that has been loaded."""
    from transformers.utils import cached_file

    folder = where
    if not os.path.isdir(where):
        folder = os.path.dirname(cached_file(where, MODEL_CONFIG_FILE, revision=revision, local_files_only=True) or "")
    return sorted(Path(folder).glob("model*.safetensors"))


def _check_plain(path: str | os.PathLike) -> None:
    """Refuse quantised weights: without their scales they are other numbers."""
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    quantised = next((name for name, kind in kinds.items() if kind in QUANTISED), None)
    if quantised is not None:
        raise ModelError(
            f"{path} is quantised ('{quantised}' is {kinds[quantised]}), and masks need the weights themselves; give "
            "the checkpoint that it was made from."
        )


@contextlib.contextmanager
def _building(name: str) -> Iterator[None]:
    """Turn whatever a network's code meets in settings that do not fit it, or the machine, into one sentence."""
    try:
        with within_memory():
            yield
    except (DiltError, OSError, MemoryError):  # the Hub's errors are OSErrors
        raise
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        raise ModelError(f"{name} cannot be built with these settings: {reason}") from error


def _fill(model: nn.Module, config: ModelConfig) -> None:
    """Put the weights of `config.weights_file` into a model of that architecture, all but those of a new head."""
    path, tensors = config.weights_file or "", checkpoint_tensors(model)
    if not os.path.isfile(path):
        raise ModelError(f"there is no file {path}; --weights_file takes one safetensors file.")
    heads = {id(parameter) for parameter in head_parameters(model).values()}
    needed = {name for name, tensor in tensors.items() if not (config.reset_head and id(tensor) in heads)}
    stored = read_weights(path)
    if not needed <= set(stored):  # timm's own names
        stored = {TIMM_PREFIX + name: tensor for name, tensor in stored.items()}
    _check_plain(path)
    homeless = sorted(set(stored) - set(tensors))
    if homeless:
        raise ModelError(
            f"{path} is of another network than {config.architecture}: it has '{homeless[0]}' ({len(homeless)} tensors "
            "have no place there)."
        )
    wrong = [name for name in sorted(needed) if name not in stored or stored[name].shape != tensors[name].shape]
    if wrong:
        raise ModelError(
            f"{path} does not fill {config.architecture}: it lacks {wrong[0]} in the shape "
            f"{tuple(tensors[wrong[0]].shape)} ({len(wrong)} of {len(needed)} tensors do not fit)"
            f"{'' if config.reset_head else '; if only the head differs, pass --reset_head true'}."
        )
    with torch.no_grad():
        for name in needed:
            tensors[name].copy_(stored[name])


def _from_timm(name: str, config: ModelConfig, image_size: int, labels: dict[str, Any], planning: bool) -> nn.Module:
    """Wrap a timm network in transformers' wrapper, the form in which it can be saved and reloaded."""
    import timm
    from transformers import AutoModelForImageClassification, TimmWrapperConfig

    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ModelError(f"timm has no model '{name}'{'; it has ' + ', '.join(near) if near else ''}.")
    arguments = {"in_chans": config.num_channels, **config.config_overrides}
    base = name.split(".")[0]
    if any(timm.list_models(base, module=family) for family in ("vision_transformer", "deit")):
        arguments = {"patch_size": config.patch_size or default_patch_size(image_size)} | arguments
    if "img_size" not in arguments and not _is_timm(base, arguments | {"img_size": image_size}):
        sized = arguments  # the network takes images of any size
    else:
        sized = {"img_size": image_size} | arguments
    settings = TimmWrapperConfig(architecture=base, model_args=sized, **labels)
    seed = torch.initial_seed()
    model = AutoModelForImageClassification.from_config(settings)
    torch.manual_seed(seed)
    # transformers initialises every network in one way; a timm network has its own
    model.timm_model = timm.create_model(base, num_classes=len(labels["id2label"]), **sized)
    if config.model_name_or_path:
        if not config.reset_head:
            raise ModelError(f"{name} brings its own classes; pass --reset_head true to train a head for these.")
        if not planning:
            model.timm_model.load_state_dict(_timm_checkpoint(name, len(labels["id2label"]), sized))
    return model


def _is_timm(name: str, arguments: dict[str, Any]) -> bool:
    """Return whether timm builds a network with these arguments."""
    import timm

    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            timm.create_model(name, **arguments)
    except TypeError:
        return False
    except Exception:  # it knows the argument; what is wrong with it is said where the network is built
        return True
    return True


def _timm_checkpoint(name: str, classes: int, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Fetch the pretrained weights that timm publishes, from safetensors alone: nothing is ever unpickled."""
    import timm
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    published = timm.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        raise ModelError(f"timm publishes no weights of {name} on the Hub; choose one of `timm.list_pretrained()`.")
    try:
        file = hf_hub_download(published.hf_hub_id, WEIGHTS_FILE)
    except EntryNotFoundError as error:
        raise ModelError(f"{published.hf_hub_id} has no {WEIGHTS_FILE}, and pickled weights are not opened.") from error
    network = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": file}, num_classes=classes, **arguments
    )
    return network.state_dict()


# --- θ0 on disk ------------------------------------------------------------------------------------------------------


def save_model(model: nn.Module, folder: str | os.PathLike, processor: Any = None) -> None:
    """Write a transformers checkpoint that plain `from_pretrained` opens, with its image processor."""
    with quiet_transformers():
        # θ0 is one file: its sha256 is its identity
        model.save_pretrained(folder, max_shard_size="1000GB", state_dict=_without_copies(model))
        if processor is not None:
            fitting_processor(model, processor).save_pretrained(folder)


def _without_copies(model: nn.Module) -> dict[str, Tensor] | None:
    """Return the state of a model that has modules in several places, each once; None where transformers sees to it."""
    state = model.state_dict(keep_vars=True)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    first: dict[int, str] = {}
    for name in sorted(state):
        first.setdefault(id(state[name]), name)
    copies = set(state) - set(first.values()) - tied
    return {name: tensor for name, tensor in state.items() if name not in copies} if copies else None


def checkpoint_activations(model: nn.Module) -> None:
    """Let `model` compute activations again in the backward pass instead of keeping them.

    Raises:
        ModelError: when the architecture has no such mode.
    """
    inner = getattr(model, "timm_model", model)
    try:
        if hasattr(inner, "set_grad_checkpointing"):
            inner.set_grad_checkpointing(True)
        else:
            # the older name is on its way out
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            cast(Any, enable)({"use_reentrant": False})
    except (ValueError, AttributeError, AssertionError) as error:
        raise ModelError(f"{type(model).__name__} has no --gradient_checkpointing; leave it out.") from error


def has_own_code(folder: Path) -> bool:
    """Return whether a checkpoint is of one of this package's own architectures, whose code travels with it."""
    return (folder / CODE_FILE).is_file()


def write_own_code(folder: Path) -> None:
    """Put this package's own architectures next to a checkpoint that refers to them.

    Only ever our own file: what somebody else put there under that name is not passed on.
    """
    from dilt_hf.models import architectures

    config = read_json(folder / MODEL_CONFIG_FILE, MOST_CONFIG_BYTES, ModelError)
    named = config.get("auto_map") if isinstance(config, dict) else None
    if isinstance(named, dict) and all(str(name).startswith(f"{Path(CODE_FILE).stem}.") for name in named.values()):
        shutil.copyfile(architectures.__file__, folder / CODE_FILE)
