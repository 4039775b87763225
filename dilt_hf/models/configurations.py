"""Transformers configurations, also of untrusted sources.

A configuration can make transformers run code: an implementation of attention is fetched from the Hub and imported
where the package `kernels` is installed, quantisers import packages, timm opens files by name. So of a file only what
its configuration class declares is read, and never a key that names code, files or addresses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dilt_hf.utils.errors import ModelError
from dilt_hf.utils.files import own_file, read_json
from dilt_hf.utils.suggest import suggestion

logger = logging.getLogger(__name__)
MODEL_CONFIG_FILE = "config.json"
MOST_CONFIG_BYTES = 4 * 2**20  # ImageNet-21k's class names take 1.5 MB
MOST_NUMBER = 200_000  # classes, widths, layers: transformers makes a table as long as `num_labels` says
MOST_WORDS = 10_000_000  # of the text encoders that come with CLIP and the like, and size one tensor each

IMPLEMENTATIONS = (None, True, False, "eager", "sdpa")  # of attention and experts: transformers' own
DTYPES = ("float32", "float64", "float16", "bfloat16")
# What every configuration has, as far as a classifier needs it. Everything else is declared by the class or not read.
COMMON_KEYS = frozenset(
    (
        "model_type",
        "architectures",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "num_labels",
        "id2label",
        "label2id",
        "problem_type",
        "tie_word_embeddings",
        "chunk_size_feed_forward",
        "output_hidden_states",
    )
)
# Declared by some classes, and never read of a file: these name code, other repositories or files.
BARRED_KEYS = frozenset(
    (
        "auto_map",
        "attribute_map",
        "quantization_config",
        "backbone",
        "backbone_kwargs",
        "use_pretrained_backbone",
        "use_timm_backbone",
        "name_or_path",
        "transformers_weights",
    )
)
TIMM_KEYS = frozenset(("num_classes", "label_names"))  # of the file, not of the class


def register_architectures() -> None:
    """Make `AutoModelForImageClassification` know this package's own architectures."""
    from transformers import AutoConfig, AutoModelForImageClassification

    from dilt_hf.models import architectures as own

    for name in ("CifarResNet", "Conv3", "HeResNet", "ThinViT", "ThinDeiT"):
        config_class, model_class = getattr(own, f"{name}Config"), getattr(own, f"{name}ForImageClassification")
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModelForImageClassification.register(config_class, model_class, exist_ok=True)
        config_class.register_for_auto_class()  # saved checkpoints carry the code, so they open without this package
        model_class.register_for_auto_class("AutoModelForImageClassification")


def read_configuration(folder: Path) -> Any:
    """Read the transformers configuration of a checkpoint folder.

    Raises:
        ModelError: when there is none, or it asks for what is not read, or does not describe a model.
    """
    path = own_file(folder, MODEL_CONFIG_FILE, "so it is no checkpoint", ModelError)
    return make_configuration(read_json(path, MOST_CONFIG_BYTES, ModelError), str(path))


def fetch_configuration(where: str, revision: str | None, changes: Mapping[str, Any]) -> Any:
    """Fetch the configuration of a checkpoint on the Hub, in a folder, or in a JSON file.

    Args:
        changes: values of the user that replace those of the file.

    Raises:
        ModelError: as `read_configuration`; and for a change of what the configuration does not have.
        Exception: errors of the Hub and of the operating system, unchanged.
    """
    from transformers import PreTrainedConfig

    content, _ = PreTrainedConfig.get_config_dict(where, revision=revision, trust_remote_code=False)
    return make_configuration(content, where, changes)


def make_configuration(content: Any, where: str, changes: Mapping[str, Any] | None = None) -> Any:
    """Make a configuration of what a file says.

    Args:
        content: the file's JSON value.
        where: what messages call the file.
        changes: values of the user, which are trusted.
    """
    from transformers import CONFIG_MAPPING

    if not isinstance(content, dict):
        raise ModelError(f"{where} does not describe a model (it is no JSON object).")
    _check_values(content, where)
    register_architectures()
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ModelError(f"{where} does not describe a model (transformers has no model_type {str(kind)[:60]!r}).")
    config_class = CONFIG_MAPPING[kind]
    changes = dict(changes or {})
    check_declared(config_class, changes)
    try:
        with quiet_transformers():
            # transformers is not given the path: it would follow what the file says to other files
            config = config_class.from_dict(_declared_part(config_class, content, where) | changes)
    except Exception as error:  # transformers meets a damaged file with whatever its values break
        reason = " ".join(str(error.__cause__ or error).split())
        raise ModelError(f"{where} does not describe a model ({reason}).") from error
    _check_implementations(config, where)
    return config


def check_declared(config_class: Any, changes: Mapping[str, Any]) -> None:
    """Check that a user's changes are of what a configuration class has: transformers keeps any name, without effect.

    Raises:
        ModelError: when one is not.
    """
    known = _declared(config_class) | BARRED_KEYS | {"attn_implementation", "experts_implementation"}
    for name in changes:
        if name not in known:
            raise ModelError(
                f"--config_overrides names '{name}', which {config_class.__name__} does not have"
                f"{suggestion(name, known)}."
            )


