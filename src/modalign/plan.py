"""From a configuration to what has to be made: which data sets, which methods on them, which tables.

The JSON schema checks the shape of a configuration; this module checks its meaning, before anything runs.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modalign import papers as paper_tables
from modalign.errors import ConfigError
from modalign.plan_checks import (
    check_dataset,
    check_measure_options,
    check_proposed,
    check_segmentation,
    check_split,
    check_tables,
)
from modalign.plan_choices import chosen_datasets, chosen_extra_methods, chosen_tables
from modalign.report.paper_figures import PaperFigure, figures_of
from modalign.tuning_plan import Tuning, make_tuning
from modalign.variants import (
    Variant,
    check_dimensions,
    check_needs,
    differing_options,
    dimensions_of,
    dimensions_on,
    read_variant,
)

Cell = tuple[str, str]
"""A data set and a method variant."""


@dataclass(frozen=True)
class Plan:
    """What a run makes. Only what the papers and own methods of the configuration need is in it.

    `tables` and `cells` are those of the default target; `on_demand` are the tables that the configuration leaves to
    targets of their own, and `reachable` the cells of both.
    """

    papers: tuple[str, ...]
    tables: tuple[tuple[str, int], ...]
    on_demand: tuple[tuple[str, int], ...]
    datasets: Mapping[str, Mapping[str, Any]]
    archives: Mapping[str, Mapping[str, Any]]
    variants: Mapping[str, Variant]
    cells: frozenset[Cell]
    reachable: frozenset[Cell]
    extra_methods: Mapping[str, tuple[str, ...]]
    phantom_defaults: Mapping[str, Any]
    tuning: Tuning

    def runs(self, cell: Cell) -> list[int]:
        """The seeds with which a cell is run."""
        return list(self.variants[cell[1]].seeds)

    def spec(self, dataset: str, variant: str, model_of: Callable[[str], str]) -> dict[str, Any]:
        """What :func:`modalign.runs.build_method` takes; `model_of(variant)` names the folder of trained weights."""
        chosen = self.variants[variant]
        needs = {}
        for role, name in chosen.needs.items():
            needs[role] = self.spec(dataset, name, model_of)
            if self.variants[name].trained:
                needs[role]["model"] = model_of(name)
        return {
            "method": chosen.method,
            # A data set says in what its rows work; what they build on, such as a translation of slices, may differ.
            "dimension": max(dimensions_on(chosen, self.datasets[dataset]) or dimensions_of(chosen)),
            "options": dict(chosen.options),
            "needs": needs,
        }

    def trained_needs(self, variant: str) -> list[str]:
        """All variants with weights that a variant builds on, directly or not."""
        found: list[str] = []
        for name in self.variants[variant].needs.values():
            found += self.trained_needs(name) + ([name] if self.variants[name].trained else [])
        return list(dict.fromkeys(found))

    def modules(self, variant: str) -> list[str]:
        """The method modules that a variant runs."""
        chosen = self.variants[variant]
        found = [f"modalign.methods.{chosen.method}"]
        for name in chosen.needs.values():
            found += self.modules(name)
        return found

    def measures(self, dataset: str) -> list[str]:
        """The measures of a data set: those of its tables, and those that its entry adds."""
        wanted = set(paper_tables.measures_for(dataset, self.papers))
        return sorted(wanted | set(self.datasets[dataset].get("measures", ())))

    def phantom(self, archive: str) -> dict[str, Any]:
        """Size and number of patients of an archive's phantom."""
        return {**self.phantom_defaults, **self.archives[archive].get("phantom", {})}

    def phantom_module(self, archive: str) -> str:
        """The module that draws an archive's phantom."""
        from modalign.phantoms.archives import ARCHIVES

        if archive not in ARCHIVES:
            raise ConfigError(f"there is no phantom of archive {archive!r}; there are: {', '.join(ARCHIVES)}")
        return ARCHIVES[archive].split(":")[0]

    def overrides(self, dataset: str) -> dict[str, Any]:
        """What differs from the recipe of a data set: phantoms keep the size in which they are made."""
        entry = self.datasets[dataset]
        phantom = self.archives[entry["archive"]]["source"] == "phantom"
        size = {"size": self.phantom(entry["archive"])["size"]} if phantom else {}
        return {**size, **entry.get("overrides", {})}

    @property
    def compared(self) -> list[str]:
        """The data sets of the default target, each with a comparison of all methods on it."""
        return [name for name in self.datasets if any(dataset == name for dataset, _ in self.cells)]

    def table_cells(self, paper: str, number: int) -> list[Cell]:
        """The cells that a table shows, as far as they are configured."""
        table = paper_tables.tables(paper)[number]
        columns = {column.dataset: column for _, _, column in table.cells()}
        wanted = {(column.dataset, row.variant(column) or "") for _, row, column in table.cells()}
        wanted |= {(dataset, name) for dataset in columns for name in self.table_extras(paper, number)}
        return sorted(wanted & self.reachable)

    def table_extras(self, paper: str, number: int) -> list[str]:
        """The methods beyond the paper that join a table."""
        table = paper_tables.tables(paper)[number]
        if not table.extras:
            return []
        datasets = {column.dataset for _, _, column in table.cells()}
        return sorted({name for dataset in datasets for name in self.extra_methods.get(dataset, ())})

    def table_settings(self, paper: str, number: int) -> dict[str, dict[str, Any]]:
        """In a table that varies parts of a method: the options in which its rows differ in this run, by variant."""
        table = paper_tables.tables(paper)[number]
        if not table.ablation:
            return {}
        names = sorted({name for _, name in self.table_cells(paper, number)})
        return differing_options([self.variants[name] for name in names])

    def trainings_from(self, dataset: str, variant: str) -> int:
        """How many trainings have to follow one another on a data set, beginning with that of a variant."""
        return self._training_chains.get((dataset, variant), 1)  # one that only tuning asks for is in no cell

    def trainings_on(self, dataset: str) -> int:
        """How many trainings have to follow one another on a data set."""
        return max((length for (on, _), length in self._training_chains.items() if on == dataset), default=0)

    @cached_property
    def _training_chains(self) -> Mapping[Cell, int]:
        trained = {cell for cell in self.reachable if self.variants[cell[1]].trained}
        trained |= {(dataset, name) for dataset, variant in trained for name in self.trained_needs(variant)}
        found: dict[Cell, int] = {}

        def length(dataset: str, variant: str) -> int:
            if (dataset, variant) not in found:
                needing = [name for name in self.variants if variant in self.variants[name].needs.values()]
                lengths = (length(dataset, name) for name in needing if (dataset, name) in trained)
                found[dataset, variant] = 1 + max(lengths, default=0)
            return found[dataset, variant]

        for cell in trained:
            length(*cell)
        return found

    def is_segmented(self, cell: Cell) -> bool:
        """Whether a table or figure of the run shows structures found in the aligned images of a cell."""
        return cell in self._segmented_cells

    @cached_property
    def _segmented_cells(self) -> frozenset[Cell]:
        pictures = [figure for paper in self.papers for figure in self.figures(paper, self.reachable)]
        found = {cell for figure in pictures if figure.segmented for cell in figure.cells}
        for paper, number in (*self.tables, *self.on_demand):
            for _, row, column in paper_tables.tables(paper)[number].cells():
                if column.metric.startswith("segmented_"):
                    shown = (row.variant(column), *self.table_extras(paper, number))
                    found.update((column.dataset, variant) for variant in shown if variant is not None)
        return frozenset(cell for cell in found if self.datasets.get(cell[0], {}).get("segment", False))

    def figures(self, paper: str, cells: Collection[Cell]) -> list[PaperFigure]:
        """The figures of a paper that can be drawn from some cells."""
        return [
            figure
            for figure in figures_of(paper, cells)
            if not figure.segmented or all(self.datasets[row.dataset].get("segment", False) for row in figure.rows)
        ]

    def splits(self, cell: Cell) -> list[str]:
        """The splits of a cell that are aligned and measured: its tables', and test where methods are compared."""
        dataset, method = cell
        if method == self.datasets[dataset].get("pseudo_image"):
            return sorted(paper_tables.splits_for(dataset, self.papers) | {"test"})
        shown = self._table_splits.get(cell, set()) | ({"test"} if cell in self.compared_cells else set())
        # What no table shows can still be asked for by the name of a file.
        return sorted(shown or {"test"})

    @cached_property
    def compared_cells(self) -> frozenset[Cell]:
        """The cells that are compared on the test split: not those of tables on the validation split alone."""
        return frozenset(cell for cell in self.cells if self._table_splits.get(cell) != {"validation"})

    @cached_property
    def _table_splits(self) -> Mapping[Cell, set[str]]:
        """The splits of the tables that show a cell."""
        found: dict[Cell, set[str]] = {}
        for paper in self.papers:
            for table in paper_tables.tables(paper).values():
                for _, row, column in table.cells():
                    for name in (row.variant(column) or "", *self.table_extras(paper, table.number)):
                        found.setdefault((column.dataset, name), set()).add(table.split)
        return found


