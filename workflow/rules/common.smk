import json
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

ROOT = Path(workflow.current_basedir).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from modalign.config_errors import explain
from modalign.digest import code_digest
from modalign.devices import has_gpu
from modalign.errors import ModalignError
from modalign.papers import tables
from modalign.plan import make_plan
from modalign.plan_needs import missing
from modalign.preloaded import ADDRESS, JOB_ENVIRONMENT
from modalign.report.page_plan import describe_plan
from modalign.report.paper_figures import paper_figure

try:
    validate(config, "../schemas/config.schema.yaml")
except WorkflowError as error:
    # Snakemake's own message holds the schema and the configuration, tens of kilobytes.
    if not hasattr(error.__context__, "absolute_path"):
        raise
    raise WorkflowError(explain(error.__context__)) from None

# Which executor was chosen Snakemake doesn't say while it reads this; a number of nodes is set for clusters alone.
ON_CLUSTER = workflow.resource_settings.nodes is not None

try:
    PLAN = make_plan(config)
    # Jobs parse the workflow again, on other machines as well; what a run needs is looked for once.
    here = not ON_CLUSTER and not workflow.deployment_settings.deployment_method
    absent = (
        missing(PLAN, config, Path.cwd(), jobs_here=here)
        if workflow.is_main_process
        else []
    )
except ModalignError as error:
    raise WorkflowError(str(error)) from None
if absent:
    raise WorkflowError("\n\n".join(absent))

# Environments of conda don't inherit PYTHONPATH. Jobs on a cluster get their resources from it: a launcher on this
# machine must not take them.
variables = JOB_ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")}
shell.prefix(
    f"export {' '.join(f'{name}={shlex.quote(value)}' for name, value in variables.items())}; "
    + f"unset {ADDRESS}; " * (ON_CLUSTER or workflow.remote_exec)
)


# What every table is written as; asked for by name, so that a file that was deleted is made again.
TABLE_FORMS = ("md", "tex", "csv", "html", "provenance.json")


wildcard_constraints:
    archive="|".join(PLAN.archives) or "none",
    dataset="|".join(PLAN.datasets) or "none",
    method="|".join(PLAN.variants) or "none",
    paper="|".join(PLAN.papers) or "none",
    seed=r"\d+",
    shard=r"\d+-of-\d+",
    table=r"\d+",
    trial=r"\d+",
    figure=r"[a-z0-9_]+",


def archive_folder(wildcards):
    """The folder (or CSV) in the published layout that a data set is read from."""
    name = PLAN.datasets[wildcards.dataset]["archive"]
    source = PLAN.archives[name]["source"]
    return (
        f"results/archives/{source}/{name}"
        if source in ("phantom", "download")
        else source
    )


# On this machine, jobs ask for a GPU only if it has one, so that they don't wait for each other without need; those
# that go to a cluster ask for one unless the configuration says device: cpu.
GPU = int(
    config["device"] == "cuda"
    or (config["device"] == "auto" and (ON_CLUSTER or has_gpu()))
)


def as_argument(value):
    """A value as one quoted JSON argument of a shell command."""
    return shlex.quote(json.dumps(value))


def spec_argument(wildcards):
    """What a method variant is, with the folders of the trained methods that it builds on."""
    dataset, seed = wildcards.dataset, wildcards.get("seed")
    return as_argument(
        PLAN.spec(
            dataset, wildcards.method, lambda name: model_folder(dataset, name, seed)
        )
    )


def model_folder(dataset, method, seed):
    """Where the weights of a trained method lie; a method that needs it is trained with the first seed it has."""
    seeds = [str(s) for s in PLAN.variants[method].seeds]
    return f"results/models/{dataset}/{method}/seed{seed if str(seed) in seeds else seeds[0]}"


def models_of(wildcards):
    """The trained models that have to be there before a method can run."""
    names = PLAN.trained_needs(wildcards.method)
    if PLAN.variants[wildcards.method].trained:
        names = [wildcards.method, *names]
    return [
        f"{model_folder(wildcards.dataset, name, wildcards.get('seed'))}/train.json"
        for name in names
    ]


def uses_gpu(method):
    """Whether a method, or one that it builds on, is faster on a GPU."""
    names = [method, *PLAN.trained_needs(method)]
    return any(PLAN.variants[name].accelerated for name in names)


def training_gpus(wildcards):
    """As many GPUs as the method trains on, if there are any."""
    return GPU * PLAN.variants[wildcards.method].options.get("devices", 1)


def needed_models(wildcards):
    """The trained models that a training builds on."""
    return [
        f"{model_folder(wildcards.dataset, name, wildcards.seed)}/train.json"
        for name in PLAN.trained_needs(wildcards.method)
    ]


