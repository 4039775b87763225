"""Gromov-Wasserstein between layers: is it right, how far below POT does it get, and how fast?

    python benchmarks/gromov.py [--parts matching objective link modules full gpu] [--run runs/digits …]

Needs nothing but the packages: probes are crops of scikit-learn's two photographs, and digits. `--run` adds networks of
finished runs (folders of `find_tickets`), such as one on tiny-imagenet. One thread, but for `full` and `gpu`.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
import warnings

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from timing import print_table
from tqdm import tqdm

from dilt_hf.analysis.gromov import TIERS, solve
from dilt_hf.analysis.joint import joint_gw
from dilt_hf.analysis.link import DIFFERENCES, PARTIAL, RAW, measure_link
from dilt_hf.analysis.modules import find_modules, propose
from dilt_hf.analysis.representations import collect
from dilt_hf.analysis.spaces import MetricSpace
from dilt_hf.config.model import ModelConfig
from dilt_hf.models.factory import build_model
from dilt_hf.utils.threads import cores

PARTS = ("matching", "objective", "link", "modules", "full", "gpu")


def pot(one, other):
    """POT with its defaults: the naive alternative."""
    import ot

    n = len(one)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coupling, log = ot.gromov.gromov_wasserstein(
            one.distances, other.distances, np.full(n, 1 / n), np.full(n, 1 / n), "square_loss", log=True
        )
    return float(log["gw_dist"]), coupling


# --- layers to compare -----------------------------------------------------------------------------------------------


def crops(count, size=112, seed=0):
    """Random crops of the two photographs, (count, 3, size, size)."""
    rng = np.random.default_rng(seed)
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255 for image in load_sample_images().images]
    found = []
    for index in range(count):
        photograph, side = photographs[index % 2], int(rng.integers(64, 300))
        y, x = (int(rng.integers(0, extent - side)) for extent in photograph.shape[2:])
        crop = photograph[:, :, y : y + side, x : x + side]
        found.append(torch.nn.functional.interpolate(crop, size=(size, size), mode="bilinear", antialias=True))
    return (torch.cat(found) - 0.45) / 0.25


def perturbed(model, noise, seed=1):
    """A twin whose weight tensors have Gaussian noise of so many of their standard deviations."""
    twin, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.ndim > 1:
                parameter.add_(noise * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return twin


def random_weights(architecture, count, layers="blocks"):
    model = build_model(ModelConfig(architecture=architecture), ["a", "b"], 112, 0)
    pixels = crops(count)
    return [collect(each, pixels.split(32), layers).layers for each in (model, perturbed(model, 0.1))]


def diverging(count, depth=12, width=32):
    """Two random tanh networks on inputs that have ever less in common with depth."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((count, width))
    networks = []
    for _ in range(2):
        own, hidden, layers = rng.standard_normal((count, width)), shared, {}
        for layer in range(depth):
            share = layer / (depth - 1)
            incoming = np.sqrt(1 - share) * shared + np.sqrt(share) * own
            weights = rng.standard_normal((width, width)) / np.sqrt(width)
            hidden = np.tanh(1.5 * (np.sqrt(0.5) * (hidden + incoming)) @ weights)
            layers[f"layer_{layer}"] = torch.from_numpy(hidden)
        networks.append(layers)
    return networks


def trained_on_digits(count, epochs=8):
    """Two ResNet-20 from one start, one trained on digits 0-4, the other on 5-9: all convolutions, on all digits."""
    digits = load_digits()
    pixels = torch.nn.functional.interpolate(torch.from_numpy(digits.images)[:, None].float() / 8 - 1, size=(16, 16))
    pixels, labels = pixels.repeat(1, 3, 1, 1), torch.from_numpy(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    probes, rest = order[:count], order[count:]
    start = build_model(ModelConfig(architecture="resnet20"), [str(digit) for digit in range(10)], 16, 0)
    networks = []
    for part in (labels < 5, labels >= 5):
        model, rows = copy.deepcopy(start).train(), rest[part[rest]]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        for epoch in range(epochs):
            for batch in rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch))].split(64):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(pixels[batch]).logits, labels[batch]).backward()
                optimizer.step()
        networks.append(collect(model, pixels[_unlike(pixels, probes)].split(64), "weights").layers)
    return networks


