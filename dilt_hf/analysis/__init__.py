"""Do the networks divide the work? Distances between layers, modules of layers, and how both go with the masks.

from dilt_hf.analysis import collect, gw_matrix

a, b = (collect(model, batches_of_pixels) for model in (one, other))
found = gw_matrix(a.layers, b.layers)
found.value, found.retention, found.lower_bound
"""

from typing import TYPE_CHECKING

from dilt_hf.utils.lazy import names_of

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


__getattr__, __dir__ = names_of(__name__, _HOME)

if TYPE_CHECKING:
    from dilt_hf.analysis.joint import JointGw, joint_gw
    from dilt_hf.analysis.layers import find_layers, weights_of_layers
    from dilt_hf.analysis.link import measure_link
    from dilt_hf.analysis.matrix import GwMatrix, gw_matrix
    from dilt_hf.analysis.modules import Modules, find_modules, propose
    from dilt_hf.analysis.representations import Representations, collect
    from dilt_hf.analysis.similarity import linear_cka, rsa
