"""The folder of a run as experiments leave it, with planted numbers in place of trained networks."""

import json

import numpy as np
from matplotlib.figure import Figure

from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stages
from dilt_hf.experiments.specialist_scores import FROM_CORE, FROM_UNION, LESIONS, OF_CORE_SIZE, SpecialistTables
from dilt_hf.experiments.transfer import Transfer, Transferred
from dilt_hf.hypotheses.criteria import Measured
from dilt_hf.hypotheses.registry import hypotheses
from dilt_hf.hypotheses.verdict_files import save_evidence
from dilt_hf.results.figures import as_svg
from dilt_hf.results.methods_table import methods_caption, methods_table
from dilt_hf.results.results import Entry, Results
from dilt_hf.results.summary import write_results
from dilt_hf.utils.checksums import write_result
from dilt_hf.utils.files import json_values, pretty_json

HYPOTHESES = hypotheses()

SEEDS, HOSTILE = (0, 1, 2, 3, 4), "<script>alert('x')</script> & co"
COST = {"steps": 10.0, "examples": 640.0, "dense_flops": 3e9, "sparse_flops": 1e9, "seconds": 1.5}


def make_run(folder, config, layers=4):
    """All that a report can tell of; θ0 is a stage that every training derives from."""
    folder.mkdir(parents=True)
    write_result(folder, "run.json", pretty_json(config.to_dict()))
    stages = Stages(folder / "stages")
    start = stages.get(Kind("theta0", version=1), {"seed": 0}, lambda _: {}, description="seed 0: θ0")
    unused = stages.get(Kind("theta0", version=1), {"seed": 99}, lambda _: {}, description="of no result")

    def trained(store, what):
        return store.get(
            Kind("train", version=1),
            {"what": what},
            lambda _: {"cost": COST},
            description=what,
            derived_from=[start.address],
        ).address

    entries = []
    for seed in SEEDS:
        for name, control, matched in (
            ("dense", "", None),
            ("core", "", None),
            ("core", "shuffled", None),
            ("union", "", None),
            ("core", "", 0.5),
            ("random", "", 0.5),
            ("SNIP", "", 0.5),
        ):
            accuracy = 0.9 + 0.01 * seed - 0.1 * (name == "SNIP")
            scores = {"accuracy": accuracy, "partition_accuracy": [accuracy, accuracy - 0.02]}
            address = trained(stages, f"{name} {control} {matched} {seed}")
            entries.append(Entry(seed, name, control, matched, matched or 0.1, scores, COST, COST, address, rounds=2))
    results = Results(entries, [], 2)
    write_results(results, folder)
    write_result(folder, "methods.md", f"{methods_table(results)}\n\n{methods_caption(results)}\n")
    gains = {
        criterion.key: Measured(
            {s: criterion.least + 5 + 0.1 * s for s in SEEDS}, sources=(entries[0].stage, "train-x")
        )
        for hypothesis in HYPOTHESES[:4]
        for criterion in hypothesis.criteria
    }
    save_evidence(folder, "comparison", gains)
    table = [[5.0, 1.0], [2.0, 4.0]]
    tables = dict.fromkeys((LESIONS, FROM_UNION, FROM_CORE, OF_CORE_SIZE), table)
    found = {str(s): SpecialistTables(tables, tables, table, (entries[0].stage,)).to_dict() for s in SEEDS}
    write_result(folder, "specialists.json", pretty_json(json_values(found)))
    target = Stages(folder / "transfer/target/stages")
    networks = [
        Transferred(name, s, density, 80.0 + s, trained(target, f"{name} {density} {s} {w} on the target"), w)
        for s in SEEDS
        for w in ("own", "new")
        for name, density in (("dense", 1.0), ("core", 0.5), ("union", 0.5), ("core, shuffled", 0.5))
    ]
    for k in (0, 12):
        transfer = Transfer(networks, 100, k)
        write_result(folder / "transfer/target", f"{transfer.name}.json", pretty_json(transfer.to_dict()))
    place = folder / "analysis/dense"
    (place / "figures").mkdir(parents=True)
    values = np.abs(np.subtract.outer(np.arange(2.0 * layers), np.arange(2.0 * layers)))
    values[0, 1] = values[1, 0] = np.nan  # a constant layer
    numbers = {
        "layers": {f"block.{i}": [] for i in range(layers)},
        "networks": ["dense_0", "dense_1"],
        "seeds": list(SEEDS),
        "gw": {"mean_over_seeds": values.tolist()},
    }
    write_result(place, "analysis.json", json.dumps(json_values(numbers)))
    write_result(place, "analysis.md", f"| module | layers |\n|--------|-------:|\n| core | 1-2 |\n\n- {HOSTILE}\n")
    for name in ("distances", "modules", "link"):
        figure = Figure()
        figure.add_subplot().plot([1, 2], color="#000000")
        (place / f"figures/{name}.svg").write_text(as_svg(figure))
    return entries, unused
