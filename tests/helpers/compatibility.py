"""What a network goes through in a life with tickets, step by step."""

import copy
import json
import math
from pathlib import Path

import torch

from dilt_hf.analysis.representations import collect
from dilt_hf.config.model import ModelConfig
from dilt_hf.data.decoding import image_processor
from dilt_hf.masks.algebra import count_kept, count_total
from dilt_hf.masks.packed import PackedMask
from dilt_hf.masks.topk import keep_largest
from dilt_hf.models import factory
from dilt_hf.models.anatomy import logits_of, unused_parameters
from dilt_hf.models.flops import forward_cost
from dilt_hf.models.safe_loading import load_model
from dilt_hf.models.weights import checkpoint_tensors, prunable_parameters, uncovered_share
from dilt_hf.tickets.switch import TicketSwitch
from dilt_hf.tickets.tickets import Tickets, apply_ticket
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.utils.errors import DiltError
from dilt_hf.utils.seeding import derive_seed

STEPS = ("build", "find", "save", "tickets", "apply", "bfloat16", "compile", "switch", "hold", "blocks", "weights")
DENSITY = 0.3


def configuration_file(name, content, folder):
    """Write a configuration as `--architecture` takes it."""
    path = Path(folder, "configuration.json")
    path.write_text(json.dumps({"model_type": name.split()[0], **content}))
    return str(path)


def life(architecture, size, classes, folder, overrides=None):
    """Take a network through all steps; the outcome of each: "ok", "refused: …" (one sentence) or "failed: …".

    A refusal before anything is trained, in `build` or `find`, ends it.
    """
    outcomes, state = {}, {"overrides": overrides or {}}
    torch.manual_seed(0)
    for step in STEPS:
        try:
            note = globals()[f"_{step}"](state, architecture, size, classes, Path(folder))
            outcomes[step] = "ok" if note is None else f"ok: {note}"
        except DiltError as error:
            outcomes[step] = f"refused: {error}"
        except Exception as error:
            outcomes[step] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if step in ("build", "find") and not outcomes[step].startswith("ok"):
            break
    return outcomes


def _build(state, architecture, size, classes, folder):
    config = ModelConfig(architecture=architecture, config_overrides=state["overrides"])
    state["model"] = factory.build_model(config, [f"class {k}" for k in range(classes)], size, seed=0)
    if architecture.startswith("timm:"):
        _check_initialisation(state["model"], architecture.removeprefix("timm:"), classes)
    state["pixels"] = torch.randn(4, 3, size, size)
    logits = logits_of(state["model"], state["pixels"])
    assert logits.shape == (4, classes), f"the logits are {tuple(logits.shape)}"
    assert logits.isfinite().all(), "the logits are not finite"
    state["logits"] = logits.detach()


