"""Write down parameters that jobs or the report read."""

from modalign.files import write_json

write_json(snakemake.output[0], snakemake.params.content)  # noqa: F821
