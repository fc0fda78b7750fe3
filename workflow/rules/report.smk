rule make_table:
    input:
        metrics=lambda wildcards: metrics_of(
            PLAN.table_cells(wildcards.paper, int(wildcards.table))
        ),
        stores=lambda wildcards: stores_of(
            PLAN.table_cells(wildcards.paper, int(wildcards.table))
        ),
    output:
        multiext(
            "results/papers/{paper}/table_{table}",
            ".md",
            ".tex",
            ".csv",
            ".provenance.json",
        ),
        report(
            "results/papers/{paper}/table_{table}.html",
            caption="../report/table.rst",
            category="{paper}",
            labels={"table": "{table}"},
        ),
    log:
        "results/logs/make_table/{paper}.{table}.log",
    benchmark:
        "results/benchmarks/make_table/{paper}.{table}.jsonl"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        stem=subpath(output[0], strip_suffix=".md"),
        metrics=lambda wildcards, input: options("--metrics", input.metrics),
        stores=lambda wildcards, input: options(
            "--store", [Path(path).parent for path in input.stores]
        ),
        extra=lambda wildcards: as_argument(
            labels_of(PLAN.table_extras(wildcards.paper, int(wildcards.table)))
        ),
        methods=as_argument(sorted(PLAN.variants)),
        settings=lambda wildcards: as_argument(
            PLAN.table_settings(wildcards.paper, int(wildcards.table))
        ),
        tuned=lambda wildcards: as_argument(
            PLAN.tuning.cells(PLAN.table_cells(wildcards.paper, int(wildcards.table)))
        ),
        statistics=as_argument(config["statistics"]),
        seed=config["seed"],
        code=lambda wildcards: code_digest(
            "modalign.evaluate",
            f"modalign.papers.{wildcards.paper}",
            "modalign.report.tables",
        ),
    shell:
        "python -m modalign table {wildcards.paper} {wildcards.table} {params.metrics} {params.stores} "
        "--extra {params.extra} --methods {params.methods} --settings {params.settings} --tuned {params.tuned} "
        "--statistics {params.statistics} --seed {params.seed} --out {params.stem:q} > {log:q} 2>&1"


rule compare_methods:
    input:
        metrics=lambda wildcards: metrics_of(dataset_cells(wildcards.dataset)),
        store="results/cases/{dataset}/cases.json",
    output:
        multiext(
            "results/comparisons/{dataset}/table",
            ".md",
            ".tex",
            ".html",
            ".csv",
            ".provenance.json",
        ),
        ranking="results/comparisons/{dataset}/ranking.json",
    log:
        "results/logs/compare_methods/{dataset}.log",
    benchmark:
        "results/benchmarks/compare_methods/{dataset}.jsonl"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        store=subpath(input.store, parent=True),
        out=subpath(output.ranking, parent=True),
        labels=lambda wildcards: as_argument(
            labels_of(m for _, m in dataset_cells(wildcards.dataset))
        ),
        measures=lambda wildcards: ",".join(PLAN.measures(wildcards.dataset)),
        proposed=lambda wildcards: proposed_on(wildcards.dataset),
        statistics=as_argument(config["statistics"]),
        seed=config["seed"],
        code=code_digest(
            "modalign.evaluate",
            "modalign.report.own",
            "modalign.report.ranking",
            "modalign.report.tables",
        ),
    shell:
        "python -m modalign compare {wildcards.dataset} {params.store:q} {input.metrics:q} --labels {params.labels} "
        "--measures {params.measures} --proposed {params.proposed} --statistics {params.statistics} "
        "--seed {params.seed} --out {params.out:q} > {log:q} 2>&1"


rule make_figures:
    input:
        runs=lambda wildcards: shown_runs(wildcards.dataset),
        metrics=lambda wildcards: metrics_of(dataset_cells(wildcards.dataset)),
        store="results/cases/{dataset}/cases.json",
        ranking="results/comparisons/{dataset}/ranking.json",
        segmented=lambda wildcards: shown_segmentations(wildcards.dataset),
    output:
        report(
            "results/figures/{dataset}/panels.png",
            caption="../report/figures.rst",
            category="Figures",
            labels={"data set": "{dataset}"},
        ),
        list="results/figures/{dataset}/figures.json",
    log:
        "results/logs/make_figures/{dataset}.log",
    benchmark:
        "results/benchmarks/make_figures/{dataset}.jsonl"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        store=subpath(input.store, parent=True),
        out=subpath(output.list, parent=True),
        runs=lambda wildcards, input: as_argument(folders_of(input.runs)),
        segmented=lambda wildcards, input: as_argument(
            segmented_folders(input.segmented)
        ),
        seed=config["seed"],
        code=code_digest("modalign.report.figures"),
    shell:
        "python -m modalign figures {params.store:q} {input.metrics:q} --runs {params.runs} --ranking {input.ranking:q} "
        "--segmented {params.segmented} --seed {params.seed} --out {params.out:q} > {log:q} 2>&1"


rule describe_run:
    output:
        "results/plan.json",
    log:
        "results/logs/describe_run.log",
    localrule: True
    conda:
        "../../envs/core.yaml"
    params:
        content=describe_plan(PLAN, config),
    script:
        "../scripts/write_json.py"


rule make_report:
    input:
        tables=[
            f"results/papers/{paper}/table_{number}.{form}"
            for paper, number in PLAN.tables
            for form in TABLE_FORMS
        ],
        comparisons=expand(
            "results/comparisons/{dataset}/table.html", dataset=PLAN.compared
        ),
        figures=expand("results/figures/{dataset}/figures.json", dataset=PLAN.compared),
        pictures=[
            path for paper in PLAN.papers for path in paper_pictures(paper, PLAN.cells)
        ],
        plan=rules.describe_run.output[0],
    output:
        report("results/report.html", caption="../report/report.rst", category="Report"),
    log:
        "results/logs/make_report.log",
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        results=subpath(output[0], parent=True),
        code=code_digest("modalign.report.page"),
    shell:
        "python -m modalign report {params.results:q} --plan {input.plan:q} --out {output:q} > {log:q} 2>&1"
