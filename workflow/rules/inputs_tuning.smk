from modalign.metrics import MEASURES


def search_of(wildcards):
    """How a method's options are searched on a data set; the digest repeats the search when its code changes."""
    dataset, method, tuning = wildcards.dataset, wildcards.method, PLAN.tuning
    objective = tuning.objectives[dataset]
    return {
        "spec": PLAN.spec(
            dataset, method, lambda name: model_folder(dataset, name, None)
        ),
        "ranges": tuning.searched(method),
        "objective": objective,
        "measure_options": measure_options(dataset).get(objective, {}),
        "startup": tuning.startup,
        "batch": tuning.batch,
        "parallel": tuning.parallel,
        "share": tuning.share,
        # The methods and the measure are found by their names, which the digest can't follow.
        "code": code_digest(
            "modalign.tuning",
            "modalign.methods.identity",
            MEASURES[objective].function.split(":")[0],
            *PLAN.modules(method),
        ),
    }


def batches_of_trials(wildcards, count):
    """The first batches of trials of a method on a data set."""
    folder = f"results/tuning/{wildcards.dataset}/{wildcards.method}"
    return [f"{folder}/trials-{number}.json" for number in range(count)]


def earlier_trials(wildcards):
    """The batches of the round before that of a batch, which come after those of all earlier rounds."""
    number, parallel = int(wildcards.batch), PLAN.tuning.parallel
    before = number - number % parallel
    return batches_of_trials(wildcards, before)[max(0, before - parallel) :]


def batch_minutes(wildcards):
    """Every trial's limit, and time to write down that it failed; not over a day, as a batch goes on where it ended."""
    each = alignment_minutes(wildcards)
    return max(each, min(each * PLAN.tuning.batch, 24 * 60))


def chosen_options(dataset, method):
    """The file with the tuned options of a method on a data set; nothing if it isn't tuned there."""
    if not PLAN.tuning.cells([(dataset, method)]):
        return []
    return [f"results/tuning/{dataset}/{method}/chosen.json"]


def tuned_options():
    """The files with the tuned options of all methods that are tuned."""
    cells = PLAN.tuning.cells(PLAN.reachable)
    return [path for cell in cells for path in chosen_options(*cell)]


def tuning_translations(wildcards):
    """The translations of the validation cases that tuning compares with, where its measure needs them."""
    method = PLAN.tuning.translators.get(wildcards.dataset)
    if method is None:
        return []
    return [f"results/tuning/{wildcards.dataset}/translations/{method}/run-1-of-1.json"]
