"""A configuration with a wrong key or value is answered in a sentence, not with the schema."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from modalign.config_errors import explain

ROOT = Path(__file__).parents[1]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def validator():
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def defaults():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


@pytest.fixture
def answer(validator, defaults):
    def answer(path, value):
        config = deepcopy(defaults)
        *parents, last = path
        entry = config
        for key in parents:
            entry = entry[key]
        entry[last] = value
        errors = list(validator.iter_errors(config))
        assert errors
        return explain(jsonschema.exceptions.best_match(errors))

    return answer


PELVIS = ("datasets", "synthrad2023-mr-ct-pelvis")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            ("sed",),
            1,
            ["wrong: 'sed' was unexpected: did you mean 'seed'?", "The keys there are: seed, seeds, device, "],
        ),
        (("quite-another",), 1, ["'quite-another' was unexpected. The keys there are: seed, "]),
        (("device",), "gpu0", ['at device: "gpu0" is not known', "Write one of: auto, cpu, cuda"]),
        (("seed",), "one", ['at seed: "one" is not of type integer. It is: Seeds phantoms, splits']),
        (("seeds",), [], ["at seeds: ", "It is: Each trained method is trained and run once per seed"]),
        ((*PELVIS, "messures"), [], [f"at {'.'.join(PELVIS)}: 'messures' was unexpected: did you mean 'measures'?"]),
        ((*PELVIS, "split"), {"trian": 3}, ["split: 'trian' was unexpected: did you mean 'train'?", "are: train, "]),
        ((*PELVIS, "split"), 3, ["split: 3 fits none of: string, null, object"]),
        (("statistics", "failed"), "zero", ['statistics.failed: "zero" is not known', "one of: drop, unaligned"]),
        (("seed",), list(range(1000)), ["at seed: [0, 1, 2, ", "… is not of type integer"]),
    ],
)
def test_the_message_names_key_value_and_way_out(answer, path, value, words):
    message = answer(path, value)
    for part in words:
        assert part in message
    assert len(message) < 500


def test_what_is_missing_is_named(validator, defaults):
    config = {key: value for key, value in defaults.items() if key != "methods"}
    (error,) = validator.iter_errors(config)
    assert explain(error) == "The configuration is wrong: 'methods' is a required property: write it"


@pytest.mark.workflow
@pytest.mark.skipif(not SNAKEMAKE.exists(), reason="snakemake is not installed")
def test_the_workflow_says_no_more_than_that(tmp_path):
    (tmp_path / "wrong.yaml").write_text("sed: 1\n")
    command = [SNAKEMAKE, "--snakefile", ROOT / "Snakefile", "--directory", tmp_path, "--cores", "1", "--dry-run"]
    command += ["--configfile", ROOT / "config.yaml", tmp_path / "wrong.yaml"]
    environment = os.environ | {"PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)
    assert result.returncode != 0
    said = result.stdout + result.stderr
    assert "'sed' was unexpected: did you mean 'seed'?" in " ".join(said.split())
    assert len(said) < 3000
