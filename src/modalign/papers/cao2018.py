"""Cao et al. 2018: table 1 of "Deep Learning based Inter-Modality Image Registration Supervised by Intra-Modality
Similarity"."""

from modalign.papers.base import Block, Column, Footnote, Row, Table

DATASET = "goldatlas-ct-mr"
ORGANS = ("Bladder", "Prostate", "Rectum")


def _column(metric: str, organ: str) -> Column:
    fixed = {"dataset": "clinical-pelvis-ct-mr", "group": organ}
    if metric == "dice":
        group, printed = "DSC (%)", fixed | {"metric": "dice_percent"}
        return Column("dice", organ, DATASET, "higher", 1, organ.lower(), 100.0, group, printed=printed)
    printed = fixed | {"metric": "asd_mm"}
    return Column("asd_mm", organ, DATASET, "lower", 2, organ.lower(), group="ASD (mm)", printed=printed)


TABLE_1 = Table(
    "cao2018",
    1,
    "Registration networks supervised by similarity within a modality: CT-MR pelvis",
    (
        Block(
            tuple(
                Row(label, method, printed={"method": printed}, reference=method == "identity")
                for label, method, printed in (
                    ("Affine (MI)", "identity", "Affine (MI)"),
                    ("SyN (MI)", "syn-cao", "SyN (MI)"),
                    ("Single-modality, CT", "single-modality-ct", "Single-modality CT"),
                    ("Single-modality, MR", "single-modality-mr", "Single-modality MR"),
                    ("Dual-modality, proposed", "dual-modality", "Dual-modality (proposed)"),
                )
            ),
            tuple(_column(metric, organ) for metric in ("dice", "asd_mm") for organ in ORGANS),
            "Dual-modality, proposed",
        ),
    ),
    "a private CT-MR set of 15 patients; five random splits with two test patients each",
    stand_in=(
        "The paper's patients are private. The public Gold Atlas of the male pelvis stands in for them: its numbers "
        "can't be compared with the printed ones, only the order of the methods can."
    ),
    stand_ins=(DATASET,),
    footnotes=(
        Footnote(
            "Affine registration by mutual information is a part of the preparation, in the paper by FLIRT and here by "
            "SimpleITK: its row shows the scans as every other method gets them."
        ),
        Footnote("The paper's networks learn from pairs that were aligned with the help of the organs' labels."),
    ),
)

TABLES = (TABLE_1,)
