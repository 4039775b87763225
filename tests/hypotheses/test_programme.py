"""The four experiments one after the other in one folder, and what they leave there."""

import dataclasses
from pathlib import Path

import pytest

from dilt_hf.config.experiments import LayerConfig, SourceConfig
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.hypotheses import programme
from dilt_hf.hypotheses.estimates import LOOKS
from dilt_hf.hypotheses.judge import UNTESTED
from dilt_hf.hypotheses.programme import (
    benchmark,
    disentanglement,
    looked_at,
    registering,
    specialisation,
    transferral,
)
from dilt_hf.hypotheses.registry import hypotheses
from dilt_hf.hypotheses.verdict_files import judge_folder, load_evidence
from dilt_hf.report.page import write_report
from dilt_hf.results.overlaps import load_overlaps
from dilt_hf.results.registration import registrations
from dilt_hf.run.context import open_run
from dilt_hf.utils.errors import RunError

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
    assert all(each.siblings is not None for each in load_overlaps(folder).values()), "of the experiment that has some"
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


def test_an_experiment_is_registered_before_it_trains_and_says_so_everywhere(quick_config, change, monkeypatch, capsys):
    config = change(quick_config, "run", tickets=["core", "union"], controls=True, seeds=[0, 1])
    folder = open_run(config, progress=False).stages.root.parent
    seen = []
    monkeypatch.setattr(
        "dilt_hf.run.training_steps.train",
        lambda *_, **__: seen.append((folder / "registrations/specialisation.json").is_file()) or 1 / 0,
    )
    with pytest.raises(RunError):
        specialisation(config, ProcessGroup())
    assert seen
    assert all(seen)
    monkeypatch.undo()
    assert "Specialisation: plan registered on" in capsys.readouterr().out
    specialisation(config, ProcessGroup())
    found = registrations(folder)["specialisation"]
    assert found.deviations == []
    assert found.plan["looks"] == {str(seeds): level for seeds, level in LOOKS.items()}
    assert len(found.plan["inputs"]["training_images"]) > 10
    judge_folder(folder)
    for place in (folder / "verdicts.md", folder / "tickets/seed_0/README.md", write_report(folder)):
        assert found.sha256 in place.read_text(), place
    registering("specialisation", change(config, "training", num_train_epochs=7))(open_run(config, progress=False))
    deviation = "settings, training, num_train_epochs: 7 in place of"
    judge_folder(folder)
    assert deviation in (folder / "verdicts.md").read_text()
    assert deviation in write_report(folder).read_text()


def test_seeds_are_added_look_by_look_until_all_is_decided(quick_config, change, monkeypatch, capsys):
    decided_at = {"H1": 8, "H2": 5}

    def verdicts_of(folder):
        now = asked[-1]
        return [
            programme.Verdict(
                each, "not decided" if now < decided_at[each.key] else "refuted", "", *[1.0] * 4, now, (), 8
            )
            for each in programme.hypotheses()
            if each.key in decided_at
        ]

    asked = []
    monkeypatch.setattr(programme, "folder_verdicts", verdicts_of)
    config = change(quick_config, "run", seeds=[3], until_decided=True)
    for now in looked_at(config, ProcessGroup(), ["benchmark"]):
        asked.append(len(now.run.seeds))
        assert now.run.seeds[0] == 3
        assert len(set(now.run.seeds)) == len(now.run.seeds)
    assert asked == [5, 8]
    printed = capsys.readouterr().out
    assert (
        "After 5 seeds still open, and how many seeds would decide effects as they look now: H1 (8 seeds)." in printed
    )
    assert "After 8 seeds every hypothesis that was tested is decided." in printed
    assert [now.run.seeds for now in looked_at(quick_config, ProcessGroup(), ["benchmark"])] == [quick_config.run.seeds]
