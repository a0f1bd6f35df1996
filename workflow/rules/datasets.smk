"""Data sets, models and knowledge bases: from their source to one checked artefact each.

Inputs: config/datasets.yaml, config/models.yaml, config/knowledge.yaml.
Outputs: results/raw/{resource}/ (public files, shared by all scales) or, at a scale that rehearses
with twins, results/{scale}/twins/{resource}/ and results/{scale}/raw/{resource}/, each with a
record {resource}.json; results/{scale}/models/{model}/ (C3), whatever made the model;
results/{scale}/datasets/{dataset}.h5ad (C1), its card {dataset}.json and
{dataset}.split.tsv, which says what is in which published part;
results/{scale}/knowledge/{knowledge}.tsv and its card; results/{scale}/data_cards.html.

The records are what the rules declare, not the folders: Snakemake deletes the outputs of a failed
job, and an interrupted download must stay to be continued.
"""

RETRIEVED = [name for name, block in PLAN.catalogue.resources.items() if block.retrieve]


localrules:
    fetch,
    retrieve,


# No `code` here: what a public file is does not depend on how it was fetched.
rule fetch:
    output:
        "results/raw/{resource}.json",
    log:
        "results/raw/{resource}.log",
    wildcard_constraints:
        resource=one_of(
            [name for name in PLAN.catalogue.resources if name not in RETRIEVED]
        ),
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: PLAN.catalogue.fetch_spec(
            wildcards.resource, public=True
        ),
        folder="results/raw/{resource}",
        lock="config/downloads.lock",
    shell:
        "python -m scgpt fetch"
        " --spec {params.spec:q}"
        " --folder {params.folder:q}"
        " --record {output:q}"
        " --lock {params.lock:q}"
        " 2> {log:q}"


# What is queried from a database needs the database's own client, which excludes other packages.
use rule fetch as retrieve with:
    wildcard_constraints:
        resource=one_of(RETRIEVED),
    conda:
        "../../envs/census.yaml"


rule twin:
    output:
        "results/{scale}/twins/{resource}.json",
    log:
        "results/{scale}/twins/{resource}.log",
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).catalogue.twin_spec(wildcards.resource),
        folder="results/{scale}/twins/{resource}",
        code=lambda wildcards: plan(wildcards).code(
            "twin", plan(wildcards).catalogue.twin_entry(wildcards.resource)
        ),
    shell:
        "python -m scgpt twin"
        " --spec {params.spec:q}"
        " --folder {params.folder:q}"
        " --record {output:q}"
        " 2> {log:q}"


rule fetch_twin:
    input:
        "results/{scale}/twins/{resource}.json",
    output:
        "results/{scale}/raw/{resource}.json",
    log:
        "results/{scale}/raw/{resource}.log",
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).catalogue.fetch_spec(wildcards.resource),
        twin=twin_folder,
        folder="results/{scale}/raw/{resource}",
        code=lambda wildcards: plan(wildcards).code("fetch"),
    shell:
        "python -m scgpt fetch"
        " --spec {params.spec:q}"
        " --twin {params.twin:q}"
        " --folder {params.folder:q}"
        " --record {output:q}"
        " --lock {params.folder:q}.lock"
        " 2> {log:q}"


rule dataset:
    input:
        dataset_records,
    output:
        data="results/{scale}/datasets/{dataset}.h5ad",
        card="results/{scale}/datasets/{dataset}.json",
        split="results/{scale}/datasets/{dataset}.split.tsv",
    log:
        "results/{scale}/datasets/{dataset}.log",
    benchmark:
        "results/{scale}/datasets/{dataset}.resources.tsv"
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).dataset_spec(wildcards.dataset),
        raw=raw_flags,
        code=lambda wildcards: plan(wildcards).code(
            "dataset", PLAN.config.datasets[wildcards.dataset].reader
        ),
    shell:
        "python -m scgpt dataset"
        " --spec {params.spec:q}"
        " {params.raw}"
        " --output {output.data:q}"
        " --card {output.card:q}"
        " --split {output.split:q}"
        " 2> {log:q}"


rule model:
    input:
        lambda wildcards: plan(wildcards).catalogue.model_source(wildcards.model),
    output:
        config="results/{scale}/models/{model}/config.json",
        vocab="results/{scale}/models/{model}/vocab.json",
        weights="results/{scale}/models/{model}/weights.safetensors",
        card="results/{scale}/models/{model}/card.json",
    log:
        "results/{scale}/models/{model}.log",
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).catalogue.model_spec(wildcards.model),
        folder=subpath(output.config, parent=True),
        code=lambda wildcards: plan(wildcards).code("model"),
    shell:
        "python -m scgpt model"
        " --spec {params.spec:q}"
        " --folder {params.folder:q}"
        " 2> {log:q}"


rule knowledge:
    input:
        lambda wildcards: plan(wildcards).catalogue.record(wildcards.knowledge),
    output:
        table="results/{scale}/knowledge/{knowledge}.tsv",
        card="results/{scale}/knowledge/{knowledge}.json",
    log:
        "results/{scale}/knowledge/{knowledge}.log",
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).catalogue.knowledge_spec(
            wildcards.knowledge
        ),
        raw=lambda wildcards: plan(wildcards).catalogue.folder(wildcards.knowledge),
        code=lambda wildcards: plan(wildcards).code(
            "knowledge", PLAN.config.knowledge[wildcards.knowledge].reader
        ),
    shell:
        "python -m scgpt knowledge"
        " --spec {params.spec:q}"
        " --raw {params.raw:q}"
        " --record {input:q}"
        " --output {output.table:q}"
        " --card {output.card:q}"
        " 2> {log:q}"


rule data_cards:
    input:
        card_files,
    output:
        "results/{scale}/data_cards.html",
    log:
        "results/{scale}/data_cards.log",
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).cards_spec(),
        results="results/{scale}",
        code=lambda wildcards: plan(wildcards).code("data_cards"),
    shell:
        "python -m scgpt data-cards"
        " --spec {params.spec:q}"
        " --results {params.results:q}"
        " --output {output:q}"
        " 2> {log:q}"


rule datasets:
    input:
        f"results/{PLAN.scale}/data_cards.html",
