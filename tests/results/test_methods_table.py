"""Methods side by side: paired differences, costs, two images; and the recipes that print them, on a slice."""

import pytest
from helpers.recipes import run_recipe

from dilt_hf.results.figures import as_png, as_svg, cost_figure, methods_figure
from dilt_hf.results.methods_table import compared, has_methods, methods_caption, methods_table
from dilt_hf.results.results import Entry, Results

SLICE = [
    "--max_train_samples",
    "120",
    "--max_eval_samples",
    "60",
    "--num_train_epochs",
    "1",
    "--seeds",
    "0",
    "--image_size",
    "8",
    "--architecture",
    "conv3",
    "--config_overrides",
    '{"hidden_sizes": [8, 8]}',
    "--global_train_batch_size",
    "30",
    "--use_cpu",
    "true",
    "--update_every",
    "1",
]


def entry(seed, name, matched, accuracy, steps=10.0, rounds=0):
    cost = {"steps": steps, "examples": 8 * steps, "dense_flops": 1e9, "sparse_flops": 1e8, "seconds": 2.0}
    scores = {"accuracy": accuracy, "partition_accuracy": [accuracy, accuracy]}
    return Entry(seed, name, "", matched, matched or 1.0, scores, cost, cost, f"train-{seed}", rounds)


def results(seeds=3):
    entries = []
    for seed in range(seeds):
        entries.append(entry(seed, "dense", None, 0.95))
        for matched in (0.5, 0.1):
            for name, gain in (("random", 0.0), ("SNIP", 0.1), ("LTH", 0.2)):
                entries.append(entry(seed, name, matched, 0.6 + gain + 0.01 * seed, rounds=3 * (name == "LTH")))
    return Results(entries, [], 2)


def test_differences_to_random_are_paired_and_costs_add_up():
    points = {(point.method, point.density): point for point in compared(results())}
    snip = points["SNIP", 0.1]
    assert snip.accuracy.mean == pytest.approx(71)
    assert snip.accuracy.half_width > 1
    assert snip.beyond.mean == pytest.approx(10)
    assert snip.beyond.half_width == pytest.approx(0, abs=1e-9)
    assert (snip.steps, snip.dense_flops, snip.seconds) == (20, 2e9, 4)
    assert points["LTH", 0.5].rounds == 3
    assert points["random", 0.5].beyond is None
    text = methods_table(results())
    assert text.index("at sparsity 50 %") < text.index("at sparsity 90 %")
    assert "+10.0 ± 0.0" in text
    assert "3 seeds" in methods_caption(results())
    assert "one seed" in methods_caption(results(1))
    for draw in (methods_figure, cost_figure):
        assert as_png(draw(results())).startswith(b"\x89PNG")
        assert as_svg(draw(results())) == as_svg(draw(results()))
        assert ">SNIP</text>" in as_svg(draw(results()))


def test_tickets_alone_are_no_comparison_of_methods():
    assert has_methods(results())
    assert not has_methods(Results([entry(0, "dense", None, 0.9), entry(0, "core", 0.1, 0.8)], [], 2))


@pytest.mark.slow
def test_the_benchmark_on_a_slice(tmp_path, capsys):
    options = ["--output_dir", tmp_path, *SLICE]
    run_recipe("benchmark", [*options, "--methods", "LTH", "RigL", "SNIP", "--sparsities", "0.5", "0.8"])
    printed = capsys.readouterr().out
    assert "at sparsity 80 %:" in printed
    assert {"methods.md", "methods_by_sparsity.png", "methods_by_cost.png"} <= {p.name for p in tmp_path.iterdir()}
    assert not (tmp_path / "tickets").exists()
    assert printed.strip().splitlines()[-1] == f"Report: {tmp_path / 'report.html'}"
    assert "Not tested: H0, H1, H2" in printed, "a single seed decides nothing"
    assert (tmp_path / "report.html").is_file()
    with pytest.raises(SystemExit, match=r"^error: --methods knows core, union, LTH"):
        run_recipe("benchmark", ["--output_dir", tmp_path / "other", *SLICE, "--methods", "LHT"])


@pytest.mark.slow
def test_routing_on_a_slice(tmp_path, capsys):
    clusters = ["--sparsities", "0.5", "--partition_by", "image_clusters"]
    rounds = ["--num_rounds", "4", "--pruning_fraction", "0.3"]
    run_recipe("rtl", ["--output_dir", tmp_path, *SLICE, *clusters, *rounds])
    printed = capsys.readouterr().out
    assert "single, given the partition" in printed
    assert "Collapse, alarm for a turn" in printed
