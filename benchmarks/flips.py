"""Is a changed bit ever taken for a result? Flips one bit in a file of a finished run, again and again, and asks for
the results as a user would: the search again, the verdicts, the report, and the tickets.

    python benchmarks/flips.py [--flips 500] [--seed 0]

Each time the answer must be the undisturbed one, or one sentence that names the file. Anything else is a failure.
"""

import argparse
import collections
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from timing import print_table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def answers(config):
    """All that the folder says: results, verdicts, the page, and the tickets by their content."""
    from dilt_hf.engine import stages
    from dilt_hf.experiments.find import find_tickets
    from dilt_hf.hypotheses.verdict_files import judge_folder
    from dilt_hf.models.weights import checkpoint_tensors, tensors_sha256
    from dilt_hf.report.page import write_report
    from dilt_hf.tickets import format as ticket_format
    from dilt_hf.tickets.tickets import Tickets

    stages._checked.clear()  # as in a new process
    ticket_format._sha256_of_version.cache_clear()
    folder = Path(config.run.output_dir)
    results = find_tickets(config, progress=False)
    entries = [json.dumps(entry.summary(), sort_keys=True) for entry in results.entries]
    verdicts = [str(each) for each in judge_folder(folder)]
    page = write_report(folder).read_text()
    tickets = Tickets.from_pretrained(folder / "tickets/seed_0")
    weights = [tensors_sha256(checkpoint_tensors(tickets.load_model("core", trained=t))) for t in (False, True)]
    return entries, verdicts, page, weights, tickets.summary()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from helpers.small import changed, quick_run

    from dilt_hf.experiments.find import find_tickets
    from dilt_hf.hypotheses import programme
    from dilt_hf.utils.errors import DiltError

    start, rng = time.perf_counter(), random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        config = changed(quick_run(Path(scratch, "run")), "run", tickets=["core"], materialise=["core"])
        programme.keep_comparison(config, find_tickets(config, progress=False))
        honest = answers(config)
        assert answers(config) == honest, "asking twice changes the answer"
        files = sorted(file for file in Path(scratch, "run").rglob("*") if file.is_file() and file.stat().st_size)
        content = {file: file.read_bytes() for file in files}
        outcomes, silent = collections.Counter(), []
        for _ in range(given.flips):
            file = rng.choice(files)
            bit = rng.randrange(8 * len(content[file]))
            spoilt = bytearray(content[file])
            spoilt[bit // 8] ^= 1 << bit % 8
            file.write_bytes(spoilt)
            try:
                same = answers(config) == honest
                outcomes["the same answer" if same else "another answer"] += 1
                silent += [] if same else [f"{file.relative_to(scratch)} bit {bit}"]
            except (DiltError, OSError):
                outcomes["refused, with the file's name"] += 1
            except Exception as error:
                outcomes["traceback"] += 1
                silent.append(f"{file.relative_to(scratch)} bit {bit}: {error!r}")
            for path in set(Path(scratch, "run").rglob("*")) - set(files):
                if path.is_file():
                    path.unlink()  # what the answer wrote besides
            for path, each in content.items():
                if path.read_bytes() != each:
                    path.write_bytes(each)
    rows = [["", "flips"], *([name, str(count)] for name, count in outcomes.most_common())]
    print_table(f"{given.flips} flipped bits in {len(files)} files; {time.perf_counter() - start:.0f} s", rows)
    print(*silent, sep="\n")
    sys.exit(bool(silent))


if __name__ == "__main__":
    main()
