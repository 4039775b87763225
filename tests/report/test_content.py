"""What a report reads from the folder of a run."""

import numpy as np
import pytest
from helpers.run_folder import COST, make_run

from dilt_hf.hypotheses.judge import SUPPORTED, UNTESTED
from dilt_hf.report.content import gather
from dilt_hf.report.sanitise import sanitised
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.files import pretty_json
from dilt_hf.utils.markdown import Items, Table


@pytest.fixture
def run(tmp_path, quick_config):
    return tmp_path / "mine", *make_run(tmp_path / "mine", quick_config)


def test_all_that_experiments_left_is_found(run):
    folder, entries, unused = run
    content = gather(folder)
    assert [each.verdict for each in content.verdicts[:5]] == [SUPPORTED] * 4 + [UNTESTED]
    assert content.results.entries == entries
    assert isinstance(content.methods[0], Table)
    (layers,) = content.analyses
    assert (layers.name, layers.seeds, len(layers.figures)) == ("dense", 5, 3)
    assert np.isnan(layers.values[0, 1])
    assert isinstance(layers.text[1], Items)
    assert [each.rewind_step for each in content.transfers] == [0, 12]
    assert set(content.specialists) == set(range(5))
    assert unused.address not in content.stages
    assert {entry.stage for entry in entries} < set(content.stages)
    assert sum(address.startswith("theta0") for address in content.stages) == 1, "what they derive from comes along"
    assert all((folder / place / "stage.json").is_file() for place in content.places.values())


def test_costs_are_those_of_all_stages_by_kind(run):
    costs = {cost.kind: cost for cost in gather(run[0]).costs}
    assert costs["train"].stages == 35 + 40
    assert costs["train"].steps == 75 * COST["steps"]
    assert costs["train"].seconds == 75 * COST["seconds"]
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


def test_a_missing_or_broken_drawing_is_left_out_with_a_sentence(run, caplog):
    figures = run[0] / "analysis/dense/figures"
    (figures / "link.svg").unlink()
    (figures / "modules.svg").write_text("<svg")
    found = gather(run[0]).analyses[0].figures
    assert set(found) == {"distances"}
    assert "link.svg is missing, and left out of the report" in caplog.text
    assert "modules.svg is left out of the report: it is no drawing" in caplog.text


HOSTILE_SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" onload="EVIL()">
<script>EVIL()</script><style>@import url(http://EVIL)</style><foreignObject><body xmlns="http://www.w3.org/1999/xhtml">
<img src="x" onerror="EVIL()"/></body></foreignObject><a xlink:href="javascript:EVIL()"><text>EVIL</text></a>
<use xlink:href="http://EVIL/x.svg#a"/><image href="http://EVIL/a.png"/><set attributeName="onclick" to="EVIL()"/>
<rect style="fill: url(http://EVIL)" fill="url( 'http://EVIL' )" onclick="EVIL()" width="3"/><path d="M0 0" id="kept"/>
<image xlink:href="data:image/svg+xml;base64,EVIL"/><image xlink:href="data:image/png;base64,aGk="/></svg>"""


def test_nothing_of_a_strangers_drawing_runs_or_is_fetched():
    clean = sanitised(HOSTILE_SVG)
    assert "EVIL" not in clean
    assert 'id="kept"' in clean
    assert 'width="3"' in clean
    assert "data:image/png;base64,aGk=" in clean


@pytest.mark.parametrize("text", ["", "<html/>", "<svg/>", "<!DOCTYPE svg [<!ENTITY a 'b'>]><svg/>", "<svg" * 10])
def test_what_is_no_drawing_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        sanitised(text)
