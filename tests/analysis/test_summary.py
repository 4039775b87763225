"""Findings in words: what is said about planted ones."""

from helpers.layers import findings

from dilt_hf.analysis.summary import layer_table, module_table, report, sentences


def test_planted_networks_are_described():
    found = findings()
    text = " ".join(sentences(found))
    assert "before and after layer 3 of 6" in text
    assert "3 proposed (shared, private-0, private-1)" in text
    assert "No sibling networks" in text
    assert layer_table(found).count("\n") == 7
    assert [line.split("|")[1].strip() for line in module_table(found).splitlines()[2:]] == list(found.modules.names)


def test_one_seed_and_a_dead_layer_are_said():
    found = findings(1, dead=True)
    assert "Constant on the probes, and left out: layer_1." in sentences(found)
    assert "agreement of seeds –" in " ".join(sentences(found))


def test_the_report_holds_all_of_it_and_the_weights_of_each_layer():
    found = findings()
    text = report(found)
    assert all(sentence in text for sentence in sentences(found))
    assert layer_table(found) in text
    assert "w_4" in text
