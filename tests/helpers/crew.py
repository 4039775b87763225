"""Real processes for tests, forked from a server that has imported everything: a start costs no start-up.

What the server's processes know of the Hub is the loopback one, which lives as long as the tests.
"""

import functools
import multiprocessing
import os
from multiprocessing import forkserver
from unittest.mock import patch

import torch.distributed as dist

from dilt_hf.data.loader import WORKER_MODULES
from helpers.loopback_hub import LoopbackHub

# what a run imports when it comes to need it
MODULES = [
    *WORKER_MODULES,
    "accelerate",
    "datasets",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "sklearn.datasets",
    "sklearn.metrics",
    "torch._dynamo",
    "transformers.trainer",
    "transformers.models.resnet.modeling_resnet",
    "transformers.models.vit.modeling_vit",
    "transformers.models.vit.image_processing_vit",
    "dilt_hf.models.architectures",
    "dilt_hf.cli.commands",
    "dilt_hf.experiments.find",
    "dilt_hf.report.page",
    "helpers.find_worker",
    "helpers.hub_worker",
    "helpers.shared_worker",
    "helpers.trainer_worker",
]


@functools.cache
def loopback_hub():
    """The Hub of the processes of this session; `forget_all` makes it new."""
    return LoopbackHub().__enter__()  # it ends with its input, that is with this process


@functools.cache
def prepared():
    """Start the server, whose environment is that of its processes; nothing may have started it before."""
    assert forkserver._forkserver._forkserver_pid is None, "mark tests of processes with xdist_group('processes')"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    with patch.dict(os.environ, loopback_hub().environment):
        forkserver.ensure_running()
    return context


class Crew:
    """`target(*arguments)` in `count` processes that meet in a store of this one, as launched ones do in torchrun's.

    Args:
        folder: where they work, and the output of each goes.
        launched: whether they know of one another.
        machines: of how many machines they believe to be.
        fresh: of the variables here, in interpreters of their own instead of forks of the server.
    """

    def __init__(self, count, folder, target, *arguments, launched=True, machines=1, fresh=None):
        context = prepared() if fresh is None else multiprocessing.get_context("spawn")
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.outputs = [folder / f"{self.store.port}-{rank}.out" for rank in range(count)]
        self.processes = []
        for rank, output in enumerate(self.outputs):
            output.touch()
            local = count // machines
            place = {
                "WORLD_SIZE": count,
                "RANK": rank,
                "LOCAL_RANK": rank % local,
                "LOCAL_WORLD_SIZE": local,
                "GROUP_RANK": rank // local,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": self.store.port,
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            variables = {name: str(value) for name, value in place.items()} if launched else {}
            variables["ACCELERATE_USE_CPU"] = "true"
            self.processes.append(context.Process(target=_work, args=(variables, output, target, arguments)))
            with patch.dict(os.environ, loopback_hub().environment | (fresh or {})):
                self.processes[-1].start()

    def finish(self):
        """The exit codes, and all that was printed."""
        for process in self.processes:
            process.join(200)
        return [process.exitcode for process in self.processes], self.output

    @property
    def output(self):
        return "".join(path.read_text() for path in self.outputs)


def _work(variables, output, target, arguments):
    import torch

    os.environ.update(variables)
    os.chdir(output.parent)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    target(*arguments)
    if dist.is_initialized():
        dist.destroy_process_group()
