"""Overlaps of masks beside their references: what is kept, and what they are on a real run."""

import pytest
import torch

from dilt_hf.experiments.find import find_tickets
from dilt_hf.masks.overlap import jaccard
from dilt_hf.models.weights import WEIGHTS_FILE, read_weights
from dilt_hf.pruning.at_init import largest_like, predicted_share
from dilt_hf.results.overlaps import MaskOverlap, load_overlaps, overlap_sentence, save_overlaps
from dilt_hf.run.context import open_run
from dilt_hf.run.folder import load_results
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import rewind_point
from dilt_hf.utils.errors import RunError


def test_what_is_known_of_other_seeds_stays(tmp_path):
    one, other = MaskOverlap(0.5, 0.1), MaskOverlap(0.4, 0.1, 0.3, None, 0.7)
    save_overlaps(tmp_path, {3: one})
    save_overlaps(tmp_path, {0: other})
    assert load_overlaps(tmp_path) == {0: other, 3: one}
    save_overlaps(tmp_path, {0: MaskOverlap(0.4, 0.1, None, 0.2, 0.7)})  # by an experiment that prunes no siblings
    assert load_overlaps(tmp_path)[0] == MaskOverlap(0.4, 0.1, 0.3, 0.2, 0.7)
    (tmp_path / "overlaps.json").write_text('{"0": {"jaccard": "x"}}')
    with pytest.raises(RunError, match=r"overlaps\.json"):
        load_overlaps(tmp_path)


def test_references_that_are_not_known_are_not_named():
    assert overlap_sentence([MaskOverlap(0.5, 0.1), MaskOverlap(0.3, 0.1)]) == (
        "Overlap (Jaccard) of the partition masks: 40.0 %; by chance at their densities 10.0 %."
    )
    assert overlap_sentence([MaskOverlap(None, None)]) == "Overlap (Jaccard) of the partition masks: –."


def test_a_run_says_what_its_masks_owe_to_the_initial_weights(quick_config, change):
    config = change(quick_config, "run", seeds=[0], siblings=True, tickets=["core", "union"])
    find_tickets(config, progress=False)
    ctx = open_run(config, progress=False)
    folder, search = ctx.stages.root.parent, Search(ctx, 0)
    (found,) = load_results(folder).overlaps
    weights = read_weights(rewind_point(ctx, 0).path / WEIGHTS_FILE, ctx.prunable)
    parts, siblings = ([dict(mask) for mask in search.masks_of(each)] for each in (ctx.subsets, ctx.siblings))
    assert found.jaccard == pytest.approx(jaccard(*parts))
    assert found.siblings == pytest.approx(jaccard(*siblings))
    largest = [largest_like(weights, mask, False) for mask in parts]
    assert found.at_init == pytest.approx(sum(jaccard(*pair) for pair in zip(parts, largest, strict=True)) / 2)
    shares = [
        sum(int((mask[n] & top[n]).sum()) for n in mask) / sum(int(mask[n].sum()) for n in mask)
        for mask, top in zip(parts, largest, strict=True)
    ]
    assert found.predicted == pytest.approx(sum(shares) / 2)
    core = {name: parts[0][name] & parts[1][name] for name in parts[0]}
    assert found.predicted_core == pytest.approx(predicted_share(weights, core))
    for place in ("results.md", "tickets/seed_0/README.md"):
        assert "of siblings' masks" in (folder / place).read_text()
    assert torch.equal(largest[0][next(iter(core))], largest_like(weights, parts[0], False)[next(iter(core))])
