"""Data sets: from their source to one checked file each.

Inputs: config/datasets.yaml.
Outputs: results/{scale}/datasets/{dataset}.h5ad (C1) and its card {dataset}.json.
"""


rule dataset:
    output:
        data="results/{scale}/datasets/{dataset}.h5ad",
        card="results/{scale}/datasets/{dataset}.json",
    log:
        "results/{scale}/datasets/{dataset}.log",
    benchmark:
        "results/{scale}/datasets/{dataset}.resources.tsv"
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).dataset_spec(wildcards.dataset),
        code=lambda wildcards: plan(wildcards).code(
            "dataset", PLAN.config.datasets[wildcards.dataset].reader
        ),
    shell:
        "python -m scgpt dataset"
        " --spec {params.spec:q}"
        " --output {output.data:q}"
        " --card {output.card:q}"
        " 2> {log:q}"


rule datasets:
    input:
        [f"results/{PLAN.scale}/datasets/{name}.h5ad" for name in PLAN.datasets()],
