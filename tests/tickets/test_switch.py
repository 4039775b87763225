"""Tickets taking turns on one model: always exactly the ticket, and nothing is lost."""

import _thread
import copy
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.small import network
from helpers.tickets import make_tickets
from hypothesis import given, settings
from hypothesis import strategies as st

from dilt_hf.masks.algebra import compose
from dilt_hf.masks.bitwise import uninterrupted
from dilt_hf.models.weights import checkpoint_tensors, prunable_parameters
from dilt_hf.tickets.switch import TicketSwitch
from dilt_hf.tickets.tickets import apply_ticket
from dilt_hf.utils.errors import MaskError, ModelError

NAMES = [None, "core", "union", "specialist_0", "partition_1", "core+specialist_1", "union-specialist_0"]


@pytest.fixture(scope="module")
def tickets(tmp_path_factory):
    return make_tickets(tmp_path_factory.mktemp("tickets"))


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # each ticket has its own


def fresh(tickets, dtype=torch.float32, memory_format=torch.contiguous_format):
    return tickets.load_model().to(dtype=dtype, memory_format=memory_format)


def snapshot(model):
    return {name: tensor.detach().clone() for name, tensor in checkpoint_tensors(model).items()}


def masks_of(tickets, name, tensors):
    full = {key: torch.ones_like(mask) for key, mask in tickets.partitions[0].items()}
    chosen = full if name is None else compose(name, tickets.partitions)
    return {key: chosen.get(key, torch.ones_like(tensor, dtype=torch.bool)) for key, tensor in tensors.items()}


@settings(max_examples=40)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    device=st.sampled_from([None, "cpu"]),
)
def test_any_sequence_of_switches_and_changes_is_exact(tickets, names, dtype, memory_format, device):
    model = fresh(tickets, dtype, memory_format)
    switch = TicketSwitch(model, tickets, device)
    expected = snapshot(model)  # the dense weights, as they ought to be
    places = {name: tensor.data_ptr() for name, tensor in checkpoint_tensors(model).items()}
    statistics = {None: {key: tensor for key, tensor in expected.items() if key.rsplit(".")[-1] in STATISTICS}}
    present = None
    for turn, name in enumerate(names):
        switch.set_ticket(name)
        statistics[present] = {key: expected[key] for key in statistics[None]}
        expected |= {key: value.clone() for key, value in statistics.get(name, statistics[None]).items()}
        present = name
        masks = masks_of(tickets, name, expected)
        for key, tensor in checkpoint_tensors(model).items():
            assert torch.equal(tensor, expected[key].where(masks[key], torch.zeros((), dtype=tensor.dtype))), key
            if tensor.is_floating_point():  # training changes what is there
                change = torch.full_like(tensor, turn + 1) * masks[key]
                tensor.data.add_(change)
                expected[key] += change
    switch.set_ticket(None)
    statistics[present] = {key: expected[key] for key in statistics[None]}
    expected |= statistics[None]
    for key, tensor in checkpoint_tensors(model).items():
        assert torch.equal(tensor, expected[key])
        assert tensor.data_ptr() == places[key]


def test_an_optimizer_trains_whichever_ticket_is_set(tickets):
    model = fresh(tickets).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    switch = TicketSwitch(model, tickets)
    switch.hold(optimizer)
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    trained = {}
    for name in ("core", "specialist_0", "core", None, "specialist_1"):
        switch.set_ticket(name)
        if name == "core" and "core" in trained:  # disjoint from the specialist: its weights are as they were left
            mask = compose("core", tickets.partitions)
            for key, tensor in prunable_parameters(model).items():
                assert torch.equal(tensor, trained["core"][key] * mask[key])
        before = snapshot(model)
        for _ in range(3):
            model(pixels).logits.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        masks = masks_of(tickets, name, before)
        for key, tensor in prunable_parameters(model).items():
            assert not bool(tensor[~masks[key]].any())
            assert not torch.equal(tensor, before[key])
        trained[name] = snapshot(model)


