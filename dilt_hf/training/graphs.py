"""Forward and backward passes as CUDA graphs: recorded once for a network, replayed in every step of every training.

A GPU computes a small network faster than Python can ask for it: most of a step is waiting. A graph asks for all of a
pass at once. Masks, optimizer and schedule stay outside, so one recording serves every mask and every learning rate;
it holds as long as the weights stay where they are in memory, and `dilt_hf` fills the same tensors for all networks of
a run. The numbers are those of the same kernels, step by step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.config.run import DiltConfig
from dilt_hf.data.loader import Batch
from dilt_hf.training.losses import ClassLoss
from dilt_hf.utils.errors import ConfigError, TrainingError

WARM_UPS = 3  # passes before recording, in which libraries choose their kernels and allocate their workspaces
Pass = Callable[[Tensor, Tensor], Tensor]
"""Computes the loss of pixels and labels, and its gradient."""
Recorded = tuple[Callable[[], object], Tensor]
"""What repeats a pass on the same tensors, and the tensor that holds its loss then."""


def check_graphs(config: DiltConfig, device: torch.device, processes: int) -> None:
    """Raise `ConfigError` for a run whose steps cannot be graphs; `processes` train one network together."""
    if not config.run.cuda_graphs:
        return
    training, data = config.training, config.data
    against = {
        f"a CUDA device, and this run is on {device.type}": device.type != "cuda",
        "--processes_per_network 1": processes > 1,
        "--gradient_accumulation_steps 1": training.gradient_accumulation_steps > 1,
        "--mixed_precision no or bf16": training.mixed_precision == "fp16",
        "no --gradient_checkpointing": training.gradient_checkpointing,
        "no --torch_compile": training.torch_compile,
        "neither --mixup nor --cutmix": data.mixup > 0 or data.cutmix > 0,
    }
    for what, speaks_against in against.items():
        if speaks_against:
            raise ConfigError(f"--cuda_graphs needs {what}; run without --cuda_graphs, or change that.")


@dataclasses.dataclass(frozen=True)
class _Graph:
    """A recorded pass: what it reads, where it leaves the loss and the gradients, and what must live as long."""

    pixels: Tensor
    labels: Tensor
    loss: Tensor
    gradients: Sequence[tuple[nn.Parameter, Tensor]]
    repeat: Callable[[], object]
    objective: ClassLoss


class GraphedPasses:
    """The recorded passes of one network, one for each set of classes and size of batch.

    Args:
        record: what records a pass of a network.
    """

    def __init__(self, record: Callable[[Callable[[], Tensor], nn.Module], Recorded] | None = None):
        self._record = record or _Recorder()
        self._graphs: dict[Any, _Graph] = {}
        self._network: Any = None

    def attach(self, model: nn.Module) -> None:
        """Begin to train a network; recordings of other tensors than these are forgotten."""
        tensors = [*model.parameters(), *model.buffers()]
        network = [(tensor.data_ptr(), tensor.requires_grad) for tensor in tensors]
        if network != self._network:
            self._graphs.clear()
            self._network = network

    def __call__(self, model: nn.Module, compute: Pass, objective: ClassLoss, batch: Batch) -> Tensor:
        """Return the loss of a batch, and leave its gradient in the parameters, where there was none.

        Args:
            compute: what the pass is, with this objective.
        """
        key = (objective.identity, batch.pixels.shape, batch.pixels.stride(), batch.pixels.dtype)
        if key not in self._graphs:
            self._graphs[key] = self._recorded(model, compute, objective, batch)
        graph = self._graphs[key]
        graph.pixels.copy_(batch.pixels)
        graph.labels.copy_(batch.labels)
        graph.repeat()
        for parameter, gradient in graph.gradients:
            parameter.grad = gradient
        return graph.loss

    def _recorded(self, model: nn.Module, compute: Pass, objective: ClassLoss, batch: Batch) -> _Graph:
        pixels, labels = batch.pixels.clone(), batch.labels.clone()
        repeat, loss = self._record(lambda: compute(pixels, labels), model)
        gradients = [(p, p.grad) for p in model.parameters() if p.grad is not None]
        return _Graph(pixels, labels, loss, gradients, repeat, objective)


class _Recorder:
    """Records passes on the current CUDA device; what they compute in shares one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, compute: Callable[[], Tensor], model: nn.Module) -> Recorded:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph, buffers = torch.cuda.CUDAGraph(), [buffer.clone() for buffer in model.buffers()]
        generator = torch.cuda.get_rng_state()
        try:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    model.zero_grad(set_to_none=True)
                    compute()
            torch.cuda.current_stream().wait_stream(aside)
            with torch.no_grad():  # batch norm has counted the passes
                for buffer, before in zip(model.buffers(), buffers, strict=True):
                    buffer.copy_(before)
            torch.cuda.set_rng_state(generator)
            model.zero_grad(set_to_none=True)  # so that each repetition writes gradients, and does not add to them
            with torch.cuda.graph(graph, pool=self._pool):
                loss = compute()
        except RuntimeError as error:
            raise TrainingError(
                f"the passes of {type(model).__name__} cannot be recorded as a CUDA graph "
                f"({str(error).splitlines()[0]}); run without --cuda_graphs."
            ) from error
        return graph.replay, loss