def classifier_class(config: Any) -> Any:
    """Return the image classifier of a configuration; of several the one that it names, else the first.

    Raises:
        ModelError: when there is none.
    """
    from transformers import AutoModelForImageClassification

    mapping = AutoModelForImageClassification._model_mapping
    if type(config) not in mapping:
        raise ModelError(f"'{config.model_type}' has no image classifier in transformers.")
    found: Any = mapping[type(config)]
    choices = found if isinstance(found, (tuple, list)) else (found,)
    return next((choice for choice in choices if choice.__name__ in (config.architectures or ())), choices[0])


# --- what is read ----------------------------------------------------------------------------------------------------


@functools.cache
def _declared(config_class: Any) -> frozenset[str]:
    """Return the keys that a configuration class knows by name."""
    from transformers import PreTrainedConfig

    names = set(COMMON_KEYS | (TIMM_KEYS if config_class.model_type == "timm_wrapper" else frozenset()))
    for each in config_class.__mro__[: config_class.__mro__.index(PreTrainedConfig)]:
        names |= set(vars(each).get("attribute_map", ()))
        if "__init__" in vars(each):
            names |= set(inspect.signature(each.__init__).parameters) - {"self", "args", "kwargs"}
        if "__dataclass_fields__" in vars(each):
            names |= {field.name for field in dataclasses.fields(each)}
    if "__dataclass_fields__" in vars(PreTrainedConfig):  # these came with every dataclass
        names -= {field.name for field in dataclasses.fields(PreTrainedConfig)} - COMMON_KEYS
    return frozenset(name for name in names - BARRED_KEYS if "implementation" not in name and not name.startswith("_"))


def _declared_part(config_class: Any, content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a configuration class declares of `content`, in the configurations inside it too."""
    from transformers import CONFIG_MAPPING

    known, inner = _declared(config_class), dict(getattr(config_class, "sub_configs", None) or {})
    part: dict[str, Any] = {}
    for name, value in content.items():
        if name not in known:
            continue
        if isinstance(value, dict) and (name in inner or "model_type" in value):
            kind = value.get("model_type")
            named = CONFIG_MAPPING[kind] if isinstance(kind, str) and kind in CONFIG_MAPPING else None
            part[name] = _declared_part(named or inner.get(name) or config_class, value, where)
        else:
            part[name] = value
    left_out = sorted(set(content) - set(part) - {"auto_map", "_name_or_path"})
    if left_out:
        logger.debug("%s: %s does not declare %s; not read.", where, config_class.__name__, ", ".join(left_out))
    asked = content.get("attn_implementation", content.get("_attn_implementation"))
    return part | ({"attn_implementation": asked} if asked in ("eager", "sdpa") else {})


# --- what is refused -------------------------------------------------------------------------------------------------


def _check_values(content: Any, where: str, key: str = "") -> None:
    """Refuse numbers beyond any classifier's, data types that are none, and implementations from elsewhere."""
    if isinstance(content, dict):
        if not key:
            _check_timm(content, where)
        # the keys of these tables are classes, or parts of a model
        of_one_kind = key in ("id2label", "label2id") or _names_code(key)
        for name, value in content.items():
            _check_values(value, where, key if of_one_kind else str(name))
    elif isinstance(content, list):
        for value in content:
            _check_values(value, where, key)
    elif _names_code(key):
        _check_implementation(content, where)
    elif key in ("dtype", "torch_dtype"):
        if content is not None and str(content).removeprefix("torch.") not in DTYPES:
            raise ModelError(f"{where} says '{key}' is {str(content)[:60]!r}, and not one of {', '.join(DTYPES)}.")
    elif isinstance(content, (int, float)):
        most = MOST_WORDS if key.endswith(("vocab_size", "token_id")) else MOST_NUMBER
        if not abs(content) <= most:
            shown = f"{content:g}" if abs(content) < 1e300 else "a longer number"
            raise ModelError(f"{where} says '{key}' is {shown}, more than the {most} that a classifier may need.")


def _names_code(key: str) -> bool:
    return "implementation" in key.lower()


def _check_implementation(asked: Any, where: str) -> None:
    if asked not in IMPLEMENTATIONS:
        raise ModelError(
            f"{where} asks for the implementation {str(asked)[:60]!r}, which would run other code; remove that."
        )


def _check_timm(content: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that would make timm open files or addresses of its own."""
    name, arguments = content.get("architecture"), content.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise ModelError(f"{where} has model_args that are no table of arguments.")
    outside = [key for key in arguments if key.startswith(("pretrained", "checkpoint", "cache", "scriptable"))]
    if (isinstance(name, str) and not name.replace("_", "").replace(".", "").isalnum()) or outside:
        raise ModelError(f"{where} asks timm for '{name}' with {outside}, which would open other files; remove that.")


def _check_implementations(config: Any, where: str) -> None:
    """Check the finished configuration too: classes may map names to others."""
    for name, value in vars(config).items():
        if _names_code(name):
            _check_implementation(value, where)
        if hasattr(value, "model_type"):  # a configuration within the configuration
            _check_implementations(value, where)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers: no progress bar for every small checkpoint, no notice of what is checked here."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
