rule make_phantom:
    output:
        "results/archives/phantom/{archive}/modalign-phantom.json",
    log:
        "results/logs/make_phantom/{archive}.log",
    benchmark:
        "results/benchmarks/make_phantom/{archive}.jsonl"
    priority: urgency_of_archive
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        folder=subpath(output[0], parent=True),
        patients=lambda wildcards: PLAN.phantom(wildcards.archive)["patients"],
        size=lambda wildcards: " ".join(
            map(str, PLAN.phantom(wildcards.archive)["size"])
        ),
        seed=config["seed"],
        code=lambda wildcards: code_digest(
            "modalign.phantoms.archives", PLAN.phantom_module(wildcards.archive)
        ),
    shell:
        "rm -rf {params.folder:q} && "
        "python -m modalign phantom {wildcards.archive} --out {params.folder:q} --patients {params.patients} "
        "--size {params.size} --seed {params.seed} --workers {threads} > {log:q} 2>&1"


rule fetch_archive:
    output:
        "results/archives/download/{archive}/modalign-download.json",
    log:
        "results/logs/fetch_archive/{archive}.log",
    benchmark:
        "results/benchmarks/fetch_archive/{archive}.jsonl"
    retries: 3
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=720,
    params:
        # Not the output's folder: Snakemake would not keep a partial download there.
        folder=subpath(output[0], parent=True),
        licence=lambda wildcards: (
            "--accept-licence"
            if config["archives"][wildcards.archive]["accept_licence"]
            else ""
        ),
    shell:
        "python -m modalign fetch {wildcards.archive} --out {params.folder:q} {params.licence} > {log:q} 2>&1"


rule index_cases:
    input:
        archive_ready,
    output:
        cases="results/data/{dataset}/cases.tsv",
        dataset="results/data/{dataset}/dataset.json",
    log:
        "results/logs/index_cases/{dataset}.log",
    benchmark:
        "results/benchmarks/index_cases/{dataset}.jsonl"
    priority: urgency_of_dataset
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        out=subpath(output.cases, parent=True),
        folder=archive_folder,
        scans=scans_stamp,
        reader=lambda wildcards: reader_of(wildcards)[0],
        options=lambda wildcards: as_argument(reader_of(wildcards)[1]),
        split=lambda wildcards: as_argument(
            PLAN.datasets[wildcards.dataset].get("split")
        ),
        seed=config["seed"],
        code=code_digest("modalign.datasets.*"),
    shell:
        "python -m modalign index {wildcards.dataset} --reader {params.reader} --folder {params.folder:q} "
        "--out {params.out:q} --options {params.options} --split {params.split} --seed {params.seed} "
        "--workers {threads} > {log:q} 2>&1"


rule prepare_cases:
    input:
        rules.index_cases.output.cases,
    output:
        "results/cases/{dataset}/cases.json",
    log:
        "results/logs/prepare_cases/{dataset}.log",
    benchmark:
        "results/benchmarks/prepare_cases/{dataset}.jsonl"
    priority: urgency_of_dataset
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=480,
    params:
        index=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        recipe=lambda wildcards: PLAN.datasets[wildcards.dataset]["recipe"],
        overrides=lambda wildcards: as_argument(PLAN.overrides(wildcards.dataset)),
        seed=config["seed"],
        code=code_digest("modalign.preprocess.*"),
    shell:
        "python -m modalign prepare {params.index:q} --recipe {params.recipe} --out {params.out:q} "
        "--overrides {params.overrides} --seed {params.seed} --workers {threads} > {log:q} 2>&1"
