"""The benchmark: split, predict, score, for every job of the Plan.

Inputs: results/{scale}/datasets/{dataset}.h5ad (C1).
Outputs: data.h5ad and truth.h5ad per split (C2); prediction.h5ad (C5), run.json (C8) and
the tables that figures draw (cells.tsv, ...) per drawn job; scores.tsv (C6) and runs.tsv per split.
Beside each prediction lies metrics.tsv, its own scores: a job that did not change is not scored again.
"""


rule task_data:
    input:
        "results/{scale}/datasets/{dataset}.h5ad",
    output:
        data="results/{scale}/{task}/{dataset}/{split}/data.h5ad",
        truth="results/{scale}/{task}/{dataset}/{split}/truth.h5ad",
        card="results/{scale}/{task}/{dataset}/{split}/split.json",
    log:
        "results/{scale}/{task}/{dataset}/{split}/task_data.log",
    benchmark:
        "results/{scale}/{task}/{dataset}/{split}/task_data.resources.tsv"
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).task_spec(
            wildcards.task, wildcards.dataset, wildcards.split
        ),
        code=lambda wildcards: plan(wildcards).code("task_data", task_module(wildcards)),
    shell:
        "python -m scgpt task-data"
        " --spec {params.spec:q}"
        " --dataset {input:q}"
        " --data {output.data:q}"
        " --truth {output.truth:q}"
        " --card {output.card:q}"
        " 2> {log:q}"


rule predict:
    input:
        unpack(method_inputs),
    output:
        prediction="results/{scale}/{task}/{dataset}/{split}/{method}/seed-{seed}/prediction.h5ad",
        run="results/{scale}/{task}/{dataset}/{split}/{method}/seed-{seed}/run.json",
    log:
        "results/{scale}/{task}/{dataset}/{split}/{method}/seed-{seed}/predict.log",
    benchmark:
        "results/{scale}/{task}/{dataset}/{split}/{method}/seed-{seed}/resources.tsv"
    conda:
        "../../envs/python.yaml"
    threads: lambda wildcards: method_of(wildcards).threads
    resources:
        gpu=lambda wildcards: method_of(wildcards).gpus,
    params:
        spec=lambda wildcards: plan(wildcards).method_spec(
            wildcards.task, wildcards.method
        ),
        code=lambda wildcards: plan(wildcards).code(
            "predict", method_of(wildcards).tasks[wildcards.task]
        ),
        module=task_module,
        flags=method_flags,
    shell:
        "python -m scgpt predict"
        " --spec {params.spec:q}"
        " --seed {wildcards.seed}"
        " --data {input.data:q}"
        " {params.flags}"
        " --task-module {params.module}"
        " --threads {threads}"
        " --code {params.code}"
        " --output {output.prediction:q}"
        " --record {output.run:q}"
        " 2> {log:q}"


rule score:
    input:
        job_files,
        truth="results/{scale}/{task}/{dataset}/{split}/truth.h5ad",
    output:
        scores="results/{scale}/{task}/{dataset}/{split}/scores.tsv",
        runs="results/{scale}/{task}/{dataset}/{split}/runs.tsv",
    log:
        "results/{scale}/{task}/{dataset}/{split}/score.log",
    benchmark:
        "results/{scale}/{task}/{dataset}/{split}/score.resources.tsv"
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).score_spec(wildcards.task),
        jobs=job_folders,
        code=lambda wildcards: plan(wildcards).code(
            "score", task_module(wildcards), *PLAN.config.tasks[wildcards.task].metrics
        ),
    shell:
        "python -m scgpt score"
        " --spec {params.spec:q}"
        " --jobs {params.jobs:q}"
        " --truth {input.truth:q}"
        " --code {params.code}"
        " --scores {output.scores:q}"
        " --runs {output.runs:q}"
        " 2> {log:q}"


rule coordinates:
    input:
        data="results/{scale}/{task}/{dataset}/{split}/data.h5ad",
        truth="results/{scale}/{task}/{dataset}/{split}/truth.h5ad",
        prediction="results/{scale}/{task}/{dataset}/{split}/{method}/seed-{seed}/prediction.h5ad",
    output:
        "results/{scale}/{task}/{dataset}/{split}/{method}/seed-{seed}/{drawn}.tsv",
    log:
        "results/{scale}/{task}/{dataset}/{split}/{method}/seed-{seed}/{drawn}.log",
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).coordinates_spec(wildcards.task),
        code=lambda wildcards: plan(wildcards).code(
            "coordinates", task_module(wildcards)
        ),
    shell:
        "python -m scgpt coordinates"
        " --spec {params.spec:q}"
        " --data {input.data:q}"
        " --truth {input.truth:q}"
        " --prediction {input.prediction:q}"
        " --table {wildcards.drawn}"
        " --output {output:q}"
        " --threads {threads}"
        " 2> {log:q}"
