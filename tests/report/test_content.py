"""What a report reads from the folder of a run."""

import numpy as np
import pytest
from helpers.run_folder import COST, make_run

from dilt_hf.hypotheses.judge import SUPPORTED, UNTESTED
from dilt_hf.report.content import gather
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.files import pretty_json
from dilt_hf.utils.markdown import Items, Table


@pytest.fixture
def run(tmp_path, quick_config):
    return tmp_path / "mine", *make_run(tmp_path / "mine", quick_config)


def test_all_that_experiments_left_is_found(run):
    folder, entries, unused = run
    content = gather(folder)
    assert [each.verdict for each in content.verdicts[:4]] == [SUPPORTED] * 3 + [UNTESTED]
    assert content.results.entries == entries
    assert isinstance(content.methods[0], Table)
    (layers,) = content.analyses
    assert (layers.name, layers.seeds, len(layers.figures)) == ("dense", 3, 3)
    assert np.isnan(layers.values[0, 1])
    assert isinstance(layers.text[1], Items)
    assert [each.rewind_step for each in content.transfers] == [0, 12]
    assert set(content.specialists) == {0, 1, 2}
    assert unused.address not in content.stages
    assert {entry.stage for entry in entries} < set(content.stages)
    assert sum(address.startswith("theta0") for address in content.stages) == 1, "what they derive from comes along"
    assert all((folder / place / "stage.json").is_file() for place in content.places.values())


def test_costs_are_those_of_all_stages_by_kind(run):
    costs = {cost.kind: cost for cost in gather(run[0]).costs}
    assert costs["train"].stages == 21 + 12
    assert costs["train"].steps == 33 * COST["steps"]
    assert costs["train"].seconds == 33 * COST["seconds"]
    assert costs["theta0"].stages == 2


def test_a_run_that_has_only_begun_has_a_report_too(tmp_path, quick_config):
    (tmp_path / "run.json").write_text(pretty_json(quick_config.to_dict()))
    content = gather(tmp_path)
    assert all(each.verdict == UNTESTED for each in content.verdicts)
    assert content.results is None
    assert not content.stages


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("specialists.json", '{"0": {"lesions": 1}}'),
        ("specialists.json", "{"),
        ("analysis/dense/analysis.json", '{"gw": 3}'),
        ("transfer/target/transfer.json", '{"networks": [1]}'),
        ("evidence/comparison.json", "[]"),
    ],
)
def test_damaged_files_are_named(run, path, text):
    (run[0] / path).write_text(text)
    with pytest.raises(RunError, match=rf"{path}.* (is not what was written|is damaged)"):
        gather(run[0])
    for sums in run[0].rglob("SHA256SUMS"):  # as in runs of earlier versions
        sums.unlink()
    with pytest.raises(RunError, match=path.rsplit("/", 1)[-1].removesuffix("analysis.json") or "dense"):
        gather(run[0])


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"is not the folder of a run: it has no run\.json"):
        gather(tmp_path)
