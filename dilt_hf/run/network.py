"""The one network of a run, which every step fills with the weights that it needs."""

from __future__ import annotations

import dataclasses
import os
from functools import cached_property

import torch
from torch import nn

from dilt_hf.config.run import DiltConfig
from dilt_hf.data.opened import OpenData
from dilt_hf.masks.algebra import count_total
from dilt_hf.models.anatomy import unused_parameters
from dilt_hf.models.factory import checkpoint_activations
from dilt_hf.models.flops import ForwardCost, forward_cost
from dilt_hf.models.weights import checkpoint_tensors, load_weights, prunable_parameters
from dilt_hf.training.graphs import GraphedPasses


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A module on its device, and what can be counted of it.

    Building and compiling a module costs seconds, so a run has one, and steps *fill* it. What `filled` returns is valid
    until the next call.

    Attributes:
        module: the module; between steps its weights are anybody's.
        image_size, channels: of its input.
        include_head: whether the classifier counts as prunable.
        unused: the tensors that no output depends on, by checkpoint name.
        passes: its passes as CUDA graphs, where the run asks for that.
    """

    module: nn.Module
    image_size: int
    channels: int
    include_head: bool = False
    unused: frozenset[str] = frozenset()
    passes: GraphedPasses | None = None

    @classmethod
    def prepare(cls, module: nn.Module, config: DiltConfig, data: OpenData, device: torch.device) -> Network:
        """Put a module on the device, in the memory order and modes that the configuration asks for."""
        training = config.training
        module = module.to(device)
        idle = unused_parameters(module, data.image_size, config.model.num_channels)
        unused = frozenset(name for name, tensor in checkpoint_tensors(module).items() if id(tensor) in idle)
        if training.channels_last:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if training.gradient_checkpointing:
            checkpoint_activations(module)
        if training.torch_compile:
            module.compile()
        passes = GraphedPasses() if config.run.cuda_graphs else None
        return cls(module, data.image_size, data.channels, config.model.prune_head, unused, passes)

    def filled(self, weights: str | os.PathLike) -> nn.Module:
        """Load weights from a safetensors file into the module, and return it."""
        load_weights(self.module, weights)
        return self.module

    @cached_property
    def prunable(self) -> dict[str, nn.Parameter]:
        """The prunable parameters, by checkpoint name."""
        return prunable_parameters(self.module, self.include_head, self.unused_ids())

    def unused_ids(self) -> set[int]:
        """Return the `id` of the parameters that no output depends on."""
        return {id(tensor) for name, tensor in checkpoint_tensors(self.module).items() if name in self.unused}

    @cached_property
    def total(self) -> int:
        """The number of prunable weights."""
        return count_total(self.prunable)

    @cached_property
    def forward(self) -> ForwardCost:
        """The operations of one forward pass of one image."""
        return forward_cost(self.module, self.image_size, self.channels, self.prunable)
