"""The whole analysis on small real runs: from the folder of a run, and from ticket repositories."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers.small import changed, quick_run

from dilt_hf.analysis import matrix
from dilt_hf.analysis.figures import short_names
from dilt_hf.cli.stages import collect
from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import AnalyzeConfig
from dilt_hf.engine.stages import BusyError, Stages
from dilt_hf.experiments import analyze as experiment
from dilt_hf.experiments.analysis_sources import SAME_DATA
from dilt_hf.experiments.analyze import analyze, check_layers, planned
from dilt_hf.experiments.find import find_tickets
from dilt_hf.run.context import open_run
from dilt_hf.utils.errors import AnalysisError, ConfigError, RunError

SAME = DataConfig(dataset_name=SAME_DATA)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two seeds, without siblings: a ResNet of seven convolutions on a few digits."""
    folder, tickets = tmp_path_factory.mktemp("run") / "digits", ["partition_0", "partition_1"]
    small = {"blocks_per_stage": 1, "hidden_sizes": [6, 6, 6]}
    config = changed(quick_run(folder), "data", max_train_samples=120, max_eval_samples=60)
    config = changed(config, "model", architecture="resnet20", config_overrides=small)
    config = changed(config, "pruning", num_rounds=1)
    config = changed(config, "run", seeds=[0, 1], tickets=tickets, materialise=tickets)
    find_tickets(config, progress=False)
    return folder


def settings(run, tmp_path, **changes):
    defaults = {
        "layers": ["weights"],
        "num_probes": 40,
        "probe_split": "test",
        "tier": "fast",
        "output_dir": str(tmp_path / "out"),
    }
    return AnalyzeConfig(**({"sources": [str(run)]} | defaults | changes))


@pytest.mark.slow
def test_a_run_is_analysed_and_the_work_is_found_again(run, tmp_path, monkeypatch, capsys):
    config = settings(run, tmp_path, siblings=True)
    findings = analyze(config, SAME)
    out = tmp_path / "out"
    assert "2 networks of 7 layers, 40 probes: 364 pairs of layers over all seeds" in capsys.readouterr().out
    assert findings.networks == ("dense_0", "dense_1")
    assert findings.diagonals.shape == findings.excesses.shape == (2, 7)
    assert np.isfinite(findings.excesses).all()
    assert findings.link.siblings is not None
    assert len(findings.siblings) == 2
    numbers = json.loads((out / "analysis.json").read_text())
    paired = np.array(numbers["gw"]["counterparts"]["paired"]["networks"], dtype=float)
    np.testing.assert_allclose(paired[:, ~findings.flat], findings.diagonals[:, ~findings.flat])
    assert len(numbers["gw"]["counterparts"]["within classes"]["siblings"]) == 2
    assert np.array(numbers["gw"]["counterparts"]["paired"]["untrained"]).shape == (2, 7)
    assert numbers["gw"]["rematched"][0].keys() == {"class", "partition"}
    assert numbers["layers"]["layer2.0.conv1"] == ["layer2.0.conv1.weight"]
    for name in ("distances", "modules", "link"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / "figures" / f"{name}.svg").read_text()
        json.loads((out / "figures" / f"{name}.json").read_text())
    text = (out / "analysis.md").read_text()
    assert "| layer2.0.conv1 | layer2.0.conv1.weight |" in " ".join(text.split())
    first = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file() and "stages" not in path.parts}
    assert {"gw_seed_0.safetensors", "gw_seed_1.safetensors"} <= set(first)

    def never(*arguments, **options):
        raise AssertionError("done before")

    monkeypatch.setattr(experiment, "collect", never)
    monkeypatch.setattr(matrix, "solve", never)
    analyze(config, SAME, progress=False)
    again = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file() and "stages" not in path.parts}
    assert again == first


@pytest.mark.slow
def test_masked_networks_and_tickets_of_a_run(run, tmp_path):
    masked = analyze(settings(run, tmp_path, networks=["masked"], seeds=[1]), SAME, progress=False)
    assert masked.networks == ("masked_0", "masked_1")
    assert masked.seeds == [1]
    assert masked.link.verdict == "not shown"
    tickets = analyze(
        settings(run, tmp_path, networks=["core", "union"], seeds=[0], layers=["blocks"]), SAME, progress=False
    )
    assert tickets.networks == ("core", "union")
    assert len(tickets.layers) == 3
    assert tickets.siblings == []


@pytest.mark.slow
def test_ticket_repositories_are_analysed_on_the_data_that_they_name(run, tmp_path):
    sources = [str(run / "tickets" / f"seed_{seed}") for seed in (0, 1)]
    findings = analyze(settings(run, tmp_path, sources=sources, num_modules=2), SAME, progress=False)
    assert findings.networks == ("partition_0", "partition_1")
    assert findings.seeds == [0, 1]
    assert findings.modules.count == 2
    named = DataConfig(dataset_name="digits", image_size=8)
    same = analyze(settings(run, tmp_path, sources=sources, num_modules=2), named, progress=False)
    np.testing.assert_allclose(same.diagonals, findings.diagonals)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"networks": ["core"]}, ConfigError, "--networks must be dense, or masked, or two tickets and more: core"),
        ({"layers": ["nothing"]}, AnalysisError, "has no module 'nothing'"),
        ({"pooling": "cls"}, AnalysisError, "cannot be pooled by 'cls'"),
    ],
)
def test_bad_requests_of_a_run(run, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        analyze(settings(run, tmp_path, **changes), SAME, progress=False)


def test_bad_sources(run, tmp_path):
    repository = str(run / "tickets" / "seed_0")
    with pytest.raises(ConfigError, match="has its own seeds; give it alone"):
        analyze(settings(run, tmp_path, sources=[str(run), repository]), SAME, progress=False)
    with pytest.raises(AnalysisError, match="holds trained weights of partition_0, partition_1, and two or more"):
        analyze(settings(run, tmp_path, sources=[repository], networks=["core", "union"]), SAME, progress=False)
    with pytest.raises(ConfigError, match="name the folder of a run"):
        AnalyzeConfig()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"data": {"color": 1}}')
    with pytest.raises(ConfigError, match="not the settings of a run of this version"):
        analyze(settings(run, tmp_path, sources=[str(tmp_path / "other")]), SAME, progress=False)


