"""Locor: tables 1-2 of "New Multimodal Similarity Measure for Image Registration via Modeling Local Functional
Dependence with Linear Combination of Learned Basis Functions"."""

from modalign.papers.base import Block, Column, Footnote, Row, Table


def _columns(dice_digits: int, mae_digits: int, tre_digits: int) -> tuple[Column, ...]:
    abdomen, head, ixi = "learn2reg-abdomen-mr-ct", "cermep-t1-ct", "ixi-t2-pd"
    return (
        Column(
            "dice",
            "Dice",
            abdomen,
            "higher",
            dice_digits,
            group="Abdomen (MRI-CT)",
            printed={"dataset": abdomen, "metric": "dice"},
        ),
        Column(
            "mae_pseudo_hu",
            "MAE to pseudo-CT (HU)",
            head,
            "lower",
            mae_digits,
            group="Head (MRI-CT)",
            printed={"dataset": "cermep-head-mr-ct", "metric": "mae_hu"},
        ),
        Column(
            "tre_voxel",
            "TRE (voxels)",
            ixi,
            "lower",
            tre_digits,
            group="Head (MRI T2-PD)",
            printed={"dataset": ixi, "metric": "tre_voxel"},
        ),
    )


PSEUDO_CT = Footnote(
    "The head data have no labels: the registered CT is compared with a pseudo-CT that a network makes from the MR. "
    "On phantoms the true CT is known as well; the comparison of all methods on cermep-t1-ct shows the error "
    "against that beside this one."
)
TUNED = Footnote(
    "The paper tunes every method on three validation cases and averages five runs; the tuned values are unpublished."
)

TABLE_1 = Table(
    "locor",
    1,
    "Locor against other similarity measures and registration tools",
    (
        Block(
            tuple(
                Row(label, method, group, printed={"method": printed})
                for label, method, group, printed in (
                    ("NiftyReg (MIND)", "niftyreg-mind-locor", "Tools", "NiftyReg (MIND)"),
                    ("NiftyReg (NMI)", "niftyreg-nmi-locor", "Tools", "NiftyReg (NMI)"),
                    ("ANTs (Mattes MI)", "syn-locor", "Tools", "ANTs (Mattes MI)"),
                    ("corrField", "corrfield", "Tools", "corrField"),
                    ("SRWCR", "srwcr", "Measures in Locor's optimiser", "SRWCR"),
                    ("MIND-SSC", "mind-ssc", "Measures in Locor's optimiser", "MINDSSC"),
                    ("MI", "mi", "Measures in Locor's optimiser", "MI"),
                    ("Locor, polynomial basis", "locor-polynomial", "Proposed", "Locor polynom. (ours)"),
                    ("Locor", "locor", "Proposed", "Locor (ours)"),
                )
            ),
            _columns(2, 2, 2),
            "Locor",
        ),
    ),
    "Learn2Reg 2021 abdomen MR-CT (4 test cases), CERMEP-IDB-MRXFDG (34), IXI T2-PD (49)",
    "Wilcoxon signed-rank test: p < 0.005 for Locor against every baseline on both head data sets",
    "patient",
    show_beats=True,
    proposed_below=0.005,
    tunes=True,
    footnotes=(
        Footnote("corrField has no printed value on the head MRI-CT data: it can't handle images on two grids."),
        PSEUDO_CT,
        TUNED,
    ),
)

TABLE_2 = Table(
    "locor",
    2,
    "Ablation of Locor, on the validation cases",
    (
        Block(
            tuple(
                Row(
                    label,
                    method,
                    printed={"group": "ablation (validation cases)", "method": "Locor", "variant": printed},
                )
                for label, method, printed in (
                    ("Log + learned", "locor-no-derivative", "Log + Learned"),
                    ("Log + learned + derivative", "locor", "Log + Learned + Deriv."),
                    ("Log + polynomial", "locor-polynomial-no-derivative", "Log + Polynom."),
                    ("Log + polynomial + derivative", "locor-polynomial", "Log + Polynom. + Deriv."),
                    ("Normalized + learned", "locor-normalized-no-derivative", "Normalized + Learned"),
                    ("Normalized + learned + derivative", "locor-normalized", "Normalized + Learned + Deriv."),
                )
            ),
            _columns(3, 1, 3),
            "Log + learned + derivative",
        ),
    ),
    "three validation cases of each data set",
    unit="patient",
    split="validation",
    extras=False,
    ablation=True,
    tunes=True,
    footnotes=(
        Footnote("The paper chose the hyperparameters on these three cases, so the printed values flatter every row."),
        PSEUDO_CT,
    ),
)

TABLES = (TABLE_1, TABLE_2)