def model_option(wildcards):
    """The option that names the weights of a trained method."""
    if not PLAN.variants[wildcards.method].trained:
        return ""
    folder = model_folder(wildcards.dataset, wildcards.method, wildcards.get("seed"))
    return f"--model {shlex.quote(folder)}"


def time_limit(wildcards):
    """When a method ends as failed. A resource: other than a parameter's, its change lets what is done stay done."""
    minutes = PLAN.variants[wildcards.method].minutes
    return "none" if minutes is None else f"{minutes}min"


def measure_options(dataset):
    """Options of the measures: those for all data sets, overlaid by those of this one."""
    own = PLAN.datasets[dataset].get("measure_options", {})
    names = {**config["measure_options"], **own}
    return {
        name: {**config["measure_options"].get(name, {}), **own.get(name, {})}
        for name in names
    }


def pseudo_images(wildcards):
    """The translations of all measured cases that aligned images are compared with; none for the translator itself."""
    dataset, method = wildcards.dataset, PLAN.datasets[wildcards.dataset].get(
        "pseudo_image"
    )
    if method in (None, wildcards.method):
        return []
    return first_runs(dataset, method)


def folder_option(name, files):
    """The option that names the folder of files, if there are any."""
    return f"{name} {shlex.quote(str(Path(files[0]).parent))}" if files else ""


def run_files(wildcards):
    """The status files of one method on one data set, one per shard."""
    shards = PLAN.variants[wildcards.method].shards
    return expand(
        "results/aligned/{dataset}/{method}/seed{seed}/run-{i}-of-{n}.json",
        dataset=wildcards.dataset,
        method=wildcards.method,
        seed=wildcards.seed,
        i=range(1, shards + 1),
        n=shards,
    )


def metrics_of(cells):
    """The metrics files of (data set, method) cells, over all their seeds."""
    return [
        f"results/metrics/{dataset}/{method}/seed{seed}.tsv"
        for dataset, method in cells
        for seed in PLAN.variants[method].seeds
    ]


def stores_of(cells):
    """The manifests of the case stores that cells are about."""
    return [
        f"results/cases/{dataset}/cases.json"
        for dataset in sorted({dataset for dataset, _ in cells})
    ]


def dataset_cells(dataset):
    """The cells of one data set, the unaligned images first."""
    return sorted(
        (cell for cell in PLAN.compared_cells if cell[0] == dataset),
        key=lambda cell: (cell[1] != "identity", cell[1]),
    )


def shown_runs(dataset):
    """The status files of all methods on a data set, each with its first seed."""
    return [path for cell in dataset_cells(dataset) for path in first_runs(*cell)]


def folders_of(runs):
    """Method and folder of the alignments that status files are about."""
    folders = dict.fromkeys(Path(path).parent for path in runs)
    return [[folder.parent.name, str(folder)] for folder in folders]


def proposed_on(dataset):
    """The method that all others are tested against on a data set: doing nothing, unless the data set names one."""
    return PLAN.datasets[dataset].get("proposed", dataset_cells(dataset)[0][1])


def labels_of(variants):
    """What a variant is called in a table: its name in the configuration."""
    return {name: name for name in variants}


def options(name, values):
    """A repeated command-line option."""
    return " ".join(f"{name} {shlex.quote(str(value))}" for value in values)


def training_minutes(wildcards, attempt):
    """A retried training resumes from its last checkpoint and gets more time."""
    return int((PLAN.variants[wildcards.method].minutes or 120) * 1.2 * attempt) + 5


def alignment_minutes(wildcards):
    """The limit of a shard of an alignment, and time to start and to write."""
    return int(PLAN.variants[wildcards.method].minutes or 210) + 30


def first_runs(dataset, method):
    """The status files of the alignments of a method, those of its first seed."""
    variant = PLAN.variants[method]
    return [
        f"{first_aligned(dataset, method)}/run-{i}-of-{variant.shards}.json"
        for i in range(1, variant.shards + 1)
    ]


def first_aligned(dataset, method):
    """The folder of the alignments of a method, those of its first seed."""
    return f"results/aligned/{dataset}/{method}/seed{PLAN.variants[method].seeds[0]}"


def paper_results(paper):
    """Every table and figure of a paper, also those that the default target leaves out."""
    found = [
        f"results/papers/{name}/table_{number}.{form}"
        for name, number in (*PLAN.tables, *PLAN.on_demand)
        if name == paper
        for form in TABLE_FORMS
    ]
    return found + paper_pictures(paper, PLAN.reachable)


def ablation_tables():
    """Every table that varies one part of a paper's own method."""
    return [
        f"results/papers/{name}/table_{number}.{form}"
        for name, number in (*PLAN.tables, *PLAN.on_demand)
        if tables(name)[number].ablation
        for form in TABLE_FORMS
    ]


localrules:
    all,
    ablations,
    rbg,
    registformer,
    locor,
    imse,
    cao2018,
    tune,
