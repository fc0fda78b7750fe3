rule measure_cases:
    input:
        cases=rules.prepare_cases.output[0],
        runs=run_files,
        pseudo=pseudo_images,
        segmented=segmented_images,
    output:
        table="results/metrics/{dataset}/{method}/seed{seed}.tsv",
        notes="results/metrics/{dataset}/{method}/seed{seed}.json",
    log:
        "results/logs/measure_cases/{dataset}.{method}.seed{seed}.log",
    benchmark:
        "results/benchmarks/measure_cases/{dataset}.{method}.seed{seed}.jsonl"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        store=subpath(input.cases, parent=True),
        splits=lambda wildcards: ",".join(
            PLAN.splits((wildcards.dataset, wildcards.method))
        ),
        measures=lambda wildcards: ",".join(PLAN.measures(wildcards.dataset)),
        options=lambda wildcards: as_argument(measure_options(wildcards.dataset)),
        features=as_argument(config["features"]),
        pseudo=lambda wildcards, input: folder_option("--pseudo", input.pseudo),
        segmented=lambda wildcards, input: folder_option("--segmented", input.segmented),
        code=code_digest("modalign.metrics.*"),
    shell:
        "python -m modalign measure {params.store:q} {input.runs:q} --method {wildcards.method} "
        "--seed {wildcards.seed} --splits {params.splits} --measures {params.measures} --options {params.options} "
        "--features {params.features} {params.pseudo} {params.segmented} --out {output.table:q} --workers {threads} "
        "> {log:q} 2>&1"
