"""What a step knows besides the case itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modalign.cases import Case
from modalign.errors import ConfigError
from modalign.preprocess.sampling import HOUNSFIELD, background

SIDES = ("fixed", "moving")


@dataclass(frozen=True)
class StepContext:
    """Facts about the data set, and what was fitted on the training split.

    Attributes:
        dataset: name of the data set; part of every random seed.
        fixed: modality of the fixed scans, such as ``mr``.
        moving: modality of the moving scans.
        archive: the registry's key of the archive that the data are of; empty for one's own.
        centred: whether the scans have no common frame, so that their centres are to be put together.
        between_patients: whether fixed and moving are scans of different patients.
        seed: seeds everything random.
        step: name of the step at work, for seeds and fitted values.
        fitted: per step name and side, what was fitted.
    """

    dataset: str
    fixed: str
    moving: str
    archive: str = ""
    centred: bool = False
    between_patients: bool = False
    seed: int = 0
    step: str = ""
    fitted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def modality(self, side: str) -> str:
        """The modality of one side."""
        return self.fixed if side == "fixed" else self.moving

    def sides(self, of: str) -> list[str]:
        """The sides that `of` means: ``all``, ``fixed``, ``moving``, ``ct`` (CT and CBCT) or ``mr`` (all others)."""
        if of == "all":
            return list(SIDES)
        if of in SIDES:
            return [of]
        if of in ("ct", "mr"):
            return [side for side in SIDES if (self.modality(side) in HOUNSFIELD) == (of == "ct")]
        raise ConfigError(f"step {self.step}: of is {of!r}; write all, fixed, moving, mr or ct")

    def fill(self, case: Case) -> dict[str, float]:
        """The value outside each image: its background. Masks and labels have 0 there."""
        moving = background(case.moving, self.moving)
        return {"fixed": background(case.fixed, self.fixed), "moving": moving, "true_image": moving}
