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
        "parallel": tuning.parallel,
        "share": tuning.share,
        "code": code_digest("modalign.tuning", *PLAN.modules(method)),
    }


def trial_files(wildcards, count):
    """The first trials of tuning a method on a data set."""
    folder = f"results/tuning/{wildcards.dataset}/{wildcards.method}"
    return [f"{folder}/trial-{number}.json" for number in range(count)]


def earlier_trials(wildcards):
    """The trials of the round before that of a trial, which come after those of all earlier rounds."""
    number, parallel = int(wildcards.trial), PLAN.tuning.parallel
    before = number - number % parallel
    return trial_files(wildcards, before)[max(0, before - parallel) :]


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
