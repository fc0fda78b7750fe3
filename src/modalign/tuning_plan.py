"""Which methods of a configuration are tuned on which data sets, and by what."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from modalign.errors import ConfigError
from modalign.methods import method_class
from modalign.tuning_ranges import Range, Ranges, ranges_of, read_range

if TYPE_CHECKING:
    from modalign.variants import Variant


@dataclass(frozen=True)
class Tuning:
    """The tuning of a run.

    Attributes:
        trials: per method and data set.
        batch: trials that a job makes, one after another.
        parallel: batches that may run side by side; they don't know each other's results.
        startup: trials drawn at random before the Gaussian process takes over.
        share: of the best trials, to which the Gaussian process that chooses is fitted.
        ranges: by variant, where each of its options is searched; the variants that are tuned.
        objectives: by data set, the measure to be made better; the data sets that are tuned on.
        translators: by data set, the variant whose translations the objective compares with, where it needs some.
    """

    trials: int = 100
    batch: int = 1
    parallel: int = 1
    startup: int = 10
    share: float = 0.6
    ranges: Mapping[str, Ranges] = field(default_factory=dict)
    objectives: Mapping[str, str] = field(default_factory=dict)
    translators: Mapping[str, str] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        """How many batches of trials there are per method and data set."""
        return -(-self.trials // self.batch)

    def trials_in(self, batch: int) -> int:
        """The number of trials of a batch: the last need not be a whole one."""
        return min(self.batch, self.trials - batch * self.batch)

    def cells(self, cells: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of (data set, variant) pairs that are tuned, in order."""
        return sorted((d, variant) for d, variant in cells if d in self.objectives and variant in self.ranges)

    def searched(self, variant: str) -> dict[str, Any]:
        """The ranges of a variant as :func:`modalign.tuning_ranges.read_range` reads them."""
        return {name: asdict(entry) for name, entry in self.ranges[variant].items()}


def make_tuning(
    entry: Mapping[str, Any], variants: Mapping[str, "Variant"], datasets: Mapping[str, Mapping[str, Any]]
) -> Tuning:
    """Check the section `tuning` of a configuration and the data sets' `tuned_by`, and resolve the search ranges.

    Options that a variant sets itself aren't searched, unless the section gives a range for them.

    Raises:
        ConfigError: an unknown variant, option or measure, or something that can't be tuned.
    """
    ranges: dict[str, Ranges] = {}
    own = entry.get("ranges", {})
    unknown = sorted(set(own) - set(entry.get("methods", ())))
    if unknown:
        raise ConfigError(f"tuning: ranges: {unknown[0]!r} is not tuned; add it to tuning.methods")
    for name in entry.get("methods", ()):
        if name not in variants:
            raise ConfigError(f"tuning: there is no method {name!r}; the methods are: {', '.join(variants)}")
        if variants[name].trained:
            raise ConfigError(f"tuning: {name} learns from training cases: tune its options by hand, or leave it out")
        ranges[name] = _ranges(variants[name], own.get(name, {}))
    objectives: dict[str, str] = {}
    translators: dict[str, str] = {}
    for name, dataset in datasets.items():
        _check_translators(name, dataset, variants)
        if dataset.get("tuned_by") is not None:
            objectives[name] = dataset["tuned_by"]
            if _check_objective(name, dataset):
                translators[name] = _unseen_translator(name, dataset, variants)
    numbers = {key: value for key, value in entry.items() if key not in ("methods", "ranges")}
    return Tuning(**numbers, ranges=ranges, objectives=objectives, translators=translators)


def _ranges(variant: "Variant", own: Mapping[str, Mapping[str, Any]]) -> dict[str, Range]:
    resolved = _resolved(variant).model_dump()
    published = ranges_of(variant.method, resolved)
    found = {option: searched for option, searched in published.items() if option not in variant.options}
    for option, given in own.items():
        if option not in resolved:
            known = ", ".join(resolved)
            raise ConfigError(f"tuning: ranges: {variant.name} has no option {option!r}; its options are: {known}")
        try:
            found[option] = read_range(given)
        except ConfigError as error:
            raise ConfigError(f"tuning: ranges: {variant.name}: {option}: {error}") from error
    if not found:
        raise ConfigError(
            f"tuning: there are no search ranges for {variant.name}: give some, as in "
            f"ranges: {{{variant.name}: {{<option>: {{low: 0.1, high: 10, log: true}}}}}}"
        )
    return found


def _check_translators(name: str, dataset: Mapping[str, Any], variants: Mapping[str, "Variant"]) -> None:
    for key in ("pseudo_image", "tuning_pseudo_image"):
        variant = dataset.get(key)
        if variant is None:
            continue
        if variant not in variants:
            raise ConfigError(f"datasets: {name}: {key}: {variant!r} is not one of the methods: {', '.join(variants)}")
        if (kind := method_class(variants[variant].method).kind) != "translation":
            raise ConfigError(f"datasets: {name}: {key} has to be a translation method, and {variant!r} is a {kind}")


def _check_objective(name: str, dataset: Mapping[str, Any]) -> bool:
    """Whether a data set can be tuned by its measure; returns whether that needs a translation of the fixed images."""
    from modalign.metrics import measure_by_name

    try:
        measure = measure_by_name(dataset["tuned_by"])
    except ConfigError as error:
        raise ConfigError(f"datasets: {name}: tuned_by: {error}") from error
    if measure.scope == "set" or measure.better == "reference" or measure.features:
        message = f"{measure.name} doesn't say of a single case which alignment is better"
        raise ConfigError(f"datasets: {name}: tuned_by: {message}: choose another measure, such as dice or tre_mm")
    split = dataset.get("split")
    if isinstance(split, Mapping) and not split.get("validation"):
        message = f"it is tuned by {measure.name} on validation cases, and its split has none"
        raise ConfigError(f"datasets: {name}: {message}: write validation: 1 or more")
    return "pseudo_image" in measure.needs


def _unseen_translator(name: str, dataset: Mapping[str, Any], variants: Mapping[str, "Variant"]) -> str:
    """The translator that tuning is judged by, which must never have seen a test case."""
    translator = dataset.get("tuning_pseudo_image", dataset.get("pseudo_image"))
    if translator is None:
        message = f"tuned_by {dataset['tuned_by']} compares with a translation"
        raise ConfigError(f"datasets: {name}: {message}: add pseudo_image: <a translation method>")
    if "test" in getattr(_resolved(variants[translator]), "train_on", ()):
        raise ConfigError(
            f"datasets: {name}: tuning would be judged by {translator}, which is trained on test cases: add "
            "tuning_pseudo_image: <a variant of it with train_on: [train, validation]>"
        )
    return translator


def _resolved(variant: "Variant") -> Any:
    kind = method_class(variant.method)
    return kind(variant.options, variant.dimension or max(kind.dimensions)).options