def make_plan(config: Mapping[str, Any]) -> Plan:
    """Check a configuration's meaning and resolve it.

    Raises:
        ConfigError: a method, option, paper, archive or combination that doesn't exist; the message lists what does.
    """
    known = paper_tables.papers()
    for paper in config["papers"]:
        if paper not in known:
            raise ConfigError(f"there is no paper {paper!r} to regenerate; the papers are: {', '.join(known)}")
    check_tables(config.get("tables", {}), known)
    variants = {name: read_variant(name, entry, config) for name, entry in config["methods"].items()}
    for variant in variants.values():
        check_needs(variant, variants)
    all_datasets = chosen_datasets(config)
    tuning = make_tuning(config.get("tuning", {}), variants, all_datasets)
    extra = chosen_extra_methods(config, variants)
    tables = chosen_tables(config)
    every = tuple((paper, number) for paper in config["papers"] for number in paper_tables.tables(paper))

    def cells_of(chosen: Iterable[tuple[str, int]]) -> set[Cell]:
        cells: set[Cell] = set()
        for paper, number in chosen:
            for dataset in all_datasets:
                cells |= paper_tables.cells(paper, variants, {dataset}, extra[dataset], [number])
        cells = {(dataset, name) for dataset, name in cells if name not in config.get("leave_out", ())}
        used = {dataset for dataset, _ in cells} | (set(config.get("extra_datasets", ())) & set(all_datasets))
        cells |= {
            (dataset, name)
            for dataset in used
            for name in extra.get(dataset, ())
            if name not in config.get("leave_out", ())
        }
        cells |= {(dataset, name) for dataset in used if (name := all_datasets[dataset].get("pseudo_image"))}
        # Everything is compared with doing nothing.
        return cells | {(dataset, name) for dataset in used for name in variants if variants[name].method == "identity"}

    cells, reachable = cells_of(tables), cells_of(every)
    used = {dataset for dataset, _ in reachable}
    for dataset, variant_name in sorted(reachable):
        check_dimensions(dataset, all_datasets, variants[variant_name])
    datasets = {name: all_datasets[name] for name in all_datasets if name in used}
    for name, entry in datasets.items():
        check_dataset(name, entry)
    check_measure_options("measure_options", config.get("measure_options", {}))
    check_segmentation(config.get("segmentation", {}))
    archives = {}
    for name, entry in datasets.items():
        if entry["archive"] not in config["archives"]:
            known_archives = ", ".join(config["archives"])
            raise ConfigError(f"data set {name} is read from archive {entry['archive']!r}; known are: {known_archives}")
        archives[entry["archive"]] = config["archives"][entry["archive"]]
        check_split(name, entry, archives[entry["archive"]]["source"])
    plan = Plan(
        papers=tuple(config["papers"]),
        tables=tables,
        on_demand=tuple(table for table in every if table not in tables),
        datasets=datasets,
        archives=archives,
        variants=variants,
        cells=frozenset(cells),
        reachable=frozenset(reachable),
        extra_methods=extra,
        phantom_defaults=config["phantom"],
        tuning=tuning,
    )
    for name in plan.compared:
        check_proposed(name, datasets[name], {method for dataset, method in plan.compared_cells if dataset == name})
    return plan
