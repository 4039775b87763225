"""Register the claims of disentangled lottery tickets, and what each must show, before the data are seen.

A hypothesis is one entry here: it names the experiment that tests it, and each of its criteria the key under which that
experiment's evidence (`evidence`) produces one number per seed.

Accuracies are in percent of the test images, differences in points. "At matched density" means the mean over all
densities that were compared, at each of which both networks keep equally many weights.
"""

from __future__ import annotations

from dilt_hf.hypotheses.judge import CORRELATION, PERCENT, Criterion, Hypothesis

GAIN, CLOSE, DECENT, NEAR_CHANCE = 0.5, 1.0, 5.0, 10.0  # points

BENCHMARK, DISENTANGLEMENT, SPECIALISATION, TRANSFER = "benchmark", "disentanglement", "specialisation", "transfer"

HYPOTHESES = (
    Hypothesis(
        "H1",
        "The core is found fastest.",
        BENCHMARK,
        (
            Criterion(
                "core_steps",
                "optimizer steps saved by the core search relative to LTH or COLT, whichever takes fewer, "
                "at matched density",
                5.0,
                PERCENT,
            ),
            Criterion("core_lth", "accuracy of the core minus that of LTH at matched density", -CLOSE),
            Criterion(
                "core_one_shot",
                "accuracy of the core minus that of LTH in one round, which takes a single training run",
                0.0,
                control=True,
            ),
        ),
    ),
    Hypothesis(
        "H2",
        "The union beats the core.",
        BENCHMARK,
        (
            Criterion("union_core", "accuracy of the union minus that of the core, both as found", GAIN),
            Criterion(
                "union_core_matched",
                "accuracy of the union minus that of the core at matched density",
                GAIN,
                control=True,
            ),
        ),
    ),
    Hypothesis(
        "H3",
        "The union is competitive with RigL and CAP.",
        BENCHMARK,
        (
            Criterion("union_rigl", "accuracy of the union minus that of RigL at matched density", -CLOSE),
            Criterion("union_cap", "accuracy of the union minus that of CAP at matched density", -CLOSE),
            Criterion(
                "union_random", "accuracy of the union minus that of random masks at matched density", 0.0, control=True
            ),
        ),
    ),
    Hypothesis(
        "H3c",
        "The union beats the joint consensus of COLT.",
        BENCHMARK,
        post_hoc=True,
        criteria=(
            Criterion("union_colt", "accuracy of the union minus that of COLT at matched density", GAIN),
            Criterion(
                "union_lth",
                "accuracy of the union minus that of LTH, which splits no data, at matched density",
                0.0,
                control=True,
            ),
        ),
    ),
    Hypothesis(
        "H4",
        "Layers of networks trained on different classes stay alike, and part late.",
        DISENTANGLEMENT,
        (
            Criterion(
                "late_break",
                "rise of log G to the counterpart, from the first two thirds of the layers to the last",
                0.1,
                "log G",
            ),
            Criterion(
                "late_break_siblings",
                "that rise minus the one between networks trained on the same classes",
                0.1,
                "log G",
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
            Criterion("modules_stable", "agreement of the modules found on half of the probes", 0.8, "Rand index"),
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
                "minus the correlation of overlap and distance beyond siblings, depth taken out",
                0.1,
                CORRELATION,
            ),
            Criterion(
                "link_steps",
                "minus the correlation of their steps from layer to layer, beyond siblings",
                0.1,
                CORRELATION,
                control=True,
            ),
        ),
    ),
    Hypothesis(
        "H7",
        "The core is decent on every partition.",
        SPECIALISATION,
        (
            Criterion(
                "core_worst",
                "accuracy of the core on its worst partition minus that of the dense network there",
                -DECENT,
            ),
            Criterion(
                "core_positions",
                "that of the core minus that of masks with its layer densities, on its worst",
                0.0,
                control=True,
            ),
        ),
    ),
    Hypothesis(
        "H8",
        "Of the tickets, the union is best on all classes.",
        SPECIALISATION,
        (
            Criterion("union_best", "accuracy of the union minus that of the best other ticket", 0.0),
            Criterion(
                "union_positions",
                "accuracy of the union minus that of masks with its layer densities",
                0.0,
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
        (
            Criterion(
                "lesion",
                "accuracy that removing a specialist from the trained union costs on its classes, minus "
                "what it costs on the others'",
                GAIN,
            ),
            Criterion(
                "lesion_random",
                "that, minus the same for as many other weights of the union in every layer",
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
        "Found from strict θ0, the core transfers best.",
        TRANSFER,
        (
            Criterion(
                "transfer_union", "accuracy on the target of the core minus that of the union, at matched density", 0.0
            ),
            Criterion("transfer_lth", "accuracy on the target of the core minus that of LTH, at matched density", 0.0),
            Criterion(
                "transfer_positions",
                "accuracy on the target of the core minus that of masks with its layer densities",
                0.0,
                control=True,
            ),
        ),
    ),
    Hypothesis(
        "H10k",
        "Found from a shared θ_k, the core transfers best.",
        TRANSFER,
        (
            Criterion(
                "rewound_union",
                "accuracy on the target of the core found from θ_k minus that of the union, at matched density",
                0.0,
            ),
            Criterion(
                "rewound_lth",
                "accuracy on the target of the core found from θ_k minus that of LTH, at matched density",
                0.0,
            ),
            Criterion(
                "rewound_positions",
                "accuracy on the target of the core found from θ_k minus that of masks with its layer densities",
                0.0,
                control=True,
            ),
        ),
    ),
)


def keys_of(experiment: str) -> list[str]:
    """Return the keys of the hypotheses that an experiment tests.

    Example:
        >>> keys_of("disentanglement")
        ['H4', 'H5', 'H6']
    """
    return [each.key for each in HYPOTHESES if each.experiment == experiment]
