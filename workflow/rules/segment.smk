rule train_segmenter:
    input:
        cases=rules.prepare_cases.output[0],
    output:
        "results/models/{dataset}/segmenter/train.json",
    log:
        "results/logs/train_segmenter/{dataset}.log",
    benchmark:
        "results/benchmarks/train_segmenter/{dataset}.jsonl"
    retries: 2
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=8000,
        runtime=120,
    params:
        store=subpath(input.cases, parent=True),
        model=subpath(output[0], parent=True),
        options=as_argument(config["segmentation"]),
        seed=config["seed"],
        device=config["device"],
        code=code_digest("modalign.segmentation.unet", "modalign.segmentation.jobs"),
    shell:
        "python -m modalign train-segmenter {params.store:q} --model {params.model:q} --options {params.options} "
        "--seed {params.seed} --device {params.device} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule segment_cases:
    input:
        cases=rules.prepare_cases.output[0],
        runs=run_files,
        model=segmenter_model,
    output:
        "results/segmented/{dataset}/{method}/seed{seed}/segmented.json",
    log:
        "results/logs/segment_cases/{dataset}.{method}.seed{seed}.log",
    benchmark:
        "results/benchmarks/segment_cases/{dataset}.{method}.seed{seed}.jsonl"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=8000,
        runtime=240,
    params:
        store=subpath(input.cases, parent=True),
        out=subpath(output[0], parent=True),
        options=as_argument(config["segmentation"]),
        model=lambda wildcards, input: folder_option("--model", input.model),
        device=config["device"],
        code=code_digest("modalign.segmentation.*"),
    shell:
        "python -m modalign segment {params.store:q} {input.runs:q} --out {params.out:q} --options {params.options} "
        "{params.model} --device {params.device} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"
