"""The four experiments one after the other in one folder, and what they leave there."""

import dataclasses
from pathlib import Path

import pytest

from dilt_hf.config.experiments import LayerConfig, SourceConfig
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.hypotheses.judge import UNTESTED
from dilt_hf.hypotheses.programme import benchmark, disentanglement, specialisation, transferral
from dilt_hf.hypotheses.registry import hypotheses
from dilt_hf.hypotheses.verdict_files import judge_folder, load_evidence

HYPOTHESES = hypotheses()


@pytest.fixture
def config(quick_config, change):
    needed = ["core", "union", "LTH", "one-shot", "COLT", "RigL", "CAP", "random", "magnitude-at-init"]
    config = change(
        quick_config, "run", seeds=[0, 1, 2], tickets=[], methods=needed, controls=True, matched_density=[0.5]
    )
    config = change(config, "run", equal_budget=True)
    sizes = {"hidden_sizes": [4, 8, 8], "embedding_size": 4}  # nine layers: enough for a link
    config = change(config, "model", architecture="resnet-micro", config_overrides=sizes)
    config = change(
        config, "pruning", num_rounds=None, pruning_fraction=0.6, target_sparsity=0.5, target_ticket="union"
    )
    return change(config, "methods", update_every=1, scoring_examples=2, fisher_examples=20, fisher_block=16)


@pytest.mark.slow
def test_every_hypothesis_is_judged_on_evidence_that_names_its_stages(config, change, monkeypatch):
    folder = Path(config.run.output_dir)
    # what the programme keeps is looked at, of networks that learn nothing in a few steps
    monkeypatch.setattr("dilt_hf.experiments.analyze.is_above_chance", lambda *_: True)
    monkeypatch.setattr("dilt_hf.analysis.findings.FLAT", 0.0)
    assert "| union" in benchmark(config, ProcessGroup())
    assert {"H1", "H2", "H3"} <= {each.hypothesis.key for each in judge_folder(folder) if each.verdict != UNTESTED}
    said = specialisation(config, ProcessGroup())
    assert "| specialist_0, shuffled" in said
    assert "| core, re-initialised" in said
    assert "Link of overlap" in disentanglement(config, LayerConfig(layers=["weights"], num_probes=60), ProcessGroup())
    target = change(config, "data", classes=["6-9"], max_train_samples=100)
    source = SourceConfig(source_classes=["0-5"], source_rewind_steps=[0, 1], densities=[0.5])
    assert transferral(target, source, ProcessGroup()).count("| core, shuffled") == 4
    known = {criterion.key for hypothesis in HYPOTHESES for criterion in hypothesis.criteria}
    evidence = load_evidence(folder)
    assert evidence.keys() == known
    assert all(set(each.values) == {0, 1, 2} and each.sources for each in evidence.values())
    assert all(each.verdict != UNTESTED for each in judge_folder(folder))
    stages = {path.name for path in folder.rglob("stages/*")}
    named = {source for each in evidence.values() for source in each.sources}
    assert named
    assert named <= stages

    def never(*arguments, **options):
        raise AssertionError("done before")

    monkeypatch.setattr("dilt_hf.run.training_steps.train", never)
    monkeypatch.setattr("dilt_hf.run.evaluation_steps.predict_within", never)
    benchmark(config, ProcessGroup())
    specialisation(change(config, "run", seeds=[1]), ProcessGroup())
    disentanglement(change(config, "run", seeds=[2]), LayerConfig(layers=["weights"], num_probes=60), ProcessGroup())
    transferral(change(target, "run", seeds=[2, 0]), source, ProcessGroup())
    after = load_evidence(folder)
    assert after.keys() == evidence.keys()
    for key, measured in after.items():
        same = dataclasses.replace(measured, sources=evidence[key].sources)
        assert same == evidence[key], "what is known of other seeds stays"
        assert set(measured.sources) == set(evidence[key].sources)
