"""Holding a mask in any loop."""

import copy

import pytest
import torch
from helpers.small import masks_of, network
from helpers.tickets import build

from dilt_hf.models.weights import prunable_parameters
from dilt_hf.training import masking
from dilt_hf.training.trainer_callback import TicketCallback
from dilt_hf.utils.errors import ConfigError, MaskError, ModelError


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="has no weights nothing"):
        masking.MaskedWeights(network(), {"nothing": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(ModelError, match=r"is \(8, 3, 3, 3\) in the model and \(2,\) in the mask"):
        masking.MaskedWeights(network(), {"features.0.0.weight": torch.ones(2, dtype=torch.bool)})


def test_holding_keeps_any_loop_on_the_mask_until_released():
    model = network()
    masks = masks_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    masked = masking.MaskedWeights(model, masks)
    masked.hold(optimizer)
    pixels = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def step():
        optimizer.zero_grad()
        model(pixels).logits.square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step()
        for name, parameter in prunable_parameters(model).items():
            assert not bool(parameter[~masks[name]].any())
            assert not bool(parameter.grad[~masks[name]].any())
    masked.release()
    step()
    assert any(bool(parameter[~masks[name]].any()) for name, parameter in prunable_parameters(model).items())


def trained_step(model, optimizer, steps=1):
    pixels = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        model(pixels.to(next(model.parameters()).dtype)).logits.square().mean().backward()
        optimizer.step()


def assert_held(model, masks):
    for name, parameter in prunable_parameters(model).items():
        assert not bool((parameter[~masks[name]] != 0).any()), name
        assert parameter.grad is None or not bool((parameter.grad[~masks[name]] != 0).any()), name


def test_unfrozen_parameters_are_held_from_their_first_step():
    model = network()
    masks = masks_of(model)
    first = next(iter(prunable_parameters(model).values()))
    first.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masked = masking.MaskedWeights(model, masks)
    masked.hold(optimizer)
    trained_step(model, optimizer)
    first.requires_grad_(True)
    for _ in range(2):
        trained_step(model, optimizer)
        assert_held(model, masks)
    assert bool(first.grad.any())


def test_a_model_that_moves_to_another_dtype_stays_held():
    model = network()
    masks = masks_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masking.MaskedWeights(model, masks).hold(optimizer)
    trained_step(model, optimizer)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        optimizer.zero_grad()
        model.to(dtype)
        trained_step(model, optimizer)
        assert_held(model, masks)


@pytest.mark.parametrize("replace", ["assigned", "tied"])
def test_replaced_parameters_are_noticed_at_the_next_step(replace):
    model = network()
    masks = masks_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masking.MaskedWeights(model, masks).hold(optimizer)
    trained_step(model, optimizer)
    convolution = model.features[1][0]
    other = model.features[0][0].weight if replace == "tied" else torch.nn.Parameter(convolution.weight.detach() + 1)
    convolution.weight = other
    optimizer.zero_grad()
    with pytest.raises(ModelError, match=r"'features\.1\.0\.weight' was replaced by another parameter"):
        optimizer.step()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -0.0])
def test_what_is_removed_is_exactly_zero_whatever_it_was(value):
    model = network()
    masks = masks_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masked = masking.MaskedWeights(model, masks)

    def spoil(tensors):
        for name, tensor in tensors.items():
            tensor.data[~masks[name]] = value

    spoil(prunable_parameters(model))
    masked.hold(optimizer)
    assert_held(model, masks)
    trained_step(model, optimizer)
    spoil({name: parameter.grad for name, parameter in prunable_parameters(model).items()})
    masked.mask_gradients()
    assert_held(model, masks)


