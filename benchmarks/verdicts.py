"""Is the judge fooled? Whole programmes of simulated experiments whose truth is known, and how each is judged.

    python benchmarks/verdicts.py                        # 1 000 simulations of each world, 20 seeds each
    python benchmarks/verdicts.py --seeds 5 --simulations 200

Layers are analysed in some of them only (--layered), because spectral clustering takes most of the time; hypotheses
that are not tested count in the correction all the same. A verdict that was reached at one look stays, so what is
decided with 20 seeds is what anybody saw who looked after every seed.

Worlds: dilt_hf/hypotheses/simulation.py. Support is right where a hypothesis holds, and wrong where networks differ by
chance alone or a control explains the effect away. The last row: simulations in which any hypothesis is supported, or
refuted; where none holds, the bound of support over the family is 2.5 %, and where all hold, that of refutation. The
test images are simulated one by one: errors are those of statements on all images that there could be.

Taken back: criteria arrive in a random order, with more and more seeds, and everything is judged after each; a verdict
that was reached and is not the one in the end counts.
"""

import argparse
import dataclasses
import functools
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from tqdm.auto import tqdm

from dilt_hf.hypotheses import simulation as planted
from dilt_hf.hypotheses.judge import REFUTED, SUPPORTED, UNTESTED, verdicts
from dilt_hf.hypotheses.registry import hypotheses
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.threads import cores

HYPOTHESES = hypotheses()
WORLDS = {"true": planted.TRUE, "by chance alone": planted.NOTHING, "explained away": planted.EXPLAINED}


def judged(simulation, world, seeds, layered):
    """The verdict on each hypothesis in one simulation; how many were reached earlier, and taken back since."""
    rng = np.random.default_rng([simulation, list(WORLDS).index(world)])
    evidence = planted.evidence(WORLDS[world], rng, seeds, layers=simulation < layered)
    found = by_key(evidence)
    order, reached = rng.permutation(list(evidence)), set()
    for part in (0.4, 0.6, 0.8, 0.95):
        keys, some = order[: round(part * len(order))], int(rng.integers(2, seeds + 1))
        now = by_key({key: first_seeds(evidence[key], some) for key in keys})
        reached |= {(key, verdict) for key, verdict in now.items() if verdict in (SUPPORTED, REFUTED)}
    return found, sum(found[key] != verdict for key, verdict in reached), len(reached)


def by_key(evidence):
    """The verdict on each hypothesis."""
    return {each.hypothesis.key: each.verdict for each in verdicts(HYPOTHESES, evidence)}


def first_seeds(measured, count):
    """What was known of a criterion when there were so many seeds."""
    return dataclasses.replace(measured, values={s: v for s, v in measured.values.items() if s < count})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000, help="of each world")
    parser.add_argument("--layered", type=int, default=100, help="of these, how many analyse layers too")
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    count, found = arguments.simulations, {}
    back = early = 0
    with ProcessPoolExecutor(cores()) as pool:
        for world in WORLDS:
            one = functools.partial(judged, world=world, seeds=arguments.seeds, layered=arguments.layered)
            outcomes = tqdm(pool.map(one, range(count), chunksize=5), desc=world, total=count)
            found[world], taken, reached = zip(*outcomes, strict=True)
            back, early = back + sum(taken), early + sum(reached)
    rows = []
    for hypothesis in HYPOTHESES:
        tallies = {world: Counter(each[hypothesis.key] for each in found[world]) for world in WORLDS}
        tested = {world: count - tallies[world][UNTESTED] for world in WORLDS}
        shares = [
            f"{100 * tallies[world][verdict] / max(1, tested[world]):.1f}"
            for verdict in (SUPPORTED, REFUTED)
            for world in WORLDS
        ]
        rows.append([hypothesis.key, *shares])
    anything = [
        f"{100 * np.mean([verdict in each.values() for each in found[world]]):.1f}"
        for verdict in (SUPPORTED, REFUTED)
        for world in WORLDS
    ]
    rows.append(["any", *anything])
    head = ["", *(f"supported, {world}, %" for world in WORLDS), *(f"refuted, {world}, %" for world in WORLDS)]
    print(f"{count} simulations of {arguments.seeds} seeds\n\n{markdown_table(head, rows)}")
    print(f"\nOf {early} verdicts that were reached before everything was measured {back} were taken back.")


if __name__ == "__main__":
    main()