def _unlike(pixels, rows):
    """Rows without those whose image was there before."""
    seen = {pixels[row].numpy().tobytes(): row for row in reversed(rows.tolist())}
    return torch.tensor([row for row in rows.tolist() if seen[pixels[row].numpy().tobytes()] == row])


def of_run(folder, count):
    """The first seed's dense networks of a run, all weighted layers."""
    from pathlib import Path

    from dilt_hf.config.experiments import AnalyzeConfig
    from dilt_hf.experiments.analysis_sources import RunSource

    config = AnalyzeConfig(sources=[folder], num_probes=count, use_cpu=True)
    source = RunSource(Path(folder), config)
    networks = source.networks(source.seeds[0])[:2]
    return [collect(each.load(), source.probes.batches(), "weights").layers for each in networks]


def families(count, runs):
    yield "R: random ResNet-50, 16 blocks", lambda: random_weights("resnet50", count)
    yield "V: random DeiT-S, 12 blocks", lambda: random_weights("deit-small", count)
    yield "S: diverging, 12 layers", lambda: diverging(count)
    yield "D: digits, trained ResNet-20, 19 layers", lambda: trained_on_digits(count)
    for run in runs:
        yield f"run {os.path.basename(run)}", lambda run=run: of_run(run, count)


# --- the parts -------------------------------------------------------------------------------------------------------


def matching(arguments):
    """The true matching of a permuted and rotated copy."""
    sources = {
        "8 Gaussian features": lambda rng, n: rng.standard_normal((n, 8)),
        "64 Gaussian features": lambda rng, n: rng.standard_normal((n, 64)),
        "ten clusters": lambda rng, n: (
            rng.standard_normal((10, 32))[rng.integers(0, 10, n)] * 2 + rng.standard_normal((n, 32))
        ),
        "ReLU features": lambda rng, n: np.maximum(rng.standard_normal((n, 16)) @ rng.standard_normal((16, 64)), 0),
    }
    rows = [["n", "points", "noise", *TIERS, "POT"]]
    for n in (128, 256):
        for name, draw in sources.items():
            for noise in (0.0, 0.02, 0.1):
                hits = {who: [] for who in (*TIERS, "POT")}
                for seed in range(arguments.repetitions):
                    rng = np.random.default_rng(seed)
                    points, order = draw(rng, n), rng.permutation(n)
                    rotation = np.linalg.qr(rng.standard_normal((points.shape[1],) * 2))[0]
                    moved = (points @ rotation)[order]
                    moved += noise * moved.std() * rng.standard_normal(moved.shape)
                    one, other = MetricSpace.of(points), MetricSpace.of(moved)
                    for tier in TIERS:
                        found = solve(one, other, tier=tier, paired=False).permutation
                        hits[tier].append((order[found] == np.arange(n)).all())
                    hits["POT"].append((order[pot(one, other)[1].argmax(axis=1)] == np.arange(n)).all())
                rows.append([str(n), name, f"{noise:.0%}", *(f"{np.mean(hits[who]):.0%}" for who in hits)])
    print_table(f"True matching found whole, {arguments.repetitions} copies each", rows)


