rule align_cases:
    input:
        cases=rules.prepare_cases.output[0],
        models=models_of,
        tuned=lambda wildcards: chosen_options(wildcards.dataset, wildcards.method),
    output:
        "results/aligned/{dataset}/{method}/seed{seed}/run-{shard}.json",
    log:
        "results/logs/align_cases/{dataset}.{method}.seed{seed}.{shard}.log",
    benchmark:
        "results/benchmarks/align_cases/{dataset}.{method}.seed{seed}.{shard}.jsonl"
    retries: 1
    conda:
        "../../envs/torch.yaml"
    threads: lambda wildcards: PLAN.variants[wildcards.method].threads
    resources:
        gpu=lambda wildcards: GPU * uses_gpu(wildcards.method),
        mem_mb=lambda wildcards, attempt: 8000 * 2 ** (attempt - 1),
        runtime=alignment_minutes,
        limit=time_limit,
    params:
        store=subpath(input.cases, parent=True),
        splits=lambda wildcards: ",".join(
            PLAN.splits((wildcards.dataset, wildcards.method))
        ),
        out=subpath(output[0], parent=True),
        spec=spec_argument,
        model=model_option,
        tuned=lambda wildcards, input: f"--tuned {input.tuned}" if input.tuned else "",
        device=config["device"],
        code=lambda wildcards: code_digest(
            "modalign.runs", *PLAN.modules(wildcards.method)
        ),
    shell:
        "python -m modalign align-cases {params.store:q} --spec {params.spec} --out {params.out:q} {params.model} {params.tuned} "
        "--splits {params.splits} --shard {wildcards.shard} --seed {wildcards.seed} --device {params.device} "
        "--threads {threads} --gpus {resources.gpu} --time-limit {resources.limit} > {log:q} 2>&1"
