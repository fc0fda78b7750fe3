"""Which weights of a translation are kept: the last, or those of the best validation by its loss or by FID."""

import csv

import contrast_pairs
import numpy as np
import pytest
import torch
from contrast_pairs import make

from modalign.cases import CaseStore
from modalign.errors import DataError
from modalign.methods._batches import to_network
from modalign.metrics.distribution import frechet_distance
from modalign.metrics.features import FeatureSource
from modalign.metrics.pair import to_uint8
from modalign.training.data import PackedCases, Sampling

KEEP = {"keep": "best", "validate_every": 1, "checkpoint_seconds": 0.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaseStore:
    return contrast_pairs.write_store(tmp_path_factory.mktemp("discs"))


def logged(folder):
    with (folder / "state" / "log.csv").open() as file:
        return [float(row["validation"]) for row in csv.DictReader(file)]


def test_the_best_translation_is_that_of_its_own_terms_on_validation_cases(store, tmp_path):
    """The adversarial term is left out: it tells how good the discriminator is."""
    method = make("cyclegan", tmp_path, **KEEP, steps=4, crop=(24, 24))
    record = method.train(store)
    assert record["best_by"] == "loss"
    assert record["best_validation"] == pytest.approx(min(logged(tmp_path)), rel=1e-6)
    generators, about = method._ready
    packed = PackedCases(store.pack("validation"), Sampling(2, 2, (24, 24)), 0, (store.dataset, "cyclegan"))
    errors = []
    for step in range(6):
        images = {c: to_network(packed.batch(step)[c], about["limits"][c]) for c in ("fixed", "moving")}
        with torch.no_grad():
            made = generators(images["fixed"], images["moving"], identity=False)
        errors.append(sum(float((made[f"cycled_{c}"] - images[c]).abs().mean()) for c in images))
    assert record["best_validation"] == pytest.approx(method.options.cycle_weight * np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("name", ["munit", "rbg_stage1"])
def test_the_best_translation_by_fid_is_nearest_to_references_as_features_see_them(store, tmp_path, name):
    tiny = {"channels": 8, "hidden": 8} if name == "rbg_stage1" else {}
    method = make(name, tmp_path, **KEEP, **tiny, steps=5, best_by="fid", crop=None)
    record = method.train(store)
    assert record["best_by"] == "fid_random"
    assert record["best_validation"] == pytest.approx(min(logged(tmp_path)), rel=1e-6)
    # Independently: the case aligned by what was kept, against its moving images, all in 8 bits.
    case = store.load(store.ids(["validation"])[0])
    limits = method._ready[1]["limits"]["moving"]
    features = FeatureSource("random", seed=0)
    real, fake = (
        features.inception(np.moveaxis(to_uint8(image.data, limits), 2, 0))
        for image in (case.moving, method.align(case).image)
    )
    # The noise of stage 1 is another one here.
    assert frechet_distance(real, fake) == pytest.approx(record["best_validation"], rel=0.02 if tiny else 1e-3)


def test_a_missing_file_of_inception_is_answered_with_where_to_fetch_it(store, tmp_path):
    method = make("munit", tmp_path, **KEEP, steps=1, best_by="fid", inception=str(tmp_path / "inception.pth"))
    with pytest.raises(DataError, match=r"inception.pth does not exist: fetch the inception weights from https"):
        method.train(store)
