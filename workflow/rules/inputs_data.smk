from modalign.datasets.watch import csv_of, folder_stamp


def reader_of(wildcards):
    """Name and options of the reader of a data set."""
    entry = PLAN.datasets[wildcards.dataset]
    return entry["reader"], entry.get("options", {})


def scans_stamp(wildcards):
    """What changes if scans in a folder of the user's own are replaced, added or removed."""
    source = PLAN.archives[PLAN.datasets[wildcards.dataset]["archive"]]["source"]
    if source in ("phantom", "download"):
        return ""
    return folder_stamp(Path(source), *reader_of(wildcards))


def archive_ready(wildcards):
    """The file that says that an archive is complete, or the CSV that names the user's own pairs."""
    name = PLAN.datasets[wildcards.dataset]["archive"]
    source = PLAN.archives[name]["source"]
    if source in ("phantom", "download"):
        return f"results/archives/{source}/{name}/modalign-{source}.json"
    csv = csv_of(Path(source), *reader_of(wildcards))
    return str(csv) if csv else []


def urgency_of_dataset(wildcards):
    """Data come first, and among them those on which most trainings have to follow one another."""
    return 100 + PLAN.trainings_on(wildcards.dataset)


def urgency_of_archive(wildcards):
    """That of the most urgent data set that is read from an archive."""
    return 100 + max(
        PLAN.trainings_on(name)
        for name, entry in PLAN.datasets.items()
        if entry["archive"] == wildcards.archive
    )
