"""RegistFormer: tables 1-4 of "Improving Pelvic MR-CT Image Alignment with Self-supervised Reference-Augmented
Pseudo-CT Generation Framework"."""

from modalign.papers._without_truth import (
    CONTRADICTION,
    PELVIS_SOURCE,
    SEGMENTED,
    TRANSLATED,
    pelvis_columns,
    segmentation_columns,
    segmented_row,
)
from modalign.papers.base import Block, Footnote, Row, Table


def _row(group: str, label: str, method: str, printed: str | None = None) -> Row:
    return Row(label, method, group, printed={"group": group, "method": printed or label})


TABLE_1 = Table(
    "registformer",
    1,
    "RegistFormer against translation, registration and integrated methods: MR-CT pelvis",
    (
        Block(
            (
                Row(
                    "Reference CT",
                    "identity",
                    printed={"group": "Original", "method": "Ref-CT"},
                    reference=True,
                    undefined=frozenset({"fid"}),
                ),
                _row("Unsupervised I2I", "CGAN", "cyclegan"),
                _row("Unsupervised I2I", "SCGAN", "sc-cyclegan"),
                _row("Unsupervised I2I", "UNIT", "unit"),
                _row("Unsupervised I2I", "MUNIT", "munit"),
                _row("Registration", "SyN", "syn-rbg"),
                _row("Registration", "VoxelMorph (2D)", "voxelmorph-2d-munit", "VoxelMorph(2D)"),
                _row("Registration", "VoxelMorph (3D)", "voxelmorph-3d-munit", "VoxelMorph(3D)"),
                _row("Registration", "LapIRN (3D)", "lapirn-3d-munit", "LapIRN(3D)"),
                _row("Registration", "TransMorph (3D)", "transmorph-3d-munit", "TransMorph(3D)"),
                _row("Registration", "GradICON (2D)", "gradicon-2d-munit", "GradICON(2D)"),
                _row("Registration", "GradICON (3D)", "gradicon-3d-munit", "GradICON(3D)"),
                _row("Registration + I2I", "RegGAN", "reggan"),
                _row("Proposed", "RegistFormer", "registformer"),
            ),
            pelvis_columns("gc nmi fid sharpness"),
            "RegistFormer",
        ),
    ),
    PELVIS_SOURCE,
    unit="slice",
    footnotes=(
        Footnote(
            "The reference CT's NMI is 0.31 ± 0.54 here and 0.31 ± 0.05 in table 1 of RbG: a misprint of the spread.",
            "misprint",
            ({"method": "Ref-CT", "metric": "nmi"},),
        ),
        CONTRADICTION,
        TRANSLATED,
    ),
)

TABLE_2 = Table(
    "registformer",
    2,
    "Segmentation of the aligned CT: MR-CT pelvis",
    (
        Block(
            (
                segmented_row("CT (reference)", "identity", "CT(Ref)", reference=True),
                segmented_row("VoxelMorph (3D)", "voxelmorph-3d-munit", "Voxelmorph"),
                segmented_row("LapIRN (3D)", "lapirn-3d-munit", "LapIRN"),
                segmented_row("TransMorph (3D)", "transmorph-3d-munit", "TransMorph"),
                segmented_row("MUNIT", "munit"),
                segmented_row("RegistFormer", "registformer", "Proposed"),
            ),
            segmentation_columns(3, 2, ("Hips", "Femurs", "Spinal cord", "Urinary bladder")),
            "RegistFormer",
        ),
    ),
    PELVIS_SOURCE,
    footnotes=(
        SEGMENTED,
        Footnote("The paper notes that TotalSegmentator's masks of the MR had notable errors."),
    ),
)


def _ablation(number: int, title: str, group: str, rows: tuple[tuple[str, str, str], ...]) -> Table:
    block = Block(
        tuple(
            Row(label, method, printed={"group": group, "method": "RegistFormer", "variant": printed})
            for label, method, printed in rows
        ),
        pelvis_columns("gc nmi fid", {"gc": 3, "nmi": 3}),
        rows[-1][0],
    )
    return Table("registformer", number, title, (block,), PELVIS_SOURCE, unit="slice", extras=False, ablation=True)


TABLE_3 = _ablation(
    3,
    "Ablation: window and deformation field of the DACA block",
    "ablation: DACA",
    (
        ("window 1, with field", "registformer-window-1", "patch_size=1;deformation_field=yes"),
        ("window 20, with field", "registformer-window-20", "patch_size=20;deformation_field=yes"),
        ("window 28, without field", "registformer-no-field", "patch_size=28;deformation_field=no"),
        ("window 28, with field, proposed", "registformer", "patch_size=28;deformation_field=yes"),
    ),
)
TABLE_4 = _ablation(
    4,
    "Ablation: losses of stage 2",
    "ablation: stage-2 losses",
    (
        ("MIND + contextual", "registformer-mind-contextual", "mind+contextual"),
        ("PatchNCE + L1", "registformer-patchnce-l1", "patchnce+l1"),
        ("PatchNCE + contextual, proposed", "registformer", "patchnce+contextual"),
    ),
)

TABLES = (TABLE_1, TABLE_2, TABLE_3, TABLE_4)
