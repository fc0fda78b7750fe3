"""IMSE: tables 2-5 of "Indescribable Multi-modal Spatial Evaluator"."""

from collections.abc import Iterable

from modalign.papers.base import Block, Column, Direction, Footnote, Row, Table

BRATS, CLINICAL = "brats2019-t1-t2", "clinical-head-neck-ct-mr"
STAND_IN = (
    "The paper's CT-MR head and neck data are private. The public HaN-Seg set stands in for them: its numbers can't be "
    "compared with the printed ones, only the order of the methods can."
)
SOURCE = "BraTS 2019 T1-T2 (640 test slices in 2D, 20 test cases in 3D) and a private CT-MR set (863 slices, 18 cases)"
SMOOTHNESS = Footnote(
    "‖∇φ‖₂ follows the released code: the mean of the squared forward differences of the displacement (in voxels), "
    "summed over the axes and divided by three, in 2D as well. The paper calls it the average gradient."
)
HD95_UNIT = Footnote(
    "The paper gives HD95 no unit, and the released code hands the distance function no voxel size: the printed values "
    "are probably in voxels of the resized images. Here they are in mm."
)

DIRECTIONS = {
    "T1 → T2": ("T1->T2", BRATS, "brats2019-t1-to-t2"),
    "T2 → T1": ("T2->T1", BRATS, "brats2019-t2-to-t1"),
    "CT → MR": ("CT->MR", CLINICAL, "hanseg-ct-to-mr"),
    "MR → CT": ("MR->CT", CLINICAL, "hanseg-mr-to-ct"),
    "T1 → T1": ("T1->T1", "brats2019-t1-t1", "brats2019-t1-to-t1"),
    "CT → CT": ("CT->CT", "clinical-head-neck-ct-ct", "hanseg-ct-to-ct"),
}
"""Moving -> target as in the csv, the csv's data set, and the configured data set without its dimension."""


MEASURES: tuple[tuple[str, str, Direction, int, str], ...] = (
    ("dice", "Dice", "higher", 2, "dice"),
    ("hd95_mm", "HD95 (mm)", "lower", 2, "hd95"),
    ("grad_phi_l2", "‖∇φ‖₂", "lower", 4, "grad_phi_l2"),
)
TRANSLATION_MEASURES: tuple[tuple[str, str, Direction, int, str], ...] = (
    ("nmae", "NMAE", "lower", 3, "nmae"),
    ("psnr", "PSNR (dB)", "higher", 1, "psnr"),
    ("ssim", "SSIM", "higher", 2, "ssim"),
)
STAND_INS = tuple(
    f"{dataset}-{dimension}"
    for _, _, dataset in DIRECTIONS.values()
    for dimension in ("2d", "3d")
    if dataset.startswith("hanseg")
)


def _columns(direction: str, dimension: str, arm: str = "", variant: str | None = None) -> tuple[Column, ...]:
    """Dice, HD95 and smoothness for one direction in ``2d`` or ``3d``."""
    group, printed_dataset, dataset = DIRECTIONS[direction]
    key = {"dataset": printed_dataset, "group": group} | ({} if variant is None else {"variant": variant})
    return tuple(
        Column(
            metric,
            label,
            f"{dataset}-{dimension}",
            better,
            digits,
            group=arm.upper(),
            arm=arm,
            printed=key | {"metric": printed},
        )
        for metric, label, better, digits, printed in MEASURES
    )


def _network(label: str, method: str, printed: str | None = None) -> Row:
    """A registration network; {} in `method` is 2d or 3d."""
    arms = {arm: method.format(arm) for arm in ("2d", "3d")}
    return Row(label, None, arms=arms, printed={"method": printed or label})


NETWORKS = (
    Row("Initial", "identity", printed={"method": "Initial"}, reference=True, undefined=frozenset({"grad_phi_l2"})),
    _network("NCC", "voxelmorph-ncc-{}"),
    _network("MI", "voxelmorph-mi-{}"),
    _network("MIND", "voxelmorph-mind-{}"),
    _network("CycleGAN", "voxelmorph-{}-cyclegan"),
    _network("RegGAN", "voxelmorph-{}-reggan"),
    _network("IMSE (BC)", "imse-bc-{}", "IMSE(BC)"),
    _network("IMSE (SR)", "imse-sr-{}", "IMSE(SR)"),
)

