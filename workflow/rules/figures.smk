rule make_paper_figure:
    input:
        runs=figure_runs,
        store=lambda wildcards: f"results/cases/{figure_of(wildcards).dataset}/cases.json",
    output:
        report(
            "results/papers/{paper}/figure_{figure}.png",
            caption="../report/paper_figure.rst",
            category="{paper}",
            labels={"figure": "{figure}"},
        ),
        "results/papers/{paper}/figure_{figure}.pdf",
        note="results/papers/{paper}/figure_{figure}.json",
    log:
        "results/logs/make_paper_figure/{paper}.{figure}.log",
    benchmark:
        "results/benchmarks/make_paper_figure/{paper}.{figure}.jsonl"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        store=subpath(input.store, parent=True),
        aligned=lambda wildcards, input: Path(input.runs[0]).parent,
        stem=subpath(output.note, strip_suffix=".json"),
        seed=config["seed"],
        code=lambda wildcards: code_digest(
            "modalign.report.paper_figures",
            figure_of(wildcards).function.split(":")[0],
        ),
    shell:
        "python -m modalign paper-figure {wildcards.paper} {wildcards.figure} {params.store:q} {params.aligned:q} "
        "--seed {params.seed} --out {params.stem:q} > {log:q} 2>&1"