def test_disabled_is_dense_for_a_while_even_after_an_error(tickets):
    model = fresh(tickets)
    dense = snapshot(model)
    switch = TicketSwitch(model, tickets)
    switch.set_ticket("core")
    pruned = snapshot(model)

    def fail_while_dense():
        with switch.disabled():
            assert all(torch.equal(tensor, dense[key]) for key, tensor in checkpoint_tensors(model).items())
            raise KeyError

    with pytest.raises(KeyError):
        fail_while_dense()
    assert switch.active == "core"
    assert all(torch.equal(tensor, pruned[key]) for key, tensor in checkpoint_tensors(model).items())


def test_an_unknown_ticket_or_another_architecture_changes_nothing(tickets):
    model = fresh(tickets)
    switch = TicketSwitch(model, tickets)
    switch.set_ticket("union")
    before = snapshot(model)
    with pytest.raises(MaskError, match="there is no ticket 'core_9'"):
        switch.set_ticket("core_9")
    assert switch.active == "union"
    assert all(torch.equal(tensor, before[key]) for key, tensor in checkpoint_tensors(model).items())
    with pytest.raises(ModelError):
        TicketSwitch(network(hidden_sizes=[8, 16]), tickets)


def test_merging_is_final_and_lets_the_optimizer_go(tickets):
    model = fresh(tickets)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    switch = TicketSwitch(model, tickets)
    switch.hold(optimizer)
    switch.set_ticket("core")
    switch.merge()
    pruned = snapshot(model)
    with pytest.raises(ModelError, match="merged"):
        switch.set_ticket("union")
    assert all(torch.equal(tensor, pruned[key]) for key, tensor in checkpoint_tensors(model).items())
    model(torch.randn(2, 3, 8, 8)).logits.sum().backward()
    optimizer.step()
    mask = compose("core", tickets.partitions)
    assert any(bool(tensor[~mask[key]].any()) for key, tensor in prunable_parameters(model).items())


def test_a_model_moved_to_another_dtype_goes_on(tickets):
    model = fresh(tickets)
    switch = TicketSwitch(model, tickets)
    switch.set_ticket("core")
    model.to(torch.bfloat16)
    switch.set_ticket("union")
    expected = fresh(tickets, torch.bfloat16)
    mask = compose("union", tickets.partitions)
    for key, tensor in prunable_parameters(model).items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, prunable_parameters(expected)[key] * mask[key])


def test_a_switch_between_forward_and_backward_is_noticed(tickets):
    model = fresh(tickets)
    switch = TicketSwitch(model, tickets)
    switch.set_ticket("core")
    logits = model(torch.randn(2, 3, 8, 8)).logits
    switch.set_ticket("specialist_0")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logits.square().sum().backward()


@pytest.mark.parametrize("name", ["union", None])
def test_a_switch_that_fails_half_way_loses_nothing(tickets, monkeypatch, name):
    """The way of accelerators and of weights in several pieces, here forced by other strides."""
    model = fresh(tickets, memory_format=torch.channels_last)
    expected = snapshot(model)
    switch = TicketSwitch(model, tickets)
    switch._dense = {key: tensor.contiguous() for key, tensor in switch._dense.items()}
    switch.set_ticket("core")
    change = {key: torch.randn_like(tensor) for key, tensor in switch._live.items()}
    masks = masks_of(tickets, "core", switch._live)
    for key, tensor in switch._live.items():
        tensor.data.add_(change[key] * masks[key])
        expected[key] += change[key] * masks[key]
    where, calls = torch.where, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no memory")
        return where(*arguments)

    monkeypatch.setattr(torch, "where", failing)
    with pytest.raises(torch.OutOfMemoryError):
        switch.set_ticket(name)
    monkeypatch.undo()
    for turn in ("specialist_0", None):
        switch.set_ticket(turn)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in checkpoint_tensors(model).items())


