"""What a run has on disk, explained, and cleared of what nothing cites."""

import json
import os
import random

import pytest

from dilt_hf.cli.stages import collect, main
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stages, with_ancestors
from dilt_hf.utils.errors import RunError

STEP = Kind("step", version=1)


def visible(folder):
    return sorted(name for name in os.listdir(folder) if name != ".locks")


@pytest.fixture
def run(tmp_path):
    """A run of three steps, the last of which is a result, one that nothing needs, and an interrupted one."""
    store = Stages(tmp_path / "stages")

    def make(folder):
        (folder / "weights").write_bytes(b"x" * 1000)
        return {"cost": {"seconds": 7.0}}

    start = store.get(Kind("theta0", version=1), {"seed": 0}, make, description="the beginning")
    mask = store.get(
        Kind("mask", version=1), {"of": start.address}, make, description="a mask", derived_from=[start.address]
    )
    network = store.get(
        Kind("train", version=1), {"mask": mask.address}, make, description="a net", derived_from=[mask.address]
    )
    store.get(
        Kind("score", version=1),
        {"network": network.address},
        make,
        description="a score",
        derived_from=[network.address],
    )
    store.get(Kind("train", version=1), {"unused": 1}, make, description="nobody needs it")
    with pytest.raises(KeyboardInterrupt):
        store.get(Kind("train", version=1), {"interrupted": 1}, _interrupted)
    (tmp_path / "results.jsonl").write_text(json.dumps({"stage": network.address}) + "\n")
    return tmp_path, network


def _interrupted(folder):
    (folder / "checkpoint.safetensors").write_text("half way")
    raise KeyboardInterrupt


def test_listing_and_showing_explain_what_is_there(run, capsys):
    folder, network = run
    main(["ls", str(folder)])
    listed = capsys.readouterr().out
    assert "the beginning" in listed
    assert "interrupted; resumes where it stopped" in listed
    assert "2 x train: 0.00 MB, 14.0 s" in listed
    main(["show", str(folder), network.address[:12]])
    shown = capsys.readouterr().out
    assert "derives from 2 steps that took 14.0 s" in shown
    assert shown.index("a mask") < shown.index("the beginning")
    with pytest.raises(SystemExit, match="2 steps have addresses beginning with 'train'"):
        main(["show", str(folder), "train"])
    with pytest.raises(SystemExit, match="has no stages"):
        main(["ls", str(folder / "nowhere")])


def test_collecting_removes_only_what_no_result_needs(run, capsys):
    folder, _ = run
    before = sorted(os.listdir(folder / "stages"))
    main(["gc", str(folder)])
    assert "2 of 5 steps" in capsys.readouterr().out
    assert sorted(os.listdir(folder / "stages")) == before
    main(["gc", str(folder), "--delete"])
    kept = {stage.description for stage in Stages(folder / "stages").all()}
    assert kept == {"the beginning", "a mask", "a net", "a score"}
    assert len(visible(folder / "stages")) == 4
    os.remove(folder / "results.jsonl")
    with pytest.raises(SystemExit, match=r"no file in .* cites a step yet"):
        main(["gc", str(folder), "--delete"])


CITING = {
    "results.jsonl": '{{"stage": "{}"}}\n',
    "evidence/specialists.json": '{{"lesion": {{"sources": ["{}"]}}}}',
    "specialists.json": '{{"0": {{"sources": ["{}"]}}}}',
    "transfer/target/transfer.json": '{{"networks": [{{"stage": "{}"}}]}}',
    "analysis/dense/analysis.json": '{{"sources": ["{}"]}}',
    "analysis/dense/stages/representations-0123456789abcdef0123/stage.json": '{{"derived_from": ["{}"]}}',
    "report.html": "<td><code>{}</code></td>",
}


@pytest.mark.parametrize("seed", range(20))
def test_no_cited_step_is_ever_listed_nor_what_it_derives_from(tmp_path, seed):
    rng, store = random.Random(seed), Stages(tmp_path / "stages")
    made = []
    for number in range(12):
        origin = [stage.address for stage in rng.sample(made, min(len(made), rng.randrange(3)))]
        made.append(store.get(STEP, {"n": number}, lambda folder: {}, derived_from=origin))
    cited = rng.sample([stage.address for stage in made], 3)
    for address in cited:
        name = rng.choice(list(CITING))
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with open(tmp_path / name, "a") as file:
            file.write(CITING[name].format(address))
    listed = collect(store, tmp_path, delete=False)
    needed = with_ancestors(cited, {stage.address: stage for stage in made})
    assert set(cited) <= set(needed)
    assert not [address for address in needed if address in listed]
    collect(store, tmp_path, delete=True)
    assert set(needed) <= set(visible(tmp_path / "stages"))
    assert "0 of" in collect(store, tmp_path, delete=True)


def test_a_run_inside_another_is_cited_by_that_ones_files(tmp_path):
    inner = tmp_path / "transfer/source"
    stage = Stages(inner / "stages").get(STEP, {}, lambda folder: {})
    with pytest.raises(RunError, match="cites a step yet"):
        collect(Stages(inner / "stages"), inner, delete=True)
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "verdicts.json").write_text(json.dumps([stage.address]))
    assert "0 of 1 steps" in collect(Stages(inner / "stages"), inner, delete=True)


def test_nothing_is_collected_while_a_process_works(run):
    folder, _ = run
    store = Stages(folder / "stages")

    def make(inner):
        with pytest.raises(RunError, match="a process is working"):
            collect(store, folder, delete=True)
        return {}

    store.get(STEP, {"busy": 1}, make)
