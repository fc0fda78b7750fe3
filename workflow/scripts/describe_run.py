"""Write down what the run makes, for the report."""

from modalign.files import write_json

write_json(snakemake.output[0], snakemake.params.plan)  # noqa: F821
