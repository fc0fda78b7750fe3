rule describe_search:
    output:
        "results/tuning/{dataset}/{method}/search.json",
    log:
        "results/logs/describe_search/{dataset}.{method}.log",
    localrule: True
    conda:
        "../../envs/core.yaml"
    params:
        content=search_of,
    script:
        "../scripts/write_json.py"


rule tune_trials:
    input:
        cases=rules.prepare_cases.output[0],
        models=models_of,
        search="results/tuning/{dataset}/{method}/search.json",
        earlier=earlier_trials,
        pseudo=tuning_translations,
    output:
        "results/tuning/{dataset}/{method}/trials-{batch}.json",
    log:
        "results/logs/tune_trials/{dataset}.{method}.{batch}.log",
    benchmark:
        "results/benchmarks/tune_trials/{dataset}.{method}.{batch}.jsonl"
    retries: 2
    conda:
        "../../envs/torch.yaml"
    threads: lambda wildcards: PLAN.variants[wildcards.method].threads
    resources:
        gpu=lambda wildcards: GPU * uses_gpu(wildcards.method),
        # Whole heads need more than most: a trial that was killed for memory gets twice as much.
        mem_mb=lambda wildcards, attempt: 8000 * 2 ** (attempt - 1),
        runtime=batch_minutes,
        limit=time_limit,
    params:
        trials=lambda wildcards: PLAN.tuning.trials_in(int(wildcards.batch)),
        store=subpath(input.cases, parent=True),
        pseudo=lambda wildcards, input: folder_option("--pseudo", input.pseudo),
        seed=config["seed"],
        device=config["device"],
    shell:
        "python -m modalign tune-trials {params.store:q} {input.search:q} --batch {wildcards.batch} "
        "--count {params.trials} {params.pseudo} "
        "--seed {params.seed} --device {params.device} --threads {threads} --gpus {resources.gpu} "
        "--time-limit {resources.limit} --out {output:q} > {log:q} 2>&1"


# The translations of the validation cases alone: tuning reads nothing of the test split.
rule translate_validation:
    input:
        cases=rules.prepare_cases.output[0],
        models=models_of,
    output:
        "results/tuning/{dataset}/translations/{method}/run-1-of-1.json",
    log:
        "results/logs/translate_validation/{dataset}.{method}.log",
    retries: 1
    conda:
        "../../envs/torch.yaml"
    threads: lambda wildcards: PLAN.variants[wildcards.method].threads
    resources:
        gpu=GPU,
        mem_mb=8000,
        runtime=60,
    params:
        store=subpath(input.cases, parent=True),
        out=subpath(output[0], parent=True),
        spec=spec_argument,
        model=model_option,
        seed=lambda wildcards: PLAN.variants[wildcards.method].seeds[0],
        device=config["device"],
        code=lambda wildcards: code_digest(
            "modalign.runs", *PLAN.modules(wildcards.method)
        ),
    shell:
        "python -m modalign align-cases {params.store:q} --spec {params.spec} --out {params.out:q} {params.model} "
        "--splits validation --seed {params.seed} --device {params.device} --threads {threads} --gpus {resources.gpu} "
        "> {log:q} 2>&1"


rule choose_options:
    input:
        trials=lambda wildcards: batches_of_trials(wildcards, PLAN.tuning.batches),
        search="results/tuning/{dataset}/{method}/search.json",
    output:
        "results/tuning/{dataset}/{method}/chosen.json",
    log:
        "results/logs/choose_options/{dataset}.{method}.log",
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        seed=config["seed"],
    shell:
        "python -m modalign choose-options {input.search:q} {input.trials:q} "
        "--seed {params.seed} --out {output:q} > {log:q} 2>&1"
