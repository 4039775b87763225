"""Evidence that was kept gives the verdicts that it gave, and damaged evidence none."""

import json

import pytest

from dilt_hf.experiments.find import find_tickets
from dilt_hf.hypotheses.criteria import Measured
from dilt_hf.hypotheses.inference import ImageNoise
from dilt_hf.hypotheses.judge import SUPPORTED, UNTESTED, WITHHELD, verdicts
from dilt_hf.hypotheses.registry import hypotheses
from dilt_hf.hypotheses.verdict_files import judge_folder, load_evidence, save_evidence
from dilt_hf.report.page import write_report
from dilt_hf.results.summary import results_sentences
from dilt_hf.utils.errors import RunError

HYPOTHESES = hypotheses()

GAIN = {
    "union_core": Measured(
        dict(enumerate([3.0, 3.5, 3.2, 3.1, 3.3])), 0.1, ("train-a",), noise={5: ImageNoise(0.01, 0.002, 360)}
    ),
    "union_core_matched": Measured(dict(enumerate([2.0, 2.2, 2.1, 2.15, 2.05])), 0.05, ("train-b",), {5: 1e-6}),
}
OTHERS = {  # measured by the same experiment, without which nothing of it is judged
    criterion.key: Measured(dict(enumerate([0.0, 0.2, 0.1, 0.15, 0.05])))
    for hypothesis in HYPOTHESES
    if hypothesis.key == "H3"
    for criterion in hypothesis.criteria
} | {key: Measured(dict(enumerate([0.0, 0.2, 0.1, 0.15, 0.05]))) for key in ("core_lth", "core_one_shot")}


def test_what_was_kept_is_judged(tmp_path):
    save_evidence(tmp_path, "comparison", {})
    save_evidence(tmp_path, "comparison", GAIN | OTHERS)
    save_evidence(tmp_path, "layers", {"late_break": Measured({0: 0.1, 1: 0.2})})
    assert load_evidence(tmp_path) == GAIN | OTHERS | {"late_break": Measured({0: 0.1, 1: 0.2})}
    found = judge_folder(tmp_path)
    assert found == verdicts(HYPOTHESES, load_evidence(tmp_path))
    by_key = {each.hypothesis.key: each for each in found}
    assert by_key["H2"].verdict == SUPPORTED
    assert by_key["H4"].verdict == by_key["H1"].verdict == UNTESTED
    stored = json.loads((tmp_path / "verdicts.json").read_text())
    assert stored[2]["criteria"][0]["measured"]["sources"] == ["train-a"]
    assert stored[0]["p_support"] is None
    text = (tmp_path / "verdicts.md").read_text()
    assert "| H2   | The union beats the core." in text
    assert "accuracy of the union minus that of the core at matched density (control)" in text
    assert "+3.22 [" in text


HUGE = '{"union_core": {"values": {"0": 1, "1": 2}, "step": 1e300, "sources": [], "least_p": 0}}'


@pytest.mark.parametrize("content", ["{", '{"union_core": 3}', '{"union_core": {"values": {"x": 1}}}', "[1]", HUGE])
def test_damaged_evidence_is_named(tmp_path, content):
    save_evidence(tmp_path, "comparison", GAIN)
    path = tmp_path / "evidence/comparison.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"comparison\.json"):
        judge_folder(tmp_path)
    assert not (tmp_path / "verdicts.json").exists()


def test_an_experiment_whose_networks_are_at_chance_gets_no_verdict(tmp_path):
    reason = "Nothing is concluded: networks are not shown to be above chance on their own classes (seed 0: dense_0)."
    save_evidence(tmp_path, "layers", {}, doubt=reason)
    save_evidence(tmp_path, "comparison", GAIN | OTHERS)
    found = {each.hypothesis.key: each for each in judge_folder(tmp_path)}
    assert {(found[key].verdict, found[key].reason) for key in ("H0", "H4", "H5", "H6")} == {(WITHHELD, reason)}
    assert found["H2"].verdict == SUPPORTED
    save_evidence(tmp_path, "layers", {})
    assert {each.hypothesis.key: each for each in judge_folder(tmp_path)}["H4"].verdict == UNTESTED


def test_a_run_of_more_partitions_has_more_criteria(tmp_path, quick_config, change):
    config = change(quick_config, "partition", num_partitions=5)
    (tmp_path / "run.json").write_text(json.dumps(config.to_dict()))
    assert {each.hypothesis.key: each for each in judge_folder(tmp_path)}["H7"].hypothesis.criteria[-1].key[-1] == "4"
    (tmp_path / "run.json").write_text('{"partition": []}')
    with pytest.raises(RunError, match=r"run\.json"):
        judge_folder(tmp_path)


def test_verdicts_on_networks_at_chance_are_withheld(tmp_path, quick_config, change):
    """A whole run that learns nothing: one warning on the screen, in results, verdicts and report, and no verdict."""
    config = change(quick_config, "training", learning_rate=1e-9)
    config = change(config, "run", output_dir=str(tmp_path), controls=True, seeds=[0, 1])
    results = find_tickets(config, progress=False)
    doubt = "Nothing is concluded: the dense network of seeds 0, 1 is not shown to be above chance"
    assert doubt in (tmp_path / "results.md").read_text()
    keys = [criterion.key for hypothesis in HYPOTHESES[1:4] for criterion in hypothesis.criteria]
    save_evidence(tmp_path, "comparison", {key: Measured(dict.fromkeys(range(5), 9.0), step=0.1) for key in keys})
    found = {each.hypothesis.key: each for each in judge_folder(tmp_path)}
    assert {found[key].verdict for key in ("H1", "H2")} == {WITHHELD}
    assert {each.verdict for each in found.values()} == {WITHHELD, UNTESTED}
    assert doubt in (tmp_path / "verdicts.md").read_text()
    page = write_report(tmp_path).read_text()
    assert doubt in page
    assert page.count("withheld") > 1
    assert doubt in str(results_sentences(results))
    card = (tmp_path / "tickets/seed_0/README.md").read_text()
    assert doubt in card
