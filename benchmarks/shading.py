"""Does uneven brightness decide between measures of similarity? Abdomen phantoms whose MR are shaded more and more.

``python benchmarks/shading.py results/shading`` aligns them with the default run's settings, prints the means over the
patients, and draws where the displacement is how wrong. Mutual information compares one histogram of the whole scan, as
if a tissue had one brightness; Locor and SRWCR compare window by window.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from modalign.cases import CaseStore
from modalign.datasets.index import index_dataset
from modalign.files import write_json, write_text
from modalign.metrics.job import measure_job
from modalign.metrics.table import read_metrics
from modalign.phantoms.archives import VERSION
from modalign.phantoms.body_archives import write_learn2reg_abdomen
from modalign.preprocess.prepare import prepare
from modalign.runs import align_job
from modalign.spatial.fields import read_itk_field

DATASET = "learn2reg-abdomen-mr-ct"
METHODS: dict[str, dict[str, Any]] = {
    "not aligned": {"method": "identity"},
    "MI": {"method": "instance", "options": {"preset": "small", "similarity": "mi"}},
    "SRWCR": {"method": "instance", "options": {"preset": "small", "similarity": "srwcr"}},
    "Locor with polynomials": {"method": "locor", "options": {"preset": "small", "basis": "polynomial", "degree": 2}},
    "Locor": {"method": "locor", "options": {"preset": "small"}},
}
SHADINGS = (0.2, 0.6, 0.9)


def prepared(out: Path, shading: float, patients: int, size: tuple[int, int, int], seed: int) -> CaseStore:
    """The phantom's cases, made, indexed and prepared as in the default run."""
    for patient in range(patients):
        write_learn2reg_abdomen(out / "archive", patient, size, seed, shading=shading)
    marker = {"archive": DATASET, "size": size, "patients": patients, "seed": seed, "version": VERSION}
    write_json(out / "archive" / "modalign-phantom.json", marker)
    index_dataset(DATASET, "learn2reg", out / "archive", out / "index", options={}, split={"test": patients}, seed=seed)
    prepare(out / "index", "locor-abdomen", out / "cases", overrides={"body": True}, seed=seed, workers=1)
    return CaseStore(out / "cases")


def scores(store: CaseStore, out: Path, name: str, seed: int, threads: int) -> dict[str, list[float]]:
    """TRE in mm and Dice of each patient."""
    folder = out / name.replace(" ", "-")
    align_job({"dimension": 3, **METHODS[name]}, store.folder, folder, seed=seed, device="cpu", threads=threads)
    measure_job(
        store.folder,
        [folder / "run-1-of-1.json"],
        folder / "metrics.tsv",
        method=name,
        seed=seed,
        measures=["tre_mm", "dice"],
        options={"dice": {"region": "mask"}},
    )
    rows = read_metrics(folder / "metrics.tsv")
    of = {
        (metric, case): [r.value for r in rows if (r.metric, r.case) == (metric, case)]
        for metric in ("tre_mm", "dice")
        for case in store.ids()
    }
    return {metric: [float(np.mean(of[metric, case])) for case in store.ids()] for metric in ("tre_mm", "dice")}


def draw(stores: dict[float, CaseStore], out: Path, path: Path, case_id: str, names: tuple[str, ...]) -> None:
    """The MR at each shading, and beside it the length of each method's error in mm, in a coronal slice."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(stores), 1 + len(names), figsize=(2.5 * (1 + len(names)), 2.6 * len(stores)), layout="constrained"
    )
    for row, (shading, store) in zip(axes, stores.items(), strict=True):
        case = store.load(case_id)
        y = case.grid.shape[1] // 2
        aspect = case.fixed.spacing[2] / case.fixed.spacing[0]
        row[0].imshow(case.fixed.data[:, y].T, cmap="gray", origin="lower", aspect=aspect)
        row[0].set_title(f"MR, shading {shading:g}", fontsize=9)
        assert case.true_field is not None
        for axis, name in zip(row[1:], names, strict=True):
            field = read_itk_field(out / f"{shading:g}" / name.replace(" ", "-") / case_id / "field.nii.gz", case.grid)
            error = (field - case.true_field) * case.fixed.spacing.reshape(3, 1, 1, 1)
            length = np.linalg.norm(error, axis=0)
            mask = case.measured_in
            inside = np.ones_like(length, bool) if mask is None else mask.data > 0
            shown = np.where(inside, length, np.nan)[:, y].T
            image = axis.imshow(shown, vmin=0, vmax=12, cmap="magma", origin="lower", aspect=aspect)
            axis.set_title(f"{name}: {length[inside].mean():.1f} mm", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(image, ax=axes[:, -1], label="error (mm)", shrink=0.6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table, write it and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for phantoms, alignments, table.md and errors.png")
    parser.add_argument("--patients", type=int, default=7)
    parser.add_argument("--size", type=int, nargs=3, default=(44, 36, 36), help="voxels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    stores: dict[float, CaseStore] = {}
    table: dict[str, list[str]] = {name: [] for name in METHODS}
    for shading in SHADINGS:
        out = given.out / f"{shading:g}"
        stores[shading] = prepared(out, shading, given.patients, tuple(given.size), given.seed)
        for name, cells in table.items():
            found = scores(stores[shading], out, name, given.seed, given.threads)
            cells.append(f"{np.mean(found['tre_mm']):.2f} ({np.mean(found['dice']):.3f})")
    heads = ["TRE in mm (Dice)", *[f"shading {s:g}" for s in SHADINGS]]
    lines = [" | ".join(heads), "|".join(["---"] * len(heads))]
    lines += [" | ".join([name, *cells]) for name, cells in table.items()]
    text = "\n".join(f"| {line} |" for line in lines)
    write_text(given.out / "table.md", text + "\n")
    draw(stores, given.out, given.out / "errors.png", stores[SHADINGS[0]].ids()[-1], ("MI", "SRWCR", "Locor"))
    print(text)


if __name__ == "__main__":
    main()