TABLE_2 = Table(
    "imse",
    2,
    "Registration networks trained with different similarity measures",
    tuple(
        Block(
            NETWORKS,
            _columns(direction, "2d", "2d", "2d") + _columns(direction, "3d", "3d", "3d"),
            "IMSE (SR)",
            direction,
        )
        for direction in ("T1 → T2", "T2 → T1", "CT → MR", "MR → CT")
    ),
    SOURCE,
    stand_in=STAND_IN,
    stand_ins=STAND_INS,
    footnotes=(
        HD95_UNIT,
        SMOOTHNESS,
        Footnote("IMSE is trained on the source modality alone: T1, and CT."),
        Footnote("CycleGAN and RegGAN translate first; the network is then trained with the mean absolute difference."),
        Footnote("The paper prints the initial overlap once per data set, for T1 → T2 and for CT → MR."),
    ),
)

SEGMENTS = (
    ("N = 2", "imse-sr-2d-n2", "2d;N=2"),
    ("N = [2, 10]", "imse-sr-2d-n10", "2d;N=2-10"),
    ("N = [2, 30]", "imse-sr-2d-n30", "2d;N=2-30"),
    ("N = [2, 50], proposed", "imse-sr-2d", "2d;N=2-50"),
)

TABLE_3 = Table(
    "imse",
    3,
    "Number of segments N of Shuffle Remap, in 2D",
    tuple(
        Block(
            tuple(Row(label, name, printed={"method": "IMSE(SR)", "variant": v}) for label, name, v in SEGMENTS),
            _columns(direction, "2d"),
            SEGMENTS[-1][0],
            direction,
        )
        for direction in ("T2 → T1", "MR → CT")
    ),
    SOURCE,
    stand_in=STAND_IN,
    stand_ins=STAND_INS,
    extras=False,
    ablation=True,
    footnotes=(HD95_UNIT, SMOOTHNESS),
)


def _optimised(direction: str, similarities: Iterable[str]) -> Block:
    variant = "traditional (instance optimisation)"
    rows = (Row(s, f"instance-{s.lower()}-3d", printed={"method": s, "variant": variant}) for s in similarities)
    return Block(tuple(rows), _columns(direction, "3d"), "IMSE", direction)


TABLE_4 = Table(
    "imse",
    4,
    "Instance optimisation of a displacement field with different similarity measures",
    (
        _optimised("T2 → T1", ("NCC", "MI", "MIND", "IMSE")),
        _optimised("MR → CT", ("NCC", "MI", "MIND", "IMSE")),
        _optimised("T1 → T1", ("MAE", "IMSE")),
        _optimised("CT → CT", ("MAE", "IMSE")),
    ),
    SOURCE + "; 5 patients for T1 → T1 and CT → CT",
    stand_in=STAND_IN,
    stand_ins=STAND_INS,
    footnotes=(
        HD95_UNIT,
        SMOOTHNESS,
        Footnote(
            "T1 → T1 and CT → CT register different patients, in the paper 5 that lie close to each other. Here they "
            "are at most five pairs, no patient in two of them, chosen by the overlap of their contours."
        ),
    ),
)


def _translated(direction: str, dataset: str) -> Block:
    group, printed_dataset, _ = DIRECTIONS[direction]
    columns = tuple(
        Column(
            metric,
            label,
            dataset,
            better,
            digits,
            printed={"dataset": printed_dataset, "group": group, "metric": printed},
        )
        for metric, label, better, digits, printed in TRANSLATION_MEASURES
    )
    rows = (
        Row("CycleGAN", "cyclegan", printed={"method": "CycleGAN"}),
        Row("RegGAN", "reggan", printed={"method": "RegGAN"}),
        Row("IMSE", "imse-evaluator-2d", printed={"method": "IMSE"}),
    )
    return Block(rows, columns, "IMSE", direction)


TABLE_5 = Table(
    "imse",
    5,
    "Translation between modalities (source → target)",
    # A translation starts from our fixed image and ends in our moving modality: the configured data set is the one that
    # registers the other way round.
    (_translated("T2 → T1", "brats2019-t1-to-t2-2d"), _translated("MR → CT", "hanseg-ct-to-mr-2d")),
    SOURCE,
    stand_in=STAND_IN,
    stand_ins=STAND_INS,
    extras=False,
    footnotes=(
        Footnote(
            "PSNR of 91.6 dB beside SSIM 0.96 and NMAE 0.029: these can't be on one intensity range.",
            "misprint",
            ({"dataset": BRATS, "method": "IMSE", "metric": "psnr"},),
        ),
        Footnote("IMSE also sees a reference image of the target modality, CycleGAN and RegGAN do not."),
    ),
)

TABLES = (TABLE_2, TABLE_3, TABLE_4, TABLE_5)
