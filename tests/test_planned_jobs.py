"""The jobs that the report takes for a run's own are those that the workflow would run."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from test_tuning_workflow import OVERLAY, dry_run

from modalign.plan import make_plan
from modalign.report.planned_jobs import planned_jobs

pytestmark = pytest.mark.workflow
ROOT = Path(__file__).parents[1]
UNLISTED = {"describe_run", "describe_search", "make_report"}
"""Rules that measure nothing and have no status of their own."""


def merged(below, over):
    for key, value in over.items():
        below[key] = merged(below.get(key) or {}, value) if isinstance(value, dict) else value
    return below


@pytest.mark.parametrize(
    "overlay",
    [
        OVERLAY,
        {
            "papers": ["rbg", "cao2018"],
            "tables": {"rbg": [1, 5]},
            "methods": {"syn-rbg": {"shards": 2}},
            "seeds": [3, 4],
        },
        # The second network is trained with one of the seeds of those that need it.
        {
            "papers": ["cao2018"],
            "methods": {
                "translator": {"method": "voxelmorph", "dimension": 3, "options": {"preset": "small"}, "seeds": [1]},
                "second": {
                    "method": "voxelmorph",
                    "dimension": 3,
                    "options": {"preset": "small", "similarity": "mse", "translator": True},
                    "needs": {"translator": "translator"},
                    "seeds": [0, 1],
                },
            },
            "own_methods": ["second"],
        },
    ],
    ids=["tuned", "segmented", "needs"],
)
def test_listed_jobs_are_those_of_a_dry_run(tmp_path, overlay):
    config = merged(yaml.safe_load((ROOT / "config.yaml").read_text()), deepcopy(overlay))
    listed = planned_jobs(make_plan(config), config)
    logs = re.findall(r"log: results/logs/(\w+)/(\S+)\.log", dry_run(tmp_path, overlay=overlay))
    assert logs
    for rule in {rule for rule, _ in logs} - UNLISTED | set(listed):
        assert sorted(listed.get(rule, [])) == sorted(name for of, name in logs if of == rule), rule