def test_repositories_that_do_not_belong_together(run, tmp_path):
    repository = run / "tickets" / "seed_0"
    twin = tmp_path / "twin"
    shutil.copytree(repository, twin)
    with pytest.raises(AnalysisError, match="hold the same tickets, which are one seed and not two"):
        analyze(settings(run, tmp_path, sources=[str(repository), str(twin)]), SAME, progress=False)
    config = json.loads((twin / "dilt_config.json").read_text())
    config["dataset"]["name"] = "other"
    (twin / "dilt_config.json").write_text(json.dumps(config))
    with pytest.raises(AnalysisError, match="twin has tickets of other data"):
        analyze(settings(run, tmp_path, sources=[str(repository), str(twin)]), SAME, progress=False)


def test_bad_settings_are_refused_before_any_work(run, tmp_path):
    for changes, message in (
        ({"num_modules": 1000}, "14 layers in all cannot form --num_modules 1000"),
        ({"pooling": "max"}, "--pooling must be auto, mean, cls, or grid_1 to grid_32, not max"),
    ):
        with pytest.raises((AnalysisError, ConfigError), match=message):
            analyze(settings(run, tmp_path, **changes), SAME, progress=False)
    with pytest.raises(ConfigError, match="--probe_split must be one of test, validation, not 'train'"):
        AnalyzeConfig(sources=["x"], probe_split="train")


def test_names_in_figures_leave_out_what_all_share():
    assert short_names(["a.stem", "a.b.0.conv", "a.b.1.conv", "a.c.1.conv"]) == ["stem", "b.0", "b.1", "c.1"]
    assert short_names(["x.0.conv", "x.0.conv"]) == ["x.0.conv", "x.0.conv"]


def test_a_dry_run_says_what_would_be_compared_and_leaves_nothing(run, tmp_path):
    said = planned(settings(run, tmp_path / "out"), SAME)
    assert re.fullmatch(r"2 seed\(s\): the layers of .*, on \d+ probes, into .*out.*\.", said)
    assert not (tmp_path / "out").exists()


def test_an_analysis_waits_for_another_that_computes_what_it_needs(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(experiment, "PAUSE", 0.0)
    compare, refusals = experiment.Analysis.compare, iter([True, True, False, False, True, False, False])

    def sometimes(*arguments, **options):
        if next(refusals, False):
            raise BusyError("layers of dense_0: process 1 on host is computing it")
        return compare(*arguments, **options)

    monkeypatch.setattr(experiment.Analysis, "compare", sometimes)
    assert analyze(settings(run, tmp_path), SAME, progress=False).seeds
    assert "waiting: layers of dense_0: process 1 on host is computing it." in caplog.text


def test_layers_that_cannot_be_compared_are_noticed_before_training(run, quick_config, change):
    ctx = open_run(
        change(quick_config, "model", architecture="timm:test_vit", config_overrides={"depth": 0}), progress=False
    )
    with pytest.raises(AnalysisError, match="has no residual blocks"):
        check_layers(ctx, ["blocks"], "mean")
    with pytest.raises(AnalysisError, match="has no module 'nothing'"):
        check_layers(ctx, ["nothing"], "mean")


def test_an_analysis_that_is_kept_elsewhere_keeps_its_steps(run, tmp_path):
    """It trains on siblings, whose steps nothing in the run itself names."""
    copied = shutil.copytree(run, tmp_path / "run")
    config = settings(copied, tmp_path, siblings=True, seeds=[0], num_probes=20)
    analyze(config, SAME, progress=False)
    steps = {path.name for path in (copied / "stages").iterdir() if not path.name.startswith(".")}
    collect(Stages(copied / "stages"), copied, delete=True)
    kept = {path.name for path in (copied / "stages").iterdir() if not path.name.startswith(".")}
    (cited,) = (
        each
        for each in (json.loads(path.read_text()) for path in (copied / "cited_by").iterdir())
        if each["analysis"] == str((tmp_path / "out").resolve())
    )
    assert set(cited["steps"]) <= kept <= steps
    assert any("sibling" in stage.description for stage in Stages(copied / "stages").all())


def test_a_folder_of_somebody_else_is_left_alone(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/analysis.md").write_text("mine")
    for act in (planned, analyze):
        with pytest.raises(RunError, match="holds something else already"):
            act(settings(run, tmp_path), SAME)
    assert (tmp_path / "out/analysis.md").read_text() == "mine"
