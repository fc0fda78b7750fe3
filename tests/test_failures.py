"""What failed is listed, and forgotten so that the workflow makes it again."""

import pytest
from test_tuning_workflow import OVERLAY, SNAKEMAKE, counts_of, dry_run

from modalign.failures import forget_failures, list_failures
from modalign.files import write_json

TRANSLATIONS = "tuning/cermep-t1-ct/translations/pseudo-ct/run-1-of-1.json"
MODEL = "models/cermep-t1-ct/pseudo-ct/seed0/train.json"


@pytest.fixture
def results(tmp_path):
    """A translator that could not be trained, and so translated nothing for tuning; another one did its work."""
    folder = tmp_path / "results"
    for archive in ("cermep", "ixi", "learn2reg-abdomen-mr-ct"):
        write_json(folder / "archives" / "phantom" / archive / "modalign-phantom.json", {})
    (folder / "data" / "cermep-t1-ct").mkdir(parents=True)
    (folder / "data" / "cermep-t1-ct" / "cases.tsv").touch()
    write_json(folder / "data" / "cermep-t1-ct" / "dataset.json", {})
    write_json(folder / "cases" / "cermep-t1-ct" / "cases.json", {})
    write_json(folder / MODEL, {"ok": False, "error": "no memory"})
    write_json(folder / TRANSLATIONS, {"ok": False, "error": "training failed: no memory"})
    write_json(folder / "tuning/ixi-t2-pd/translations/unit/run-1-of-1.json", {"ok": True, "error": ""})
    return folder


def test_failed_translations_for_tuning_are_listed_and_forgotten_with_the_choice_made_by_them(results):
    chosen = [results / "tuning" / dataset / "locor/chosen.json" for dataset in ("cermep-t1-ct", "ixi-t2-pd")]
    for path in chosen:
        write_json(path, {})
    model, translations = list_failures(results)
    assert (model.path, model.reason, model.seed) == (results / MODEL, "no memory", "0")
    assert (translations.path, translations.reason) == (results / TRANSLATIONS, "training failed: no memory")
    assert (translations.dataset, translations.method, translations.seed) == ("cermep-t1-ct", "pseudo-ct", "")
    forget_failures(results, [model, translations])
    assert list_failures(results) == []
    assert not (results / TRANSLATIONS).exists()
    assert [path.exists() for path in chosen] == [False, True]


@pytest.mark.workflow
@pytest.mark.skipif(not SNAKEMAKE.exists(), reason="snakemake is not installed")
def test_the_workflow_trains_and_translates_again_what_was_forgotten(results):
    def planned():
        counts = counts_of(dry_run(results.parent, "tune", "--rerun-triggers", "mtime", overlay=OVERLAY))
        return {rule: counts.get(rule, 0) for rule in ("prepare_cases", "train_method", "translate_validation")}

    assert planned() == {"prepare_cases": 0, "train_method": 0, "translate_validation": 0}
    forget_failures(results, list_failures(results))
    assert planned() == {"prepare_cases": 0, "train_method": 1, "translate_validation": 1}
