"""Layer by layer, what networks trained on different classes have in common: distances, modules, overlap of the masks.

python recipes/analyze.py runs/digits                # the folder of a run; --networks masked, --siblings true, …
python recipes/analyze.py user/tickets-seed_{0,1,2}  # ticket repositories with trained weights, one per seed
"""

import sys

from dilt_hf.cli.commands import renew
from dilt_hf.cli.parsing import parse_sections
from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import AnalyzeConfig
from dilt_hf.experiments.analysis_sources import SAME_DATA
from dilt_hf.utils.console import reporting_errors

SECTIONS = {"config": AnalyzeConfig, "data": DataConfig}

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--sources", *arguments]
    with reporting_errors():
        renew(**parse_sections(SECTIONS, arguments, {"dataset_name": SAME_DATA}, __doc__))
