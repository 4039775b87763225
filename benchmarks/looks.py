"""How often the judge is wrong, and how many seeds it takes: simulated programmes of thirteen hypotheses.

    python benchmarks/looks.py [--simulations 1000] [--images 0.15]

Each hypothesis has two criteria, whose spread over seeds differs (log-normal); a part of a seed's value is the chance
of its test images, and all seeds share an error of those images, `--images` of the spread over seeds in size. First
row: every effect lies exactly at its margin, so any verdict is wrong. Second: every hypothesis but for its control.
Then: one criterion of each lies below its margin, by this many standard deviations.
"""

import argparse
import functools
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from timing import print_table
from tqdm.auto import tqdm

from dilt_hf.hypotheses.criteria import Criterion, Hypothesis, Measured
from dilt_hf.hypotheses.estimates import LOOKS
from dilt_hf.hypotheses.inference import ImageNoise
from dilt_hf.hypotheses.judge import REFUTED, SUPPORTED, verdicts
from dilt_hf.utils.threads import cores

EXPERIMENTS = ("benchmark",) * 6 + ("specialisation",) * 4 + ("transfer",) * 3
PROGRAMME = [
    Hypothesis(f"H{k}", "", experiment, tuple(Criterion(f"{k} {j}", "", 0.0, control=j == 1) for j in range(2)))
    for k, experiment in enumerate(EXPERIMENTS)
]
IMAGES, OWN, SEEDS = 2000, 0.3, max(LOOKS)
WORLDS = {"at the margin": (0.0, 0.0), "explained away": (10.0, 0.0)} | {
    f"refuted, {size:g} sd": (0.0, -size) for size in (1, 1.5, 2, 3)
}


def evidence(world, rng, images):
    """One number per seed of every criterion, and what is known of its images."""
    found = {}
    for hypothesis in PROGRAMME:
        for criterion, effect in zip(hypothesis.criteria, WORLDS[world], strict=True):
            spread = np.exp(rng.normal(0, 0.4))
            seeds = np.sqrt(1 - OWN**2) * rng.standard_normal(SEEDS) + OWN * rng.standard_normal(SEEDS)
            values = spread * (effect + seeds + images * rng.standard_normal())
            noise = {
                look: ImageNoise((OWN * spread) ** 2, (images * spread) ** 2 * rng.chisquare(200) / 200, IMAGES)
                for look in LOOKS
            }
            found[criterion.key] = Measured(dict(enumerate(values)), noise=noise if images else {})
    return found


def judged(simulation, world, images):
    """Verdicts, looks, and whether e-values decide, in one simulation."""
    rng = np.random.default_rng([simulation, list(WORLDS).index(world)])
    found = verdicts(PROGRAMME, evidence(world, rng, images))
    return [(each.verdict, each.look, max(each.e_support, each.e_refute) >= 40) for each in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000, help="of each world")
    parser.add_argument("--images", type=float, default=0.15)
    options = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(cores()) as pool:
        for world in WORLDS:
            one = functools.partial(judged, world=world, images=options.images)
            count = options.simulations
            found = list(tqdm(pool.map(one, range(count), chunksize=10), desc=world, total=count))
            verdict, look, e = (np.array([[each[i] for each in programme] for programme in found]) for i in range(3))
            supported, refuted = verdict == SUPPORTED, verdict == REFUTED
            shares = [supported.any(1), refuted.any(1), supported, refuted, e.any(1), e]
            rows.append([world, *(f"{100 * each.mean():.1f}" for each in shares), f"{look.mean():.1f}"])
    head = ["any supported, %", "any refuted, %", "supported, %", "refuted, %", "any by e, %", "by e, %", "mean seeds"]
    print_table(
        f"{options.simulations} programmes of {SEEDS} seeds; images {options.images:g} sd", [["", *head], *rows]
    )


if __name__ == "__main__":
    main()
