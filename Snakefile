"""Entry point of the workflow: configuration, rules, and what `snakemake` makes by default.

`snakemake --cores 8` is the full reproduction (scale `paper`); `--config scale=tiny` runs
everything on small embedded data. The catalogue of what exists is `config/`.
"""

from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"
configfile: "config/scales.yaml"
configfile: "config/datasets.yaml"
configfile: "config/knowledge.yaml"
configfile: "config/tasks.yaml"
configfile: "config/models.yaml"
configfile: "config/methods.yaml"
configfile: "config/figures.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/benchmark.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"results/{PLAN.scale}/report.html",
        f"results/{PLAN.scale}/manifest.json",
