"""What the tables of RbG and RegistFormer share: data without an aligned truth, scored by structure and contrast."""

from modalign.papers.base import Column, Direction, Footnote, Row

PELVIS = "synthrad2023-mr-ct-pelvis"
PELVIS_SOURCE = "SynthRAD2023 MR-CT pelvis, 35 test patients"

INPUT, REFERENCE, FREE = "Input as ground truth", "Reference as ground truth", "No ground truth"

TRANSLATED = Footnote(
    "The paper registers images of one modality: MUNIT first translates the fixed image into the moving modality. "
    "The rows named after a registration network do so here too; SyN registers the two modalities directly, by Mattes "
    "mutual information."
)
CONTRADICTION = Footnote(
    "The same experiment is printed with another value in the other paper, on the same data and split: UNIT's "
    "sharpness is 60.9 (RbG) and 74.2 (RegistFormer), VoxelMorph (2D)'s FID 14.0 and 20.2, SyN's GC 0.29 and 0.28, "
    "LapIRN's GC 0.30 and 0.29 and its FID 33.8 and 34.7, TransMorph's sharpness 106.8 and 106.0.",
    "misprint",
    (
        {"method": "UNIT", "metric": "sharpness"},
        {"method": "SyN", "metric": "gc"},
        *({"method": name, "metric": "fid"} for name in ("Voxelmorph (2D)", "VoxelMorph(2D)")),
        *({"method": name, "metric": metric} for name in ("LapIRN (3D)", "LapIRN(3D)") for metric in ("gc", "fid")),
        *({"method": name, "metric": "sharpness"} for name in ("TransMorph (3D)", "TransMorph(3D)")),
    ),
)
SEGMENTED = Footnote(
    "The paper segments the aligned CT with TotalSegmentator and compares with manually refined masks of the MR. Where "
    "TotalSegmentator isn't there, a small U-Net that was trained on the unaligned CTs of the training patients and "
    "their contours takes its place (pieces below a tenth of a structure's largest one are dropped); on phantoms the "
    "MR's contours are true."
)


def pelvis_columns(names: str, digits: dict[str, int] | None = None) -> tuple[Column, ...]:
    """Columns of the MR-CT pelvis tables, by metric name."""
    return tuple(columns(PELVIS, digits)[name] for name in names.split())


def columns(dataset: str, digits: dict[str, int] | None = None) -> dict[str, Column]:
    """Columns without a truth, by metric name; `digits` overrides the decimals of some."""
    measures: tuple[tuple[str, str, Direction, int, str, str, float], ...] = (
        ("gc", "GC", "higher", 2, INPUT, "gc", 1.0),
        ("nmi", "NMI", "higher", 2, INPUT, "nmi", 1.0),
        ("fid", "FID", "lower", 1, REFERENCE, "fid", 1.0),
        ("kid", "KID (× 10⁻²)", "lower", 2, REFERENCE, "kid_x100", 100.0),
        ("sharpness", "Sharpness", "higher", 1, FREE, "sharpness", 1.0),
    )
    return {
        metric: Column(
            metric,
            label,
            dataset,
            direction,
            (digits or {}).get(metric, decimals),
            scale=scale,
            group=group,
            printed={"dataset": dataset, "metric": printed},
        )
        for metric, label, direction, decimals, group, printed, scale in measures
    }


STRUCTURES = (
    ("Hips (Bone)", "Hips", "hip_bones"),
    ("Femurs (Bone)", "Femurs", "femurs"),
    ("Spinal cord", "Spinal cord", "spinal_cord"),
    ("Urinary bladder", "Urinary bladder", "bladder"),
)


def segmentation_columns(dice_digits: int, hausdorff_digits: int, names: tuple[str, ...]) -> tuple[Column, ...]:
    """Dice and Hausdorff distance of four structures; `names` are the structures as the csv calls them."""
    measures: tuple[tuple[str, str, str, Direction, int], ...] = (
        ("segmented_dice", "dice", "Dice", "higher", dice_digits),
        ("segmented_hausdorff_mm", "hausdorff_mm", "Hausdorff distance (mm)", "lower", hausdorff_digits),
    )
    return tuple(
        Column(
            metric,
            label,
            PELVIS,
            direction,
            digits,
            structure,
            group=group,
            printed={"dataset": PELVIS, "group": name, "metric": printed},
        )
        for metric, printed, group, direction, digits in measures
        for name, (_, label, structure) in zip(names, STRUCTURES, strict=True)
    )


def segmented_row(label: str, method: str, printed: str | None = None, reference: bool = False) -> Row:
    """A row of a table on segmentation, whose columns fix the csv's group."""
    return Row(label, method, printed={"method": printed or label}, reference=reference)
