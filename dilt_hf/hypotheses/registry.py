"""Register the claims of disentangled lottery tickets, and what each must show, before the data are seen.

A hypothesis is one entry here: it names the experiment that tests it, and each of its criteria the key under which that
experiment's evidence (`evidence`) produces one number per seed. Where a criterion is about partitions there is one for
each of them, because the worst or best of several, chosen on the images that it is then judged on, is biased.

Accuracies are in percent of the test images, differences in points. "At matched density" means the mean over all
densities that were compared, at each of which both networks keep equally many weights.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from dilt_hf.hypotheses.criteria import CORRELATION, PERCENT, Criterion, Hypothesis

GAIN, CLOSE, DECENT, NEAR_CHANCE = 0.5, 1.0, 5.0, 10.0  # points
ALIKE = 0.03  # of the Jaccard index

BENCHMARK, DISENTANGLEMENT, SPECIALISATION, TRANSFER = "benchmark", "disentanglement", "specialisation", "transfer"
RECIPE = "recipe"  # what is found and compared outside the four experiments
# what experiments keep their evidence under
EVIDENCE_OF: Mapping[str, tuple[str, ...]] = {
    BENCHMARK: ("comparison",),
    DISENTANGLEMENT: ("layers",),
    SPECIALISATION: ("specialists",),
    TRANSFER: ("transfer", "rewound"),
    RECIPE: ("comparison",),
}
LOG = "log distance"
MATCHED = "at matched density"


@functools.cache
def hypotheses(partitions: int = 2) -> tuple[Hypothesis, ...]:
    """Return all that is claimed of tickets from so many partitions.

    Example:
        >>> [each.key for each in hypotheses()][:3]
        ['H0', 'H1', 'H2']
        >>> [sum(len(each.criteria) for each in hypotheses(partitions)) for partitions in (2, 5)]
        [56, 71]
    """
    return (
        Hypothesis(
            "H0",
            "Masks of different classes overlap as much as masks of the same classes.",
            DISENTANGLEMENT,
            (
                _alike("overlap_no_less", "the partitions' masks", "siblings'"),
                _alike("overlap_no_more", "siblings' masks", "the partitions'"),
            ),
        ),
        Hypothesis(
            "H1",
            "The core is found faster than LTH, and is as good.",
            BENCHMARK,
            (
                Criterion(
                    "core_steps", "optimizer steps that finding the core saves of LTH's", 5.0, PERCENT, exact=True
                ),
                Criterion(
                    "core_sequential",
                    "steps that it saves where all partitions are pruned at once",
                    5.0,
                    PERCENT,
                    exact=True,
                ),
                Criterion("core_rounds", "rounds that it saves", 0.0, "rounds", exact=True),
                _ahead("core_lth", "the core", "LTH", -CLOSE),
                _ahead(
                    "core_one_shot", "the core", "LTH in one round, which takes a single training run", control=True
                ),
            ),
        ),
        Hypothesis(
            "H2",
            "The union beats the core.",
            BENCHMARK,
            (
                _ahead("union_core", "the union", "the core", GAIN, "both as found"),
                _ahead("union_core_matched", "the union", "the core", GAIN, control=True),
            ),
        ),
        Hypothesis(
            "H3",
            "The union is competitive with RigL and CAP, also where they have as many steps in all.",
            BENCHMARK,
            (
                _ahead("union_rigl", "the union", "RigL", -CLOSE),
                _ahead("union_cap", "the union", "CAP", -CLOSE),
                _ahead("union_rigl_budget", "the union", "RigL with as many steps in all", -CLOSE),
                _ahead("union_cap_budget", "the union", "CAP with as many steps in all", -CLOSE),
                _ahead("union_random", "the union", "random masks", control=True),
                _ahead("union_at_init", "the union", "masks of the largest initial weights", control=True),
                _ahead("union_random_budget", "the union", "random masks with as many steps in all", control=True),
            ),
        ),
        Hypothesis(
            "H3c",
            "The union beats the joint consensus of COLT.",
            BENCHMARK,
            post_hoc=True,
            criteria=(
                _ahead("union_colt", "the union", "COLT", GAIN),
                _ahead("union_lth", "the union", "LTH, which splits no data,", control=True),
            ),
        ),
        Hypothesis(
            "H4",
            "Layers of networks trained on different classes stay alike, and part late.",
            DISENTANGLEMENT,
            (
                Criterion(
                    "late_break",
                    "rise of the log paired distance to the counterpart from the first two thirds of the layers on",
                    0.1,
                    LOG,
                ),
                Criterion(
                    "late_break_siblings",
                    "that rise minus the one between networks trained on the same classes",
                    0.1,
                    LOG,
                    control=True,
                ),
                Criterion(
                    "late_break_within",
                    "the same of distances where images are matched within their classes",
                    0.1,
                    LOG,
                    control=True,
                ),
            ),
        ),
        Hypothesis(
            "H5",
            "Early and middle modules are shared, late ones private.",
            DISENTANGLEMENT,
            (
                Criterion(
                    "parted_depth",
                    "depth of the layers whose copies part into modules minus that of those which stay together, of 1",
                    0.1,
                    "of the depth",
                ),
                Criterion("modules_stable", "agreement of the modules found on other probes", 0.8, "Rand index"),
                Criterion(
                    "modules_apart", "step between modules over the widest link within one", 1.0, "ratio", control=True
                ),
            ),
        ),
        Hypothesis(
            "H6",
            "Where masks overlap more, layers do more alike.",
            DISENTANGLEMENT,
            (
                Criterion(
                    "link_depth",
                    "minus the correlation of overlap and paired distance beyond siblings, depth taken out",
                    0.1,
                    CORRELATION,
                ),
                Criterion(
                    "link_depth_within",
                    "the same of distances where images are matched within their classes",
                    0.1,
                    CORRELATION,
                ),
                *(
                    Criterion(
                        f"link_steps{suffix}",
                        f"minus the correlation of the steps of overlap and {distance} from layer to layer, beyond "
                        "siblings",
                        0.1,
                        CORRELATION,
                        control=True,
                    )
                    for suffix, distance in (("", "paired distance"), ("_within", "distance within classes"))
                ),
            ),
        ),
        Hypothesis("H7", "The core is decent on every partition.", SPECIALISATION, _decent(partitions)),
        Hypothesis(
            "H8",
            "Of the tickets, the union is best on all classes.",
            SPECIALISATION,
            (
                *(_ahead(f"union_{name}_found", "the union", name, 0.0, "") for name in other_tickets(partitions)),
                _ahead("union_shuffled", "the union", "masks with its layer densities", 0.0, "", control=True),
                _ahead(
                    "union_at_init_layers",
                    "the union",
                    "the largest initial weights at its layer densities",
                    0.0,
                    "",
                    control=True,
                ),
            ),
        ),
        Hypothesis(
            "H9",
            "Trained on all classes, a specialist is good on its own and near chance on the others.",
            SPECIALISATION,
            (
                Criterion(
                    "specialist_lead",
                    "lead of specialists on their own classes over the others', beyond that of masks "
                    "with their layer densities",
                    GAIN,
                ),
                Criterion(
                    "specialist_lead_at_init",
                    "that lead beyond the one of the largest initial weights at their layer densities",
                    GAIN,
                    control=True,
                ),
                Criterion(
                    "specialist_chance",
                    "chance plus 10 points, minus the accuracy of specialists on the others' classes",
                    0.0,
                ),
            ),
        ),
        Hypothesis(
            "H9c",
            "The weights of a specialist do the work of its classes.",
            SPECIALISATION,
            part="lesions",
            criteria=(
                Criterion(
                    "lesion",
                    "accuracy, among the classes of an image's own partition, that removing a specialist from the "
                    "trained union costs on its classes, minus what it costs on the others'",
                    GAIN,
                ),
                Criterion(
                    "lesion_union",
                    "that, minus the same for as many weights of every layer drawn from the whole union",
                    GAIN,
                    control=True,
                ),
                # a core that is smaller than the specialist has not as many weights as that to draw from
                Criterion(
                    "lesion_core_size",
                    "the same for only as many of its weights in every layer as the core has too, minus that for as "
                    "many drawn from the core",
                    GAIN,
                    control=True,
                ),
                Criterion(
                    "specialist_alone",
                    "trained on the classes of one partition: accuracy of its specialist minus that of the others'",
                    0.0,
                ),
            ),
        ),
        Hypothesis(
            "H10",
            "Found from strict θ0, the core transfers best, with its own weights.",
            TRANSFER,
            _best(""),
            part="strict",
        ),
        Hypothesis(
            "H10k",
            "Found from a shared θ_k, the core transfers best, with its own weights.",
            TRANSFER,
            _best("rewound"),
            part="rewound",
        ),
    )


def other_tickets(partitions: int) -> list[str]:
    """Return the names of the tickets that the union is compared with.

    Example:
        >>> other_tickets(2)
        ['core', 'specialist_0', 'specialist_1', 'partition_0', 'partition_1']
    """
    return ["core", *(f"{kind}_{k}" for kind in ("specialist", "partition") for k in range(partitions))]


def keys_of(experiment: str) -> list[str]:
    """Return the keys of the hypotheses that an experiment tests.

    Example:
        >>> keys_of("disentanglement")
        ['H0', 'H4', 'H5', 'H6']
    """
    return [each.key for each in hypotheses() if each.experiment == experiment]


def _ahead(
    key: str, one: str, other: str, least: float = 0.0, where: str = MATCHED, *, control: bool = False
) -> Criterion:
    """Return the criterion that one network's accuracy is ahead of another's."""
    end = f" {where}" if where == MATCHED else f", {where}" if where else ""
    return Criterion(key, f"accuracy of {one} minus that of {other}{end}".replace(",,", ","), least, control=control)


def _alike(key: str, one: str, other: str) -> Criterion:
    """Return one side of an equivalence: overlaps that differ by less than `ALIKE` count as the same."""
    return Criterion(key, f"overlap beyond chance of {one} minus that of {other}", -ALIKE, "Jaccard index")


def _decent(partitions: int) -> tuple[Criterion, ...]:
    """Return what H7 asks for on each partition."""
    return tuple(
        Criterion(f"core_{name}_{k}", f"accuracy of the core on partition {k} minus that of {other}", least, control=c)
        for k in range(partitions)
        for name, other, least, c in (
            ("dense", "the dense network there", -DECENT, False),
            ("shuffled", "masks with its layer densities", 0.0, True),
            ("at_init", "the largest initial weights at its layer densities", 0.0, True),
        )
    )


def _best(start: str) -> tuple[Criterion, ...]:
    """Return what H10 asks for, of masks with the weights that they were found from."""
    kind = start or "transfer"
    others = (
        ("union", "the union", False),
        ("lth", "LTH", False),
        ("shuffled", "masks with its layer densities", True),
        ("at_init", "the largest of these weights", True),
    )
    return tuple(
        Criterion(
            f"{kind}_{name}",
            f"accuracy on the target of the core{' from θ_k' if start else ''} minus that of {other}, {MATCHED}",
            0.0,
            control=control,
        )
        for name, other, control in others
    )
