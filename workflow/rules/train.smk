rule train_method:
    input:
        cases=rules.prepare_cases.output[0],
        needs=needed_models,
    output:
        "results/models/{dataset}/{method}/seed{seed}/train.json",
    log:
        "results/logs/train_method/{dataset}.{method}.seed{seed}.log",
    benchmark:
        "results/benchmarks/train_method/{dataset}.{method}.seed{seed}.jsonl"
    # Long chains of trainings begin first, so that none is left over when all else is done.
    priority: lambda wildcards: 10 * PLAN.trainings_from(wildcards.dataset, wildcards.method)
    retries: 2
    conda:
        "../../envs/torch.yaml"
    threads: lambda wildcards: PLAN.variants[wildcards.method].threads
    resources:
        gpu=training_gpus,
        # A training that was killed for memory gets twice as much.
        mem_mb=lambda wildcards, attempt: 16000 * 2 ** (attempt - 1),
        runtime=training_minutes,
        limit=time_limit,
    params:
        store=subpath(input.cases, parent=True),
        # Weights and checkpoints stay undeclared in this folder, so that a killed training continues.
        model=subpath(output[0], parent=True),
        spec=spec_argument,
        device=config["device"],
        code=lambda wildcards: code_digest(
            "modalign.runs", *PLAN.modules(wildcards.method)
        ),
    shell:
        "python -m modalign train {params.store:q} --spec {params.spec} --model {params.model:q} "
        "--seed {wildcards.seed} --device {params.device} --threads {threads} --gpus {resources.gpu} "
        "--time-limit {resources.limit} > {log:q} 2>&1"
