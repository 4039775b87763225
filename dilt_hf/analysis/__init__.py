"""Do the networks divide the work? Distances between layers, modules of layers, and how both go with the masks.

from dilt_hf.analysis import collect, gw_matrix

a, b = (collect(model, batches_of_pixels) for model in (one, other))
found = gw_matrix(a.layers, b.layers)
found.value, found.retention, found.lower_bound
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "GwMatrix": "matrix",
    "JointGw": "joint",
    "Modules": "modules",
    "Representations": "representations",
    "collect": "representations",
    "find_layers": "layers",
    "find_modules": "modules",
    "gw_matrix": "matrix",
    "joint_gw": "joint",
    "linear_cka": "similarity",
    "measure_link": "link",
    "propose": "modules",
    "rsa": "similarity",
    "weights_of_layers": "layers",
}

__all__ = [
    "GwMatrix",
    "JointGw",
    "Modules",
    "Representations",
    "collect",
    "find_layers",
    "find_modules",
    "gw_matrix",
    "joint_gw",
    "linear_cka",
    "measure_link",
    "propose",
    "rsa",
    "weights_of_layers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dilt_hf.analysis' has no attribute '{name}'")
    return getattr(importlib.import_module(f"dilt_hf.analysis.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from dilt_hf.analysis.joint import JointGw, joint_gw
    from dilt_hf.analysis.layers import find_layers, weights_of_layers
    from dilt_hf.analysis.link import measure_link
    from dilt_hf.analysis.matrix import GwMatrix, gw_matrix
    from dilt_hf.analysis.modules import Modules, find_modules, propose
    from dilt_hf.analysis.representations import Representations, collect
    from dilt_hf.analysis.similarity import linear_cka, rsa
