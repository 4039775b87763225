"""Real processes for tests, forked from a server that has imported everything: a start costs no start-up."""

import multiprocessing
import os

import torch.distributed as dist

from dilt_hf.data.loader import WORKER_MODULES

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
    "transformers.models.vit.modeling_vit",
    "transformers.models.vit.image_processing_vit",
    "dilt_hf.models.architectures",
    "dilt_hf.experiments.find",
    "helpers.find_worker",
    "helpers.shared_worker",
    "helpers.trainer_worker",
]


class Crew:
    """`target(*arguments)` in `count` processes that meet in a store of this one, as launched ones do in torchrun's.

    Args:
        folder: where the output of each process goes.
        launched: whether they know of one another.
    """

    def __init__(self, count, folder, target, *arguments, launched=True):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(MODULES)
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.outputs = [folder / f"{self.store.port}-{rank}.out" for rank in range(count)]
        self.processes = []
        for rank, output in enumerate(self.outputs):
            place = {
                "WORLD_SIZE": count,
                "RANK": rank,
                "LOCAL_RANK": rank,
                "LOCAL_WORLD_SIZE": count,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": self.store.port,
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            environment = {name: str(value) for name, value in place.items()} if launched else {}
            environment["ACCELERATE_USE_CPU"] = "true"
            self.processes.append(context.Process(target=_work, args=(environment, output, target, arguments)))
            self.processes[-1].start()

    def finish(self):
        """The exit codes, and all that was printed."""
        for process in self.processes:
            process.join(200)
        return [process.exitcode for process in self.processes], "".join(path.read_text() for path in self.outputs)


def _work(environment, output, target, arguments):
    import torch

    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    target(*arguments)
    if dist.is_initialized():
        dist.destroy_process_group()