def _check_initialisation(model, name, classes):
    """θ0 is what timm draws from the seed, bit for bit."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "theta0"))
        expected = timm.create_model(name, num_classes=classes, **model.config.model_args).state_dict()
    found = model.timm_model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items()), "θ0 is not timm's"


def _find(state, architecture, size, classes, folder):
    model = state["model"]
    unused = unused_parameters(model, size, 3)
    prunable = prunable_parameters(model, unused=unused)
    total = count_total(prunable)
    kept = math.ceil(total * DENSITY)
    scores = {name: weight.detach().abs() for name, weight in prunable.items()}
    others = {name: torch.rand(weight.shape) for name, weight in prunable.items()}
    state["masks"] = [keep_largest(scores, kept), keep_largest(others, kept - 7)]
    assert [count_kept(mask) for mask in state["masks"]] == [kept, kept - 7]
    cost = forward_cost(model, size, 3, prunable)
    free = [name for name, operations in cost.per_tensor.items() if not operations]
    assert not free, f"no operations are counted for {len(free)} of {len(prunable)} tensors: {free[:3]}"
    assert sum(cost.per_tensor.values()) <= cost.total, "the parts have more operations than the whole"
    model.zero_grad()
    logits_of(model.train(), state["pixels"]).logsumexp(1).sum().backward()
    dead = [name for name, weight in prunable.items() if weight.grad is None]
    model.zero_grad()
    model.eval()
    assert not dead, f"no gradient reaches {len(dead)} of {len(prunable)} tensors: {dead[:3]}"
    return f"{100 * uncovered_share(model, prunable, unused):.0f} % of the matrices' weights are not covered"


def _save(state, architecture, size, classes, folder):
    factory.save_model(state["model"], folder / "theta0", image_processor(size, [0.5], [0.5], 3))
    # a copy, because loaded weights lie as they do in the file, and kernels may choose by that how they sum
    loaded = copy.deepcopy(load_model(folder / "theta0"))
    with torch.no_grad():
        assert torch.equal(logits_of(state["model"], state["pixels"]), logits_of(loaded, state["pixels"]))


def _tickets(state, architecture, size, classes, folder):
    tickets = Tickets.found(folder / "theta0", state["masks"], {})
    tickets.save_pretrained(folder / "tickets")
    state["tickets"] = tickets = Tickets.from_pretrained(folder / "tickets")
    _check_zeros(tickets.load_model("core"), tickets.masks("core"))


def _apply(state, architecture, size, classes, folder):
    model = load_model(folder / "theta0")
    apply_ticket(model, state["tickets"], "specialist_0+core")
    _check_zeros(model, state["tickets"].masks("specialist_0+core"))


def _bfloat16(state, architecture, size, classes, folder):
    model = load_model(folder / "theta0").to(torch.bfloat16)
    apply_ticket(model, state["tickets"], "core")
    _check_zeros(model, state["tickets"].masks("core"))
    with torch.no_grad():
        assert logits_of(model, state["pixels"].bfloat16()).isfinite().all()


def _compile(state, architecture, size, classes, folder):
    model = load_model(folder / "theta0")
    compiled = torch.compile(model, backend="eager")
    apply_ticket(compiled, state["tickets"], "core")
    with torch.no_grad():
        expected = logits_of(state["tickets"].load_model("core"), state["pixels"])
        assert torch.allclose(logits_of(compiled, state["pixels"]), expected, rtol=1e-3, atol=1e-4)


def _switch(state, architecture, size, classes, folder):
    model = load_model(folder / "theta0")
    before = {name: tensor.detach().clone() for name, tensor in checkpoint_tensors(model).items()}
    switch = TicketSwitch(model, state["tickets"])
    for name in ("core", "union", "specialist_0"):
        switch.set_ticket(name)
        _check_zeros(model, state["tickets"].masks(name))
    switch.set_ticket(None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint_tensors(model).items())


def _hold(state, architecture, size, classes, folder):
    model = load_model(folder / "theta0").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    mask = state["tickets"].masks("core")
    MaskedWeights(model, mask).hold(optimizer)
    before = {name: checkpoint_tensors(model)[name].detach().clone() for name in mask}
    for _ in range(3):
        optimizer.zero_grad()
        labels = torch.arange(4) % classes
        torch.nn.functional.cross_entropy(logits_of(model, state["pixels"]), labels).backward()
        optimizer.step()
    _check_zeros(model, mask)
    live = checkpoint_tensors(model)
    still = [name for name in mask if bool(mask[name].any()) and torch.equal(live[name], before[name] * mask[name])]
    assert not still, f"{len(still)} tensors did not move: {still[:3]}"


def _blocks(state, architecture, size, classes, folder):
    return _analysed(state, "blocks")


def _weights(state, architecture, size, classes, folder):
    return _analysed(state, "weights")


def _analysed(state, layers):
    found = collect(state["model"], [state["pixels"]], layers=layers)
    modules = {}  # a module that runs twice has its weights in both
    for layer, names in found.weights.items():
        modules.setdefault(layer.split("@")[0], set()).update(names)
    owners = [name for names in modules.values() for name in names]
    assert owners, "no layer has weights"
    twice = len(owners) - len(set(owners))
    constant = [name for name, points in found.layers.items() if points.std(0).max() < 1e-12]
    return f"{len(found.layers)} layers, {twice} tensors in two, {len(constant)} constant"


def _check_zeros(model, mask):
    tensors = checkpoint_tensors(model)
    names = {name: name if name in tensors else name.removeprefix("timm_model.") for name in mask}
    wrong = [name for name, keep in mask.items() if bool((tensors[names[name]].cpu()[~keep] != 0).any())]
    assert not wrong, f"{len(wrong)} tensors are not zero under the mask: {wrong[:3]}"
    kept = PackedMask.of(mask).count_kept()
    assert sum(int((tensors[names[name]] != 0).sum()) for name in mask) <= kept
