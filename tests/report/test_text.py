"""The report as Markdown: all tables of the page, readable again."""

from helpers.run_folder import make_run

from dilt_hf.hypotheses.registry import hypotheses
from dilt_hf.report.content import gather
from dilt_hf.report.page import write_report
from dilt_hf.report.text import report_text
from dilt_hf.utils.markdown import Table, read_blocks


def test_the_text_stands_beside_the_page_and_has_its_tables(tmp_path, quick_config):
    make_run(tmp_path / "mine", quick_config)
    page = write_report(tmp_path / "mine")
    text = (page.parent / "report.md").read_text(encoding="utf-8")
    content = gather(page.parent)
    assert text == report_text(content, "mine")
    for each in hypotheses():
        assert each.claim in text
    titles = [block for block in read_blocks(text) if isinstance(block, str) and block.startswith("## ")]
    assert titles[:2] == ["## Verdicts", "## What they rest on"]
    assert {"## Networks", "## Specialists", "## Cost"} <= set(titles)
    tables = [block for block in read_blocks(text) if isinstance(block, Table)]
    assert all(len(row) == len(table.head) for table in tables for row in table.body)
    assert len(tables[0].body) == len(content.verdicts)
    assert len(tables[1].body) == sum(len(each.criteria) for each in content.verdicts)
    assert "  " not in "".join(line for line in text.splitlines() if line.startswith("|"))
