"""The main job in real processes: however many there are, and whatever befalls them, the same tickets."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.crew import Crew
from helpers.find_worker import config_of, work
from helpers.same_tickets import assert_same_tickets
from safetensors.torch import load_file

from dilt_hf.engine.stages import Stages
from dilt_hf.experiments.find import find_tickets
from dilt_hf.masks import algebra as M
from dilt_hf.masks.io import load_masks

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]
WORKER = Path(__file__).parents[1] / "helpers/find_worker.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
SEED_0 = Path("tickets/seed_0")


def launch(processes, *arguments):
    """The worker under the real launcher."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    command += ["--main_process_port", "0", str(WORKER), *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240)


def work_alone(folder, partitions, network):
    """The same job by one process, with one thread as the launched ones have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        find_tickets(config_of(folder, partitions, network), progress=False)
    finally:
        torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds, by number of partitions and network; not to be changed."""
    return functools.cache(
        lambda partitions, network: work_alone(tmp_path_factory.mktemp("alone") / "run", partitions, network)
    )


def stages_of(folder):
    return {stage.address: stage.path.stat().st_ino for stage in Stages(folder / "stages").all()}


def test_two_processes_under_one_launch_find_what_one_alone_finds(alone, tmp_path):
    codes, output = Crew(2, tmp_path, work, tmp_path / "shared", 2, "conv").finish()
    assert codes == [0, 0], output
    assert output.count("networks are trained and scored") == 1
    assert_same_tickets(alone(2, "conv") / SEED_0, tmp_path / "shared" / SEED_0)
    assert stages_of(alone(2, "conv")).keys() == stages_of(tmp_path / "shared").keys()


def test_two_processes_share_five_partitions(alone, tmp_path):
    codes, output = Crew(2, tmp_path, work, tmp_path / "shared", 5, "conv").finish()
    assert codes == [0, 0], output
    assert_same_tickets(alone(5, "conv") / SEED_0, tmp_path / "shared" / SEED_0)
    assert stages_of(alone(5, "conv")).keys() == stages_of(tmp_path / "shared").keys()


def test_two_processes_a_partition_agree_with_one_to_rounding(alone, tmp_path):
    codes, output = Crew(4, tmp_path, work, tmp_path / "shared", 2, "vit").finish()
    assert codes == [0] * 4, output
    both = alone(2, "vit"), tmp_path / "shared"
    for k in range(2):
        mine, theirs = (load_masks(folder / SEED_0 / f"masks/partition_{k}.safetensors") for folder in both)
        assert sum(int((mine[name] ^ theirs[name]).sum()) for name in mine) < 1e-4 * M.count_total(mine)
    first = [s for s in Stages(both[0] / "stages").all() if s.kind == "train" and "round 0" in s.description]
    assert len(first) == 2
    for stage in first:
        one, other = (load_file(folder / "stages" / stage.address / "model.safetensors") for folder in both)
        assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6


def test_processes_that_cannot_be_shared_out_are_refused(tmp_path):
    codes, output = Crew(3, tmp_path, work, tmp_path / "run", 2, "conv").finish()
    assert codes == [1, 1, 1]
    assert "3 processes cannot be shared evenly by 2 partitions" in output
    assert not (tmp_path / "run").exists()


def test_a_partition_that_fails_does_not_stop_the_others(alone, tmp_path):
    codes, output = Crew(2, tmp_path, work, tmp_path / "run", 2, "conv", "raise").finish()
    assert codes[0] == 1, output
    assert "No space left on device" in output
    assert "the same command tries only these again" in output
    before = stages_of(tmp_path / "run")
    descriptions = [stage.description for stage in Stages(tmp_path / "run/stages").all()]
    assert "seed 0: order of removal on partition_0" in descriptions
    assert "seed 0: partition_1, round 0" in descriptions
    assert "seed 0: partition_1, round 1" not in descriptions
    assert_same_tickets(alone(2, "conv") / SEED_0, work_alone(tmp_path / "run", 2, "conv") / SEED_0)
    after = stages_of(tmp_path / "run")
    assert before.items() <= after.items()


def test_a_rank_that_fails_fails_its_group_and_no_other(tmp_path):
    codes, output = Crew(4, tmp_path, work, tmp_path / "run", 2, "vit", "rank").finish()
    assert codes[0] == 1, output
    assert "the same command tries only these again" in output
    descriptions = [stage.description for stage in Stages(tmp_path / "run/stages").all()]
    assert "seed 0: order of removal on partition_0" in descriptions
    assert "seed 0: partition_1, round 1" not in descriptions


def test_after_a_killed_rank_the_same_command_goes_on_mid_round(alone, tmp_path):
    done = launch(2, tmp_path / "run", 2, "conv", "kill")
    assert done.returncode != 0
    interrupted = [
        path for path in (tmp_path / "run/stages").glob(".train-*") if (path / "checkpoint.safetensors").exists()
    ]
    assert interrupted
    before = stages_of(tmp_path / "run")
    assert_same_tickets(alone(2, "conv") / SEED_0, work_alone(tmp_path / "run", 2, "conv") / SEED_0)
    assert before.items() <= stages_of(tmp_path / "run").items()
    assert not [path for path in (tmp_path / "run/stages").glob(".*") if path.name != ".locks"]


def test_two_machines_find_what_one_process_finds(alone, tmp_path):
    codes, output = Crew(4, tmp_path, work, tmp_path / "shared", 4, "conv", machines=2).finish()
    assert codes == [0] * 4, output
    assert_same_tickets(alone(4, "conv") / SEED_0, tmp_path / "shared" / SEED_0)


def work_in(folder, tmp_path):
    """One process outside any launcher: its exit code, and what it prints."""
    codes, output = Crew(1, tmp_path, work, folder, 2, "conv", launched=False).finish()
    return codes[0], output


def test_two_launches_in_one_folder_share_the_work(alone, tmp_path):
    codes, output = Crew(2, tmp_path, work, tmp_path / "shared", 2, "conv", launched=False).finish()
    assert codes == [0, 0], output
    assert_same_tickets(alone(2, "conv") / SEED_0, tmp_path / "shared" / SEED_0)
    assert stages_of(alone(2, "conv")).keys() == stages_of(tmp_path / "shared").keys()
    assert not list(tmp_path.rglob("*.partial"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 100 kB: enough to begin."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_said_and_with_more_room_the_run_goes_on(alone, small_disk, tmp_path):
    code, output = work_in(small_disk / "run", tmp_path)
    assert code == 1
    assert "No space left on device" in output
    assert "Traceback" not in output
    assert not list(small_disk.rglob("*.partial"))
    for stage in Stages(small_disk / "run/stages").all():  # what is there is whole
        for path in stage.path.glob("*.safetensors"):
            load_file(path)
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    code, output = work_in(small_disk / "run", tmp_path)
    assert code == 0, output
    assert_same_tickets(alone(2, "conv") / SEED_0, small_disk / "run" / SEED_0)


def test_a_read_only_folder_is_said_before_anything_is_trained(small_disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, output = work_in(small_disk / "run", tmp_path)
    assert code != 0
    assert "Read-only file system" in output
    assert "ended at density" not in output