def test_an_interruption_comes_when_all_is_done():
    done = []

    def work():
        _thread.interrupt_main()
        time.sleep(0.2)
        done.append(True)

    def wait_and_see():
        uninterrupted(work)
        time.sleep(1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_and_see()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done


def test_frozen_parts_stay_frozen_under_a_held_ticket(tickets):
    model = fresh(tickets)
    frozen = next(iter(prunable_parameters(model).values())).requires_grad_(False)
    switch = TicketSwitch(model, tickets)
    switch.set_ticket("core")
    switch.hold(torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1))
    model.to(torch.bfloat16)
    before = frozen.clone()
    model(torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)).logits.sum().backward()
    assert torch.equal(frozen, before)
    assert all(p.grad.dtype == torch.bfloat16 for p in model.parameters() if p.grad is not None)


def test_replaced_parameters_are_noticed_and_switches_can_be_copied(tickets):
    model = fresh(tickets)
    switch = TicketSwitch(model, tickets)
    copied = copy.deepcopy(switch)
    copied.set_ticket("core")
    assert copied.active == "core"
    assert switch.active is None
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    with pytest.raises(ModelError, match="were replaced"):
        switch.set_ticket("core")


def test_twenty_switches_compile_nothing_anew(tickets):
    torch._dynamo.reset()
    model = fresh(tickets)
    plain, compiled = (
        copy.deepcopy(model),
        torch.compile(model, backend="eager"),
    )  # what matters is what is traced again
    switch, pixels = TicketSwitch(compiled, tickets), torch.randn(2, 3, 8, 8)
    reference = TicketSwitch(plain, tickets)
    counter = torch._dynamo.utils.counters["stats"]
    with torch.no_grad():
        compiled(pixels)
        frames = counter["unique_graphs"]
        assert frames > 0
        for turn in range(20):
            for each in (switch, reference):
                each.set_ticket(NAMES[turn % len(NAMES)])
            torch.testing.assert_close(compiled(pixels).logits, plain(pixels).logits, atol=1e-4, rtol=1e-4)
    assert counter["unique_graphs"] == frames


def test_two_threads_may_set_tickets(tickets):
    model = fresh(tickets)
    dense = snapshot(model)
    switch = TicketSwitch(model, tickets)

    def turn(names):
        for name in names * 25:
            switch.set_ticket(name)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(turn, [["core", "union", None], ["specialist_0", None, "partition_1"]]))
    active = switch.active
    masks = masks_of(tickets, active, dense)
    for key, tensor in checkpoint_tensors(model).items():
        assert torch.equal(tensor, dense[key] * masks[key])
    switch.set_ticket(None)
    assert all(torch.equal(tensor, dense[key]) for key, tensor in checkpoint_tensors(model).items())


def test_specialists_trained_in_turns_keep_their_own_statistics(tickets):
    """As if each had been trained alone, on a model of its own."""
    pixels = {name: torch.randn(8, 3, 8, 8) * scale for name, scale in (("specialist_0", 1.0), ("specialist_1", 9.0))}

    def train(model, switch, optimizer, names):
        for name in names:
            switch.set_ticket(name)
            optimizer.zero_grad()
            model(pixels[name]).logits.square().mean().backward()
            optimizer.step()

    def statistics(names, shared=False):
        model = fresh(tickets).train()
        # without a head and biases that both train, disjoint specialists share nothing but the statistics
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim == 4)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        switch = TicketSwitch(model, tickets, per_ticket_statistics=not shared)
        switch.hold(optimizer)
        train(model, switch, optimizer, names)
        found = {}
        for name in dict.fromkeys(names):
            switch.set_ticket(name)
            found[name] = [b.clone() for key, b in checkpoint_tensors(model).items() if key.endswith("running_var")]
        return found

    turns = statistics(["specialist_0", "specialist_1"] * 3)
    for name in pixels:
        for mine, alone in zip(turns[name], statistics([name] * 3)[name], strict=True):
            torch.testing.assert_close(mine, alone)
    one, other = statistics(["specialist_0", "specialist_1"] * 3, shared=True).values()
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_switched_model_can_be_pickled(tickets):
    model = fresh(tickets)
    switch = TicketSwitch(model, tickets)
    switch.set_ticket("core")
    again = pickle.loads(pickle.dumps(model))
    assert all(torch.equal(t, checkpoint_tensors(model)[n]) for n, t in checkpoint_tensors(again).items())
    switch.hold(torch.optim.SGD(model.parameters(), lr=0.1))
    again = pickle.loads(pickle.dumps(model))
    assert all(torch.equal(t, checkpoint_tensors(model)[n]) for n, t in checkpoint_tensors(again).items())


