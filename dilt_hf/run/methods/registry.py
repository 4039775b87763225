"""All methods that a run can compare: one line each. Whatever lists methods derives its list from here.

| method     | scores                                  | of              | distribution | then trains from         |
|------------|-----------------------------------------|-----------------|--------------|--------------------------|
| core, union | magnitude, in rounds on each partition | trained weights | global       | θ0                       |
| LTH        | magnitude, in rounds on all classes     | trained weights | global       | θ0                       |
| one-shot   | magnitude                               | trained weights | global       | θ0 (LTH in one round)    |
| magnitude  | magnitude                               | trained weights | global       | the trained weights      |
| gradual    | magnitude, during training              |                 | global       | θ0                       |
| random     | random                                  |                 | uniform      | θ0                       |
| ERK-random | random                                  |                 | ERK          | θ0                       |
| magnitude-at-init | magnitude                        | θ0              | global       | θ0                       |
| SNIP       | sensitivity                             | θ0              | global       | θ0                       |
| GraSP      | gradient flow                           | θ0              | global       | θ0                       |
| SynFlow    | synaptic flow, in 100 rounds, without data | θ0           | global       | θ0                       |
| RigL, SET  | magnitude, and gradient or random growth, during training | | ERK        | θ0                       |
| COLT       | magnitude, consensus of the partitions  | trained weights | global       | θ0                       |
| IMP-COLT   | magnitude, on all classes, as many weights a round as COLT | trained weights | global | θ0            |
| CAP        | second-order                            | trained weights | global       | the trained weights, updated |
| SAViT      | slopes of gates on heads, units, channels | trained weights | by kind    | the trained weights, fewer |

θ0 stands for the rewind point.
"""

from __future__ import annotations

from collections.abc import Sequence

from dilt_hf.masks.algebra import ticket_formula
from dilt_hf.pruning.allocation import ERK, UNIFORM
from dilt_hf.pruning.at_init import magnitude_scores
from dilt_hf.pruning.grasp import grasp_scores
from dilt_hf.pruning.snip import snip_scores
from dilt_hf.pruning.synflow import ITERATIONS, synflow_scores
from dilt_hf.run.methods.after_training import ByMagnitude
from dilt_hf.run.methods.at_initialisation import AtInitialisation, RandomMask
from dilt_hf.run.methods.cap import Cap
from dilt_hf.run.methods.colt import Colt, ImpAtColtPace
from dilt_hf.run.methods.controls import CONTROLS
from dilt_hf.run.methods.protocol import Method
from dilt_hf.run.methods.savit import Savit
from dilt_hf.run.methods.tickets import LTH, Dense, Ticket
from dilt_hf.run.methods.while_training import Gradual, Rewired
from dilt_hf.utils.errors import ConfigError
from dilt_hf.utils.suggest import suggestion

METHODS: Sequence[Method] = (
    Ticket("core"),
    Ticket("union"),
    LTH(),
    ByMagnitude("one-shot"),
    ByMagnitude("magnitude", rewinds=False),
    Gradual(),
    RandomMask("random", UNIFORM),
    AtInitialisation("magnitude-at-init", magnitude_scores, passes=0, is_data_free=True),
    RandomMask("ERK-random", ERK),
    AtInitialisation("SNIP", snip_scores),
    AtInitialisation("GraSP", grasp_scores, passes=3),
    AtInitialisation("SynFlow", synflow_scores, iterations=ITERATIONS, is_data_free=True),
    Rewired("RigL"),
    Rewired("SET", by_gradient=False),
    Colt(),
    ImpAtColtPace(),
    Cap(),
    Savit(),
)
NAMES = tuple(method.name for method in METHODS)
UNSTRUCTURED = tuple(method.name for method in METHODS if not method.is_structured)
STRUCTURED = tuple(method.name for method in METHODS if method.is_structured)
BENCHMARK = tuple(method.name for method in METHODS if method.in_benchmark)
_BY_NAME = {method.name: method for method in (Dense(), *METHODS)}


def method_of(ticket: str, control: str = "", partitions: int = 2) -> Method:
    """Return the method of a name: one of the table, a ticket of the partitions, or a control of these.

    Args:
        ticket: such as "dense", "LTH", "RigL", "core" or "core+specialist_0".
        control: "" for the network itself, or one of `CONTROLS`.
        partitions: N, which says what tickets there are.

    Raises:
        MaskError: when there is no such method or ticket.
        ConfigError: for an unknown control.

    Example:
        >>> method_of("core", "shuffled").label(0.1)
        'core, shuffled at density 0.1'
    """
    method = _BY_NAME.get(ticket)
    if method is None:
        ticket_formula(ticket, partitions)  # MaskError lists the tickets that there are
        method = Ticket(ticket)
    if not control:
        return method
    if control not in CONTROLS:
        raise ConfigError(f"there is no control '{control}'; known are {', '.join(CONTROLS)}.")
    return CONTROLS[control](control, method)


def check_names(names: Sequence[str]) -> None:
    """Raise `ConfigError` for a name in --methods that is not in the table."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        near = suggestion(unknown[0], NAMES)
        raise ConfigError(f"--methods knows {', '.join(NAMES)}, not {', '.join(unknown)}{near or '.'}")
