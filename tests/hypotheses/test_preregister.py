"""What is registered goes into PyPI's `preregister` with the unmodified package, and is judged there."""

import dataclasses
import datetime

import numpy as np
import preregister
import pytest
import yaml

from dilt_hf.hypotheses.estimates import LEVEL, LOOKS
from dilt_hf.hypotheses.preregister import PROGRAMME, study_of
from dilt_hf.hypotheses.registry import hypotheses, keys_of
from dilt_hf.results.registration import register

HYPOTHESES = {each.key: dataclasses.asdict(each) for each in hypotheses()}
PLAN = {"hypotheses": HYPOTHESES, "level": LEVEL, "looks": {str(k): v for k, v in LOOKS.items()}}


@pytest.mark.parametrize("experiment", ["benchmark", "disentanglement", "specialisation", "transfer"])
def test_every_criterion_is_registered_there_and_judged(tmp_path, experiment):
    plan = register(tmp_path, experiment, PLAN)
    spec = tmp_path / "prereg.yaml"
    spec.write_text(yaml.safe_dump(study_of(experiment, plan), allow_unicode=True))
    study = preregister.Study.from_yaml(spec)
    project = preregister.Project.init(tmp_path)
    assert {each.status for each in project.register(study)} == {"registered"}
    project.run_gates(study)
    criteria = {
        c["key"]: c for each in HYPOTHESES.values() if each["experiment"] == experiment for c in each["criteria"]
    }
    planned = {each.id for each in study.predictions}
    post_hoc = {
        c["key"] for key in keys_of(experiment) for c in HYPOTHESES[key]["criteria"] if HYPOTHESES[key]["post_hoc"]
    }
    assert {each.id for each in study.exploratory} == post_hoc
    assert planned == {key for key, c in criteria.items() if not c["exact"]} - post_hoc
    above = {key: number % 2 == 0 for number, key in enumerate(sorted(planned))}
    rng = np.random.default_rng(0)
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    runs = [
        preregister.RunRecord.from_dict(
            {
                "run_id": f"seed-{seed}",
                "condition": PROGRAMME,
                "seed": seed,
                "started_at": now.isoformat(),
                "metrics": {k: criteria[k]["least"] + (3 if up else -3) + rng.normal() for k, up in above.items()},
                "metric_versions": dict.fromkeys(above, plan.sha256),
            }
        )
        for seed in range(max(LOOKS))
    ]
    project.link_runs(runs)
    assert project.analyze().verdicts() == {key: "CONFIRMED" if up else "REFUTED" for key, up in above.items()}
