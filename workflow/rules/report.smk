"""Tables, figures, the report and the manifest.

Inputs: scores.tsv, runs.tsv, cells.tsv and embedding.tsv of the benchmark.
Outputs: results/{scale}/tables, results/{scale}/figures, report.html, manifest.json.
"""


rule table:
    input:
        scores=per_split("scores.tsv"),
        runs=per_split("runs.tsv"),
    output:
        scores="results/{scale}/tables/{task}_scores.tsv",
        summary=report(
            "results/{scale}/tables/{task}_summary.tsv",
            caption="../report/summary.rst",
            category="Tables",
            labels={"task": "{task}"},
        ),
        comparisons="results/{scale}/tables/{task}_comparisons.tsv",
        runs="results/{scale}/tables/{task}_runs.tsv",
    log:
        "results/{scale}/tables/{task}.log",
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).table_spec(wildcards.task),
        code=lambda wildcards: plan(wildcards).code(
            "table", *PLAN.config.tasks[wildcards.task].metrics
        ),
    shell:
        "python -m scgpt table"
        " --spec {params.spec:q}"
        " --scores {input.scores:q}"
        " --runs {input.runs:q}"
        " --all-scores {output.scores:q}"
        " --summary {output.summary:q}"
        " --comparisons {output.comparisons:q}"
        " --all-runs {output.runs:q}"
        " 2> {log:q}"


rule figure:
    input:
        figure_tables,
    output:
        pdf="results/{scale}/figures/{figure}.pdf",
        png=report(
            "results/{scale}/figures/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        tsv="results/{scale}/figures/{figure}.tsv",
    log:
        "results/{scale}/figures/{figure}.log",
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).figure_spec(wildcards.figure),
        code=lambda wildcards: plan(wildcards).code("figure", *drawing_code(wildcards)),
    shell:
        "python -m scgpt figure"
        " --spec {params.spec:q}"
        " --tables {input:q}"
        " --pdf {output.pdf:q}"
        " --png {output.png:q}"
        " --tsv {output.tsv:q}"
        " 2> {log:q}"


rule report:
    input:
        report_files,
    output:
        "results/{scale}/report.html",
    log:
        "results/{scale}/report.log",
    conda:
        "../../envs/python.yaml"
    params:
        spec=lambda wildcards: plan(wildcards).report_spec(),
        results="results/{scale}",
        code=lambda wildcards: plan(wildcards).code(
            "report", *metric_modules(wildcards)
        ),
    shell:
        "python -m scgpt report"
        " --spec {params.spec:q}"
        " --results {params.results:q}"
        " --output {output:q}"
        " 2> {log:q}"


rule manifest:
    input:
        report_files,
        "results/{scale}/report.html",
    output:
        "results/{scale}/manifest.json",
    log:
        "results/{scale}/manifest.log",
    conda:
        "../../envs/python.yaml"
    params:
        code=lambda wildcards: plan(wildcards).code("manifest"),
    shell:
        "python -m scgpt manifest"
        " --files {input:q}"
        " --output {output:q}"
        " 2> {log:q}"


rule tables:
    input:
        [f"results/{PLAN.scale}/tables/{task}_summary.tsv" for task in PLAN.tasks],


rule figures:
    input:
        [f"results/{PLAN.scale}/figures/{name}.png" for name in PLAN.figures],


for _figure in PLAN.figures:

    rule:
        name:
            _figure
        input:
            f"results/{PLAN.scale}/figures/{_figure}.png",


for _task in PLAN.tasks:

    rule:
        name:
            _task
        input:
            f"results/{PLAN.scale}/tables/{_task}_summary.tsv",
            [
                f"results/{PLAN.scale}/figures/{name}.png"
                for name in PLAN.figures
                if PLAN.config.figures[name].task == _task
            ],
