"""The layers of a network: which there are, what they put out, and which weights make it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.models.weights import head_parameters, prunable_parameters, unwrapped, weight_of
from dilt_hf.utils.errors import AnalysisError

BLOCKS, WEIGHTS, HIDDEN_STATES = GRANULARITIES = ("blocks", "weights", "hidden_states")
_NUMBERED = re.compile(r"[A-Za-z_]*\d+[a-z]?")


def find_layers(model: nn.Module, pixels: Tensor, layers: str | Sequence[str] = BLOCKS) -> tuple[str, ...]:
    """Return the names of the layers of a network, in the order in which it runs them.

    Args:
        model: a transformers, timm or plain torch network.
        pixels: a batch to run it on, (B, C, H, W).
        layers: "blocks" for the residual blocks; "weights" for every convolution and linear module but the head;
            "hidden_states" for what transformers calls so; or names of modules. A module that runs more than once in a
            forward pass gives the layers name, name@2, ….

    Raises:
        AnalysisError: when the network has no such layers.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> find_layers(net, torch.zeros(1, 3, 8, 8), "weights")
        ('0', '3')
    """
    model = unwrapped(model)
    modules = dict(model.named_modules())
    if isinstance(layers, str) and layers not in GRANULARITIES:
        raise AnalysisError(f"layers must be one of {', '.join(GRANULARITIES)}, or a list of module names: '{layers}'.")
    if layers == BLOCKS:
        wanted = _blocks(model)
        if not wanted:
            raise AnalysisError(
                f"{type(model).__name__} has no residual blocks; use layers='weights', or name modules."
            )
    elif layers == WEIGHTS:
        heads = {id(parameter) for parameter in head_parameters(model).values()}
        wanted = [
            name for name, module in modules.items() if (w := weight_of(module)) is not None and id(w) not in heads
        ]
    elif layers == HIDDEN_STATES:
        wanted = [HIDDEN_STATES]
    else:
        if not layers:
            raise AnalysisError("there are no layers named to compare.")
        wanted = [_module(name) for name in layers]
        missing = [name for name in wanted if name not in modules and not name.startswith(HIDDEN_STATES)]
        if missing:
            near = [name for name in modules if missing[0].rsplit(".", 1)[-1] in name][:3]
            raise AnalysisError(
                f"{type(model).__name__} has no module '{missing[0]}'{'; it has ' + ', '.join(near) if near else ''}."
            )
    seen: list[str] = []
    with torch.no_grad():
        run(model, pixels, wanted, lambda name, _: seen.append(name))
    if isinstance(layers, str):
        return tuple(seen)
    unseen = [name for name in layers if name not in seen]
    if unseen:
        raise AnalysisError(f"module '{unseen[0]}' does not run in a forward pass of {type(model).__name__}.")
    return tuple(name for name in seen if name in set(layers))


def _blocks(model: nn.Module) -> list[str]:
    """Return the residual blocks: the innermost repeated parts that hold two matrices or more.

    Candidates are the elements of lists and sequences, and children that are numbered (`b1`, `Mixed_5b`). One with
    candidates inside is divided into these where they hold most of its weights, as those of a stage do; a gate inside a
    block does not.
    """
    heads = {id(parameter) for parameter in head_parameters(model).values()}

    def weights(module: nn.Module) -> dict[int, int]:
        found = {id(w): w.numel() for each in module.modules() if (w := weight_of(each)) is not None}
        return {key: size for key, size in found.items() if key not in heads}

    def divided(name: str, module: nn.Module, is_candidate: bool) -> list[str]:
        mine = weights(module)
        if len(mine) < 2:
            return []
        listed = isinstance(module, (nn.ModuleList, nn.Sequential))
        inner = [
            each
            for child, element in module.named_children()
            for each in divided(f"{name}.{child}".lstrip("."), element, listed or bool(_NUMBERED.fullmatch(child)))
        ]
        if not is_candidate:
            return inner
        covered = {key: size for each in inner for key, size in weights(model.get_submodule(each)).items()}
        return inner if 2 * sum(covered.values()) >= sum(mine.values()) else [name]

    return divided("", model, False)


def run(model: nn.Module, pixels: Tensor, layers: Iterable[str], see: Callable[[str, Tensor], None]) -> None:
    """Run one forward pass in evaluation mode; `see` gets each layer's name and output, at the moment when it is made.

    Raises:
        AnalysisError: when a layer's output is no tensor, or there are no hidden states.
    """
    model = unwrapped(model)
    layers = set(layers)
    names = {_module(name) for name in layers}
    calls: Counter[str] = Counter()

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] += 1
            see(name if calls[name] == 1 else f"{name}@{calls[name]}", _tensor(output, name))

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name in names]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        if any(name.startswith(HIDDEN_STATES) for name in names):
            for index, state in enumerate(_hidden_states(model, pixels)):
                if HIDDEN_STATES in names or f"{HIDDEN_STATES}.{index}" in names:
                    see(f"{HIDDEN_STATES}.{index}", state)
        else:
            model(pixels)
    finally:
        for module, training in modes.items():
            module.training = training
        for hook in hooks:
            hook.remove()


def ends_of(model: nn.Module, pixels: Tensor, layers: Sequence[str]) -> dict[str, str]:
    """Return, for each layer, the layer after whose norm and activation its output counts.

    What a convolution puts out before them is nearly linear in its input: that of the first is mostly the brightness of
    the image. From a layer's own module on, modules are followed that take its output as it is, keep its shape, and
    hold no matrix: norms, activations, dropout. Operations outside modules end the chain, but for those in place: a
    residual that is added to the output itself is part of it.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
        >>> ends_of(net, torch.zeros(1, 3, 8, 8), ["0", "3"])
        {'0': '2', '3': '3'}
    """
    model = unwrapped(model)
    modules = dict(model.named_modules())
    weighty = {name for name, module in modules.items() if any(p.ndim > 1 for p in module.parameters())}
    ends = {name: name for name in layers}
    latest: dict[str, Tensor] = {}  # the output so far, which is kept so that no other tensor takes its place
    calls: Counter[str] = Counter()

    def begin(name: str, output: Tensor) -> None:
        if name in ends:
            latest[name] = output

    def follow(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] += 1
            for layer, tensor in latest.items():
                if len(inputs) == 1 and inputs[0] is tensor and isinstance(output, Tensor):
                    if output.shape == tensor.shape:
                        latest[layer] = output
                        ends[layer] = name if calls[name] == 1 else f"{name}@{calls[name]}"
                    break

        return hook

    hooks = [module.register_forward_hook(follow(name)) for name, module in modules.items() if name not in weighty]
    try:
        with torch.no_grad():
            run(model, pixels, layers, begin)
    finally:
        for each in hooks:
            each.remove()
    return ends


def _tensor(output: Any, name: str) -> Tensor:
    """Return the tensor that a module puts out; the first of several."""
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if isinstance(output, Mapping) and output:  # a ModelOutput of transformers
        output = next(iter(output.values()))
    if not isinstance(output, Tensor):
        raise AnalysisError(f"module '{name}' puts out a {type(output).__name__}, not a tensor; name another.")
    return output


def _hidden_states(model: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
    try:
        states = model(pixels, output_hidden_states=True).hidden_states
    except (TypeError, AttributeError, ValueError) as error:
        raise AnalysisError(
            f"{type(model).__name__} gives no hidden states ({str(error).splitlines()[0]}); use layers='blocks'."
        ) from error
    if not states:
        raise AnalysisError(f"{type(model).__name__} gives no hidden states; use layers='blocks'.")
    return states


def weights_of_layers(model: nn.Module, pixels: Tensor, layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return which prunable weights make each layer's representation from those of the layers before it.

    Read off the graph of operations: from a layer's output backwards, along every path, until another layer's output
    or the input. So the weights of a skip connection belong to the block that it ends in, and those of a module that
    runs twice to both layers. Otherwise a weight belongs to the layer whose module holds it, or to the first that
    depends on it, so layers partition the weights. Weights that no layer depends on (such as the last, behind all of
    them) are nobody's. Hidden states may be copies that lie off the path; each has the weights that those before it
    have not.

    Returns:
        Names as in `prunable_parameters`, sorted, by layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1))
        >>> weights_of_layers(net, torch.zeros(1, 3, 8, 8), ["0", "3"])
        {'0': ('0.weight',), '3': ('2.weight', '3.weight')}
    """
    model = unwrapped(model)
    parameters = prunable_parameters(model, include_head=True)
    names = {id(parameter): name for name, parameter in parameters.items()}
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    nodes: dict[str, Any] = {}
    kept: list[Tensor] = []  # so that no other tensor takes the place of one of these

    def see(name: str, output: Tensor) -> None:
        if name in layers:
            nodes[name] = output.grad_fn  # now: an operation in place would put another here
            kept.append(output)

    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            run(model, pixels.clone(), layers, see)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    ends = {node for node in nodes.values() if node is not None}
    holders = _holders(model, layers, names)
    owners: dict[str, str] = {}
    reached = {name: _reached(nodes.get(name), ends, names) for name in layers}
    for name, weights in reached.items():
        for weight in weights:
            owners.setdefault(weight, holders.get(weight, _module(name)))
    seen = {(_module(name), weight) for name, weights in reached.items() for weight in weights}
    return {
        # a module may put out more than its first tensor: what only leads to the others is its own all the same
        name: tuple(
            sorted(
                weight
                for weight, owner in owners.items()
                if owner == _module(name) and (weight in reached[name] or (owner, weight) not in seen)
            )
        )
        for name in layers
    }


def _module(layer: str) -> str:
    """Return the name of the module that a layer is the output of."""
    return re.sub(r"@\d+$", "", layer)


def _holders(model: nn.Module, layers: Sequence[str], names: Mapping[int, str]) -> dict[str, str]:
    """Return the innermost of the layers' modules that holds each weight."""
    modules = dict(model.named_modules())
    inside = sorted({_module(name) for name in layers} & set(modules), key=lambda name: name.count("."))
    return {names[id(p)]: name for name in inside for p in modules[name].parameters() if id(p) in names}


def _reached(start: Any, ends: set[Any], names: Mapping[int, str]) -> set[str]:
    """Return the names of the leaves from which a node of the graph is made, no further back than other ends."""
    found, visited, coming = set(), {start}, [start] if start is not None else []
    while coming:
        node = coming.pop()
        if hasattr(node, "variable"):
            found |= {names[id(node.variable)]} if id(node.variable) in names else set()
        for earlier, _ in node.next_functions:
            if earlier is not None and earlier not in visited and earlier not in ends:
                visited.add(earlier)
                coming.append(earlier)
    return found