def test_a_block_holds_as_long_as_it_lasts():
    model = network()
    masks = masks_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError), masking.MaskedWeights(model, masks).holding(optimizer):
        trained_step(model, optimizer, steps=1 // 0)
    trained_step(model, optimizer)
    assert any(bool(parameter[~masks[name]].any()) for name, parameter in prunable_parameters(model).items())


@pytest.mark.parametrize("kept", ["meta", "offloaded"])
def test_weights_that_are_kept_elsewhere_are_refused(kept):
    model = network()
    masks = masks_of(model)
    if kept == "meta":
        model = model.to("meta")
    else:
        from accelerate import cpu_offload

        cpu_offload(model, execution_device="cpu")
    with pytest.raises(ModelError, match="is not in memory"):
        masking.MaskedWeights(model, masks)


def test_masks_are_taken_by_parameter_names_and_by_those_of_timms_wrapper():
    import timm

    bare = timm.create_model("test_resnet", num_classes=3)
    masks = masks_of(bare)
    masking.MaskedWeights(bare, {f"timm_model.{name}": mask for name, mask in masks.items()}).mask_weights()
    assert_held(bare, masks)
    vit = build("vit-micro", 8)
    places = {id(parameter): name for name, parameter in vit.named_parameters()}
    masks = masks_of(vit)
    by_parameter = {places[id(p)]: masks[name] for name, p in prunable_parameters(vit).items()}
    assert set(by_parameter) != set(masks)
    masking.MaskedWeights(vit, by_parameter).mask_weights()
    assert_held(vit, masks)
    with pytest.raises(ModelError, match="names one tensor of ViTForImageClassification twice"):
        masking.MaskedWeights(vit, by_parameter | masks)


def test_what_a_state_dict_brings_is_masked_at_once_while_it_is_held():
    model, other = network(), network()
    masks = masks_of(model)
    for parameter in other.parameters():
        parameter.data.uniform_(0.5, 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    masked = masking.MaskedWeights(model, masks)
    with masked.holding(optimizer):
        for load in (
            lambda: model.load_state_dict(other.state_dict()),
            lambda: model.features.load_state_dict(other.features.state_dict()),
            lambda: model.features[0][0].load_state_dict(other.features[0][0].state_dict()),
        ):
            load()
            assert_held(model, masks)
            assert all(bool((p[masks[name]] > 0).all()) for name, p in prunable_parameters(model).items())
        copy.deepcopy(model).load_state_dict(other.state_dict())
        assert_held(model, masks)
        with pytest.raises(ModelError, match="was replaced by another parameter"):
            model.load_state_dict(other.state_dict(), assign=True)
    model.load_state_dict(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "mask", [torch.tensor([255, 0], dtype=torch.uint8), torch.tensor([0.0, 0.5]), torch.tensor([0, 2])]
)
def test_only_bool_tensors_are_masks(mask):
    layer = torch.nn.Linear(2, 1, bias=False)
    before = layer.weight.clone()
    for put_on in (lambda masks: masking.MaskedWeights(layer, masks), TicketCallback):
        with pytest.raises(MaskError, match=r"'weight' is torch\..*, not torch.bool; .* pass `mask != 0`"):
            put_on({"weight": mask[None]})
    assert torch.equal(layer.weight, before)


class Lookahead(torch.optim.Optimizer):
    """Every other step goes back half of the way, past the optimizer within."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.optimizer, self.count = optimizer, 0
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step()
        self.count += 1
        if self.count % 2 == 0:
            for slow, parameter in zip(self.slow, self.param_groups[0]["params"], strict=True):
                parameter.lerp_(slow, 0.5)


def test_optimizers_around_others_are_held_themselves():
    model = network()
    masks, parameters = masks_of(model), list(model.parameters())
    optimizer = Lookahead(torch.optim.SGD(parameters, lr=0.1))
    masking.MaskedWeights(model, masks).hold(optimizer)
    for _ in range(4):
        trained_step(model, optimizer)
        assert_held(model, masks)

    class Around:
        optimizer = torch.optim.SGD(parameters, lr=0.1)

    with pytest.raises(ConfigError, match=r"Around is no torch.optim.Optimizer"):
        masking.MaskedWeights(model, masks).hold(Around())


def test_two_optimizers_are_both_held():
    model = network()
    masks, parameters = masks_of(model), list(model.parameters())
    first, second = (torch.optim.AdamW(part, lr=0.1) for part in (parameters[:2], parameters[2:]))
    masked = masking.MaskedWeights(model, masks)
    masked.hold(first)
    masked.hold(second)
    for _ in range(2):
        pixels = torch.randn(8, 3, 8, 8)
        model(pixels).logits.square().mean().backward()
        for optimizer in (first, second):
            optimizer.step()
            assert_held(model, masks)
