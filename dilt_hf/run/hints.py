"""What a plan should make people look at again: settings that work, and are seldom meant."""

from __future__ import annotations

from dilt_hf.models.weights import uncovered_share
from dilt_hf.run.context import RunContext

LEAST_UNCOVERED = 0.01  # of the weights in matrices; less is not worth a line
SMALL_IMAGE = 64  # pixels, below which the stem of the ImageNet ResNets leaves hardly a place
STEMS = {"resnet18": "resnet18-cifar", "resnet50": "resnet50-cifar"}
MIRRORED = ("shift_flip", "resized_crop_flip")


def hints(ctx: RunContext) -> list[str]:
    """Return one sentence for each setting of a run that may not be meant."""
    config, data, found = ctx.config, ctx.data, []
    share = uncovered_share(ctx.network.module, ctx.network.prunable, ctx.network.unused_ids())
    if share > LEAST_UNCOVERED:
        found.append(
            f"{100 * share:.0f} % of the weights in matrices are not covered by masks: they are in modules other than "
            "linear layers, convolutions and attention, and stay dense."
        )
    better = STEMS.get(config.model.architecture or "")
    if better and data.image_size < SMALL_IMAGE:
        found.append(
            f"--architecture {config.model.architecture} reduces images to a 32nd of their side, and these have "
            f"{data.image_size} px; {better} keeps small images larger."
        )
    names = data.splits.class_names
    if config.data.augmentation in MIRRORED and sum(len(name) == 1 and name.isalnum() for name in names) > 1:
        found.append(
            f"--augmentation {config.data.augmentation} mirrors images, and the classes ({', '.join(names[:4])}, …) "
            "look like characters, which mirroring makes into others; shift does not."
        )
    together, networks = ctx.group.size, len(config.run.seeds) * config.partition.num_partitions
    if together > 1 and networks > ctx.group.count:
        found.append(
            f"{together} processes train each network together, though the seeds give work to more than "
            f"{ctx.group.count} groups; with --processes_per_network 1 every process trains networks of its own, which "
            "is faster where one device holds them."
        )
    return found