def objective(arguments):
    """Values and times against POT, pair by pair."""
    head = [
        "layers",
        "n",
        "pairs",
        "POT s/pair",
        "tier",
        "POT / tier",
        "(median)",
        "<= POT",
        "worst",
        "sum / POT",
        "certified",
        "TLB or SLB / G",
    ]
    every = []
    for n in arguments.probes:
        for name, make in families(n, arguments.run):
            a, b = ([points.numpy() for points in layers.values()] for layers in make())
            pairs = [(i, j) for i in range(len(a)) for j in range(len(b))]
            if len(pairs) > arguments.pairs:
                chosen = np.random.default_rng(0).choice(len(pairs), arguments.pairs, replace=False)
                pairs = [pairs[k] for k in sorted(chosen)]
            rows = _against_pot(name, a, b, pairs)
            print(*("  ".join(row) for row in rows), sep="\n", flush=True)
            every += rows
    print_table("Values and times against POT's default, one thread", [head, *every])


def _against_pot(name, a, b, pairs):
    tiers = [tier for tier in TIERS if tier != "thorough"]
    times, found = {who: [] for who in ("POT", *tiers)}, {who: [] for who in ("POT", *tiers)}
    spaces = [[MetricSpace.of(points) for points in layers] for layers in (a, b)]
    fresh = {tier: [[MetricSpace(space.distances) for space in layers] for layers in spaces] for tier in tiers}
    for tier in tiers:  # compile
        solve(MetricSpace(spaces[0][0].distances), MetricSpace(spaces[1][0].distances), tier=tier)
    for i, j in tqdm(pairs, desc=name, disable=None):
        start = time.perf_counter()
        found["POT"].append(pot(spaces[0][i], spaces[1][j])[0])
        times["POT"].append(time.perf_counter() - start)
        for tier in tiers:  # what a layer needs once is counted where it is first needed
            start = time.perf_counter()
            found[tier].append(solve(fresh[tier][0][i], fresh[tier][1][j], tier=tier))
            times[tier].append(time.perf_counter() - start)
    reference = np.array(found["POT"])
    rows = []
    for tier in tiers:
        values = np.array([pair.value for pair in found[tier]])
        bounds = np.array([pair.lower_bound for pair in found[tier]])
        ratios = [slow / quick for slow, quick in zip(times["POT"], times[tier], strict=True)]
        rows.append(
            [
                name,
                str(len(a[0])),
                str(len(pairs)),
                f"{np.mean(times['POT']):.3f}",
                tier,
                f"{sum(times['POT']) / sum(times[tier]):.1f}x",
                f"{statistics.median(ratios):.1f}x",
                f"{(values <= reference * (1 + 1e-6)).mean():.1%}",
                f"{(values / reference).max() - 1:+.1%}",
                f"{values.sum() / reference.sum():.4f}",
                f"{np.mean([p.certified for p in found[tier]]):.0%}",
                f"{np.median(bounds / values):.2f}",
            ]
        )
    return rows


def link(arguments):
    """How often a link is claimed where there is none, and found where there is one."""
    rows = [["layers", "noise", "link", "raw", "depth-partial", "first differences", "a verdict"]]
    rng = np.random.default_rng(0)
    for count in (12, 16, 48):
        for noise in (1.0, 0.3, 0.1):
            for strength in (0.0, 2.0):
                claims = dict.fromkeys((RAW, PARTIAL, DIFFERENCES, "verdict"), 0)
                for trial in range(arguments.simulations):
                    found = measure_link(*_simulated(rng, trial, count, noise, strength), permutations=499)
                    for name, correlation in found.correlations.items():
                        claims[name] += correlation.p < 0.05
                    claims["verdict"] += found.verdict != "not decided"
                rates = [f"{claimed / arguments.simulations:.1%}" for claimed in claims.values()]
                rows.append([str(count), f"{noise}", "yes" if strength else "no", *rates])
    print_table(
        f"Claims of a link, {arguments.simulations} simulations of 3 seeds and their siblings: three shapes of trends, "
        "kinds of layers in every second trial, autocorrelation 0, 0.3 or 0.6, half of the noise common to seeds",
        rows,
    )