def other_weights(tickets):
    torch.manual_seed(5)
    model = fresh(tickets)
    for tensor in checkpoint_tensors(model).values():
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("per_ticket", [True, False])
@pytest.mark.parametrize("through", ["model", "part", "leaf", "some"])
@pytest.mark.parametrize("active", [None, "core"])
def test_a_state_dict_is_loaded_into_the_dense_weights_whichever_ticket_is_set(tickets, active, through, per_ticket):
    model, other = fresh(tickets), other_weights(tickets)
    dense, loaded = snapshot(model), snapshot(other)
    switch = TicketSwitch(model, tickets, per_ticket_statistics=per_ticket)
    switch.set_ticket("union")
    switch.set_ticket(active)
    state = other.state_dict()
    if through == "model":
        model.load_state_dict(state)
    elif through == "part":
        model.features.load_state_dict(other.features.state_dict())
    elif through == "leaf":
        model.features[0][0].load_state_dict(other.features[0][0].state_dict())
    else:
        model.load_state_dict({name: each for name, each in state.items() if "features.1" in name}, strict=False)
    inside = {"model": "", "part": "features.", "leaf": "features.0.0.", "some": "features.1"}[through]
    expected = {name: (loaded if name.startswith(inside) else dense)[name] for name in dense}
    for position, name in enumerate((active, "union", None, "core")):
        if position:  # the first is set already
            switch.set_ticket(name)
        now, masks = snapshot(model), masks_of(tickets, name, expected)
        assert all(torch.equal(now[key], expected[key] * masks[key]) for key in expected), name


def test_loading_into_a_copy_leaves_the_switched_model_alone(tickets):
    model, other = fresh(tickets), other_weights(tickets)
    switch = TicketSwitch(model, tickets)
    switch.set_ticket("core")
    before = snapshot(model)
    copied = copy.deepcopy(model)
    copied.load_state_dict(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(each, before[name]) for name, each in snapshot(model).items())
    both = copy.deepcopy(switch)
    both.model.load_state_dict(other.state_dict())
    masks = masks_of(tickets, "core", snapshot(other))
    assert all(torch.equal(each, snapshot(other)[name] * masks[name]) for name, each in snapshot(both.model).items())
    assert all(torch.equal(each, before[name]) for name, each in snapshot(model).items())
    with pytest.raises(ModelError, match="parameters were replaced"):
        model.load_state_dict(other.state_dict(), assign=True)


def test_a_model_outlives_its_switch(tickets):
    model, other = fresh(tickets), other_weights(tickets)
    TicketSwitch(model, tickets).set_ticket("core")
    model.load_state_dict(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_dense_weights_that_another_switch_keeps_are_not_lost(tickets):
    """A notebook cell that is run twice took the pruned model for the dense one."""
    model = fresh(tickets)
    dense = snapshot(model)
    switch = TicketSwitch(model, tickets)
    switch.set_ticket("specialist_0")
    for act in (lambda: TicketSwitch(model, tickets), lambda: apply_ticket(model, tickets, "core")):
        with pytest.raises(ModelError, match="a TicketSwitch has set 'specialist_0' on this model"):
            act()
    switch.set_ticket(None)
    assert all(torch.equal(each, dense[name]) for name, each in snapshot(model).items())
    other = TicketSwitch(model, tickets)
    other.set_ticket("core")
    other.merge()
    apply_ticket(model, tickets, "core")
