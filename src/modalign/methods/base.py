"""The contract between a method and the benchmark: one file, one class, one row of a table.

A method file defines one subclass of :class:`Method`. Heavy libraries (torch, ants, SimpleITK) are imported inside its
functions, so that the workflow can read what a method declares in milliseconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator

from modalign.cases import Alignment, Case, CaseStore
from modalign.errors import ConfigError, DataError
from modalign.volumes import Volume

Kind = Literal["identity", "registration", "translation", "integrated", "generation"]


class MethodOptions(BaseModel):
    """Base of a method's options: unknown names are refused, every field has a description with its unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Per value of the option `preset`, what other options are where they aren't given."""
    presets_by_dimension: ClassVar[Mapping[int, Mapping[str, Mapping[str, Any]]]] = {}
    """What differs from the presets for slices (2) or volumes (3)."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any, info: ValidationInfo) -> Any:
        option = cls.model_fields.get("preset")
        if option is None:
            return given
        name, dimension = given.get("preset", option.default), (info.context or {}).get("dimension", 0)
        return cls.completed(
            given, cls.presets.get(name, {}), cls.presets_by_dimension.get(dimension, {}).get(name, {})
        )

    @classmethod
    def completed(cls, given: Mapping[str, Any], *presets: Mapping[str, Any]) -> dict[str, Any]:
        """The given options over those of the presets, of which later ones override earlier ones."""
        return {option: value for options in (*presets, given) for option, value in options.items()}


@dataclass(frozen=True)
class Context:
    """Where and how a method runs.

    Attributes:
        seed: seeds everything random, see :mod:`modalign.seeds`.
        device: ``cpu`` or ``cuda``, already resolved.
        threads: how many CPU threads the method may use.
        model: folder of the trained weights; training writes it, aligning reads it.
        state: folder for checkpoints of an unfinished training; survives kills.
        needs: the methods that this one builds on, by role, ready to align.
    """

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    model: Path | None = None
    state: Path | None = None
    needs: Mapping[str, "Method"] = field(default_factory=dict)


class Method:
    """One way to align a pair of images. Subclass it in a file of its own.

    Class attributes say what the method is; :class:`Options` holds its settings with units and defaults; `align` does
    the work for one case, and `train`, where it is overridden, learns from the training cases first.
    """

    label: ClassVar[str]
    """Name in tables."""
    kind: ClassVar[Kind]
    """identity, registration (deforms), translation (changes contrast), integrated (both), generation."""
    dimensions: ClassVar[frozenset[int]]
    """{2} for slices, {3} for volumes, {2, 3} if either will do."""
    source: ClassVar[str]
    """The paper, and the library if one does the work."""
    accelerated: ClassVar[bool] = False
    """Whether a GPU makes it faster although it isn't trained."""
    needs: ClassVar[Mapping[str, str]] = {}
    """Role -> kind of the methods that have to exist first, such as ``{"translator": "translation"}``."""

    class Options(MethodOptions):
        """No options."""

    def __init__(self, options: Mapping[str, Any] | None = None, dimension: int = 3, context: Context | None = None):
        name = self.name
        if dimension not in self.dimensions:
            raise ConfigError(f"method {name} works in {_words(self.dimensions)} dimensions, not in {dimension}")
        try:
            self.options: Any = self.Options.model_validate(dict(options or {}), context={"dimension": dimension})
        except ValidationError as error:
            raise ConfigError(_explain(name, error, self.Options)) from error
        self.dimension = dimension
        self.context = context or Context()
        if self.is_trained() and self.context.model is None and self.context.state is None and context is not None:
            raise ConfigError(f"method {name} has to be trained first: name the folder of its model")

    @property
    def name(self) -> str:
        """The name of the method's file, which is its name in configurations."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @classmethod
    def is_trained(cls) -> bool:
        """Whether the method learns from training cases."""
        return cls.train is not Method.train

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Learn from the training cases, write the weights to ``self.context.model``, return what to put on record.

        Only the splits ``train`` and ``validation`` may be read. The state of an unfinished training goes to
        ``self.context.state``: training again continues from there.
        """
        raise NotImplementedError

    def align(self, case: Case) -> Alignment:
        """Align the moving image of one case with its fixed image. `case` holds neither labels nor truth."""
        raise NotImplementedError


def align_slices(case: Case, align: Callable[[Case], Alignment]) -> Alignment:
    """Align every axial slice by itself and stack the results.

    `align` gets cases whose volumes are one voxel thick, on the fixed grid (moving is resampled there if it lies
    elsewhere), and its fields have no through-plane component.
    """
    on_grid = moving_on_fixed_grid(case)
    results = [align(_slice_case(on_grid, z)) for z in range(case.fixed.shape[2])]
    image = Volume(np.concatenate([r.image.data for r in results], axis=2), case.fixed.affine.copy())
    fields = [r.field for r in results if r.field is not None]
    if len(fields) < len(results):
        return Alignment(image)
    stacked: np.ndarray = np.concatenate(fields, axis=3)
    stacked[2] = 0
    return Alignment(image, stacked)


def moving_on_fixed_grid(case: Case) -> Case:
    """The same case with the moving image (and mask) resampled to the fixed grid; itself if they share it.

    Raises:
        DataError: the scans lie apart, so that nothing would be left of the moving one.
    """
    if case.on_one_grid:
        return case
    from dataclasses import replace

    from modalign.spatial.fields import warp_volume
    from modalign.spatial.overlap import overlap

    if overlap(case.fixed.grid, case.moving.grid) == 0:
        raise DataError(
            f"case {case.id}: the scans don't overlap in world coordinates, so that nothing can be seen of the moving "
            "one: correct the header of one of them, or register them first by a method that can start from their "
            "centres, such as affine"
        )

    mask = case.moving_mask and warp_volume(case.moving_mask, None, case.grid, order=0, outside=0)
    moving = warp_volume(case.moving, None, case.grid, outside=float(case.moving.data.min()))
    return replace(case, moving=moving, moving_mask=mask, moving_labels=None)


def _slice_case(case: Case, z: int) -> Case:
    def cut(volume: Volume) -> Volume:
        affine = volume.affine.copy()
        affine[:3, 3] += z * affine[:3, 2]
        return Volume(volume.data[:, :, z : z + 1], affine)

    return Case(
        id=f"{case.id}/{z}",
        dataset=case.dataset,
        split=case.split,
        fixed=cut(case.fixed),
        moving=cut(case.moving),
        fixed_mask=case.fixed_mask and cut(case.fixed_mask),
        moving_mask=case.moving_mask and cut(case.moving_mask),
        fixed_intensity=case.fixed_intensity,
        moving_intensity=case.moving_intensity,
    )


def _words(dimensions: frozenset[int]) -> str:
    return " or ".join(map(str, sorted(dimensions)))


def _explain(name: str, error: ValidationError, options: type[MethodOptions]) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = ", ".join(options.model_fields) or "none"
            lines.append(f"method {name} has no option {key!r}; its options are: {known}")
        else:
            lines.append(f"option {key!r} of method {name} is {problem['input']!r}: {problem['msg']}")
    return "; ".join(lines)