def _simulated(rng, trial, count, size, strength):
    """Overlaps and distances of networks, and of siblings that share all that the architecture makes."""
    depth, rho = np.linspace(0, 1, count), (0.0, 0.3, 0.6)[trial % 3]
    shapes = (depth, depth**3, 1 / (1 + np.exp(-12 * (depth - 0.7))))
    kinds = (trial % 2) * 1.5 * (np.arange(count) % 3 == 0) * rng.choice([-1, 1])
    common = [size * 0.7 * _noise(rng, 1, count, rho) for _ in range(2)]
    overlap, distance = -3 * shapes[trial % 3] + kinds + common[0], 3 * shapes[(trial // 3) % 3] - kinds + common[1]
    own, other, sibling, its = (size * 0.7 * _noise(rng, 3, count, rho) for _ in range(4))
    peculiar = size * _noise(rng, 1, count, rho)  # what class-disjoint training does to a layer, in every seed
    return overlap + own + peculiar, distance + other - strength * peculiar, overlap + sibling, distance + its


def _noise(rng, seeds, count, rho):
    values = rng.standard_normal((seeds, count))
    for layer in range(1, count):
        values[:, layer] = rho * values[:, layer - 1] + np.sqrt(1 - rho**2) * values[:, layer]
    return values


def modules(arguments):
    """Planted modules: two early cores and a specialist for each network, in growing noise."""
    from sklearn.metrics import adjusted_rand_score

    planted = np.array([[0] * 4 + [1] * 4 + [2] * 4, [0] * 4 + [1] * 4 + [3] * 4])
    rows = [
        [
            "noise",
            "ARI at the true k",
            "stability there",
            "stability at others, highest",
            "k proposed (true 4)",
            "ARI at it",
            "trusted",
        ]
    ]
    for noise in (0.3, 0.6, 1.5):
        results = []
        for seed in range(arguments.repetitions):
            layers = _planted(planted, noise, seed)
            joint = joint_gw(layers, tier="fast")
            truth = planted.ravel()
            at_truth = find_modules(joint.values, 2, 4, list(joint.halves))
            proposal = propose(joint.values, 2, list(joint.halves))
            proposed = find_modules(joint.values, 2, proposal.k)
            others = max(value for k, value in proposal.stability.items() if k != 4)
            results.append(
                [
                    adjusted_rand_score(truth, at_truth.labels.ravel()),
                    at_truth.stability,
                    others,
                    proposal.k,
                    adjusted_rand_score(truth, proposed.labels.ravel()),
                    proposal.trusted,
                ]
            )
        columns = list(zip(*results, strict=True))
        counts = ", ".join(f"{k}: {columns[3].count(k)}" for k in sorted(set(columns[3])))
        rows.append(
            [
                f"{noise}",
                *(f"{np.mean(columns[c]):.2f}" for c in (0, 1, 2)),
                counts,
                f"{np.mean(columns[4]):.2f}",
                f"{np.mean(columns[5]):.0%}",
            ]
        )
    rows += [_chain(arguments)]
    print_table(f"Planted modules, 2 networks of 12 layers, 128 probes, {arguments.repetitions} repetitions", rows)


def _chain(arguments):
    """A smooth chain of layers, the same in both networks: no modules to be found."""
    found = []
    for seed in range(arguments.repetitions):
        rng = np.random.default_rng(seed)
        hidden, chain = rng.standard_normal((128, 16)), {}
        for layer in range(12):
            chain[f"layer_{layer}"] = torch.from_numpy(hidden)
            hidden = hidden + 0.5 * rng.standard_normal((128, 16))
        joint = joint_gw({"a": chain, "b": {name: 2 * points for name, points in chain.items()}}, tier="fast")
        found.append(propose(joint.values, 2, list(joint.halves)))
    counts = [proposal.k for proposal in found]
    stability = [max(proposal.stability.values()) for proposal in found]
    counted = ", ".join(f"{k}: {counts.count(k)}" for k in sorted(set(counts)))
    trusted = f"{np.mean([proposal.trusted for proposal in found]):.0%}"
    return ["a chain", "–", "–", f"{np.mean(stability):.2f}", counted, "–", trusted]


def _planted(planted, noise, seed, n=128, width=16):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((planted.max() + 1, n, width))
    return {
        f"network_{row}": {
            f"layer_{layer}": torch.from_numpy(centres[module] + noise * rng.standard_normal((n, width)))
            for layer, module in enumerate(modules_)
        }
        for row, modules_ in enumerate(planted)
    }


def full(arguments):
    """Both networks' layers against each other, all of them, on all cores."""
    torch.set_num_threads(cores())
    rows = [["networks", "layers", "n", "pairs", "minutes", "again, from finished blocks"]]
    for architecture, layers in (("resnet50", "weights"), ("deit-small", "blocks")):
        a, b = random_weights(architecture, 512, layers)
        with tempfile.TemporaryDirectory() as folder:
            minutes = []
            for _ in range(2):
                start = time.perf_counter()
                joint_gw({"a": a, "b": b}, resume_in=folder, progress=architecture)
                minutes.append((time.perf_counter() - start) / 60)
        count = 2 * len(a)
        rows.append([architecture, str(len(a)), "512", str(count * (count - 1) // 2), *(f"{m:.1f}" for m in minutes)])
    print_table(f"The whole analysis of two networks, {cores()} core(s), default tier", rows)


def gpu(arguments):
    """The batched path on an accelerator against all cores of the host."""
    if not torch.cuda.is_available():
        print("\nNo GPU here: the batched path was not timed.")
        return
    from concurrent.futures import ThreadPoolExecutor

    from dilt_hf.analysis import gpu as batched
    from dilt_hf.analysis import gromov as solver

    spent = {"products": [], "assignments": []}

    def timed(function, name):
        def call(*positional):
            start = time.perf_counter()
            try:
                return function(*positional)
            finally:
                spent[name].append(time.perf_counter() - start)

        return call

    batched._Shelf.products = timed(batched._Shelf.products, "products")
    solver.reassign = timed(solver.reassign, "assignments")
    rows = [
        [
            "layers",
            "n",
            "tier",
            "GPU s/pair",
            "host s/pair",
            "host / GPU",
            "in products",
            "in assignments (cores)",
            "worst value",
        ]
    ]
    for n in (512, 1000, 2000):
        a, b = random_weights("resnet50", n)
        pairs = [
            (MetricSpace.of(x.numpy()), MetricSpace.of(y.numpy()))
            for x in list(a.values())[::4]
            for y in list(b.values())[::2]
        ]
        for tier in ("fast", "default"):
            list(batched.solve_together(pairs[:2], tier, True, torch.device("cuda"), cores()))
            for times in spent.values():
                times.clear()
            start = time.perf_counter()
            found = dict(batched.solve_together(pairs, tier, True, torch.device("cuda"), cores()))
            on_gpu = time.perf_counter() - start
            shares = sum(spent["products"]) / on_gpu, sum(spent["assignments"]) / on_gpu / cores()
            torch.set_num_threads(1)
            start = time.perf_counter()
            with ThreadPoolExecutor(cores()) as pool:
                here = list(pool.map(lambda pair, tier=tier: solve(*pair, tier=tier), pairs))
            on_host = time.perf_counter() - start
            worst = max(found[k].value / here[k].value for k in found) - 1
            seconds = [f"{on_gpu / len(pairs):.4f}", f"{on_host / len(pairs):.4f}", f"{on_host / on_gpu:.1f}x"]
            rows.append(["R", str(n), tier, *seconds, *(f"{share:.0%}" for share in shares), f"{worst:+.2%}"])
    print_table(f"On {torch.cuda.get_device_name()}, with {cores()} host cores", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--run", nargs="*", default=[], help="folders of finished runs whose networks to add")
    parser.add_argument("--probes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--pairs", type=int, default=400, help="the most pairs of a family")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--simulations", type=int, default=1000)
    arguments = parser.parse_args()
    for part in arguments.parts:
        torch.set_num_threads(1)
        globals()[part](arguments)
