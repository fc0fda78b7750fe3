from snakemake.utils import min_version

min_version("9.20")


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


# A GPU limit counts per machine: on a cluster it must not throttle the submitted jobs.
resource_scopes:
    gpu="local",


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs_tuning.smk"
include: "workflow/rules/inputs_figures.smk"
include: "workflow/rules/inputs_segment.smk"
include: "workflow/rules/inputs_data.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/tune.smk"
include: "workflow/rules/align.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "results/report.html",


rule rbg:
    input:
        paper_results("rbg"),


rule registformer:
    input:
        paper_results("registformer"),


rule locor:
    input:
        paper_results("locor"),


rule tune:
    input:
        tuned_options(),


rule imse:
    input:
        paper_results("imse"),


rule cao2018:
    input:
        paper_results("cao2018"),


rule ablations:
    input:
        ablation_tables(),
