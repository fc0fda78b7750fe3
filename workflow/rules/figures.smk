rule make_paper_figure:
    input:
        runs=lambda wildcards: [
            path
            for cell in sorted(figure_of(wildcards).cells)
            for path in first_runs(*cell)
        ],
        metrics=lambda wildcards: metrics_of(sorted(figure_of(wildcards).cells)),
        stores=lambda wildcards: stores_of(figure_of(wildcards).cells),
        segmented=lambda wildcards: segmentations_in(
            figure_of(wildcards), figure_of(wildcards).rows
        ),
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
        rows=lambda wildcards: as_argument(figure_rows(wildcards)),
        stem=subpath(output.note, strip_suffix=".json"),
        seed=config["seed"],
        code=lambda wildcards: code_digest(
            "modalign.report.paper_figures",
            figure_of(wildcards).function.split(":")[0],
        ),
    shell:
        "python -m modalign paper-figure {wildcards.paper} {wildcards.figure} --rows {params.rows} "
        "--seed {params.seed} --out {params.stem:q} > {log:q} 2>&1"
