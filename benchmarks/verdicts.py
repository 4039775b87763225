"""Is the judge fooled? Whole programmes of simulated experiments whose truth is known, and how each is judged.

    python benchmarks/verdicts.py                        # 1 000 simulations of each world, 20 seeds each
    python benchmarks/verdicts.py --seeds 5 --simulations 200

Worlds: dilt_hf/hypotheses/simulation.py. Support is right where a hypothesis holds, and wrong where networks differ by
chance alone or a control explains the effect away. The last row: simulations in which any hypothesis is supported;
where none holds, the bound over the family is 2.5 %.
"""

import argparse
import functools
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from tqdm.auto import tqdm

from dilt_hf.hypotheses import simulation as planted
from dilt_hf.hypotheses.judge import REFUTED, SUPPORTED, verdicts
from dilt_hf.hypotheses.registry import hypotheses
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.threads import cores

HYPOTHESES = hypotheses()
WORLDS = {"true": planted.TRUE, "by chance alone": planted.NOTHING, "explained away": planted.EXPLAINED}


def judged(simulation, world, seeds):
    """The verdict on each hypothesis in one simulation."""
    rng = np.random.default_rng([simulation, list(WORLDS).index(world)])
    found = verdicts(HYPOTHESES, planted.evidence(WORLDS[world], rng, seeds))
    return {each.hypothesis.key: each.verdict for each in found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000, help="of each world")
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    count, found = arguments.simulations, {}
    with ProcessPoolExecutor(cores()) as pool:
        for world in WORLDS:
            one = functools.partial(judged, world=world, seeds=arguments.seeds)
            found[world] = list(tqdm(pool.map(one, range(count), chunksize=5), desc=world, total=count))
    rows = []
    for hypothesis in HYPOTHESES:
        tallies = {world: Counter(each[hypothesis.key] for each in found[world]) for world in WORLDS}
        supported = [f"{100 * tallies[world][SUPPORTED] / count:.1f}" for world in WORLDS]
        refuted = [f"{100 * tallies[world][REFUTED] / count:.1f}" for world in WORLDS]
        rows.append([hypothesis.key, *supported, *refuted])
    anything = [f"{100 * np.mean([SUPPORTED in each.values() for each in found[world]]):.1f}" for world in WORLDS]
    rows.append(["any", *anything, "", "", ""])
    head = ["", *(f"supported, {world}, %" for world in WORLDS), *(f"refuted, {world}, %" for world in WORLDS)]
    print(f"{count} simulations of {arguments.seeds} seeds\n\n{markdown_table(head, rows)}")


if __name__ == "__main__":
    main()
