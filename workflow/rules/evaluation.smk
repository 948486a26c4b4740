# REQUIRED INPUTS: results/predictions/{segmenter}/{arm}/{size}/, results/cases/{case}/, results/cohort.tsv
# OUTPUTS:         results/scores/, results/comparison/, results/figures/, results/report.html


rule score:
    """Measure every prediction of an arm: one row per case and replicate."""
    input:
        predictions="results/predictions/{segmenter}/{arm}/{size}",
        cohort="results/cohort.tsv",
        cases=cases("validation", "test"),
    output:
        "results/scores/{segmenter}/{arm}/{size}.tsv",
    log:
        "results/logs/score/{segmenter}/{arm}/{size}.log",
    params:
        code=code_of("evaluation", "score"),
    shell:
        "lungsyn evaluation score --predictions {input.predictions} --cohort {input.cohort} --cases {input.cases}"
        " --out {output} > {log} 2>&1"


def scores(wildcards):
    """The score tables of a segmenter's arms at one training-set size, in the config's order."""
    segmenter, size = wildcards.segmenter, wildcards.size
    return [f"results/scores/{segmenter}/{arm}/{size}.tsv" for arm in STUDY.arms_of(segmenter)]


def all_scores(wildcards):
    """The score tables of a segmenter's arms at every size."""
    segmenter = wildcards.segmenter
    return [
        f"results/scores/{segmenter}/{arm}/{size}.tsv"
        for size in STUDY.sizes_of(segmenter)
        for arm in STUDY.arms_of(segmenter)
    ]


def benchmark_scores(wildcards):
    """The score tables that find the worst validation cases, at every size of a segmenter."""
    return [BENCHMARK_SCORES.format(size=size) for size in STUDY.sizes_of(wildcards.segmenter)]


rule compare:
    """Paired differences of every arm to the benchmark arm, per group of cases."""
    input:
        scores=all_scores,
        benchmark=benchmark_scores,
    output:
        "results/comparison/{segmenter}.tsv",
    log:
        "results/logs/compare/{segmenter}.log",
    params:
        code=code_of("evaluation", "compare"),
        evaluation=settings(STUDY.evaluation),
        benchmark=settings(STUDY.benchmark),
        seed=SEED,
    shell:
        "lungsyn evaluation compare --scores {input.scores} --benchmark-scores {input.benchmark}"
        " --benchmark '{params.benchmark}' --evaluation '{params.evaluation}' --seed {params.seed} --out {output}"
        " > {log} 2>&1"


rule plot_difference:
    """THE figure: per-case Dice difference to the benchmark arm."""
    input:
        scores=scores,
        benchmark=BENCHMARK_SCORES,
        comparison="results/comparison/{segmenter}.tsv",
    output:
        "results/figures/dice_difference-{segmenter}-{size}.png",
    log:
        "results/logs/plot_difference/{segmenter}/{size}.log",
    params:
        code=code_of("evaluation", "plot-difference"),
        benchmark=settings(STUDY.benchmark),
        null_arms=[name for name, arm in STUDY.arms.items() if arm.reseeded],
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-difference --scores {input.scores} --benchmark-scores {input.benchmark}"
        " --comparison {input.comparison} --benchmark '{params.benchmark}' --null-arms {params.null_arms}"
        " --study '{params.study}' --figures '{params.figures}' --out {output} > {log} 2>&1"


rule plot_case:
    """One test case, chosen by rule, with every replicate's contour for two arms."""
    input:
        scores=lambda w: [f"results/scores/{w.segmenter}/{arm}/{w.size}.tsv" for arm in STUDY.figures.case_arms],
        predictions=lambda w: [f"results/predictions/{w.segmenter}/{arm}/{w.size}" for arm in STUDY.figures.case_arms],
        cases=cases("test"),
    output:
        "results/figures/case-{segmenter}-{size}.png",
    log:
        "results/logs/plot_case/{segmenter}/{size}.log",
    params:
        code=code_of("evaluation", "plot-case"),
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-case --scores {input.scores} --predictions {input.predictions} --cases {input.cases}"
        " --study '{params.study}' --figures '{params.figures}' --out {output} > {log} 2>&1"


rule contact_sheet:
    """Random synthetic cases with their masks beside random real ones."""
    input:
        real=cases("train"),
        synthetic=lambda w: batches(w.set, w.size),
    output:
        "results/figures/contact_sheet-{set}-{size}.png",
    log:
        "results/logs/contact_sheet/{set}/{size}.log",
    params:
        code=code_of("evaluation", "contact-sheet"),
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation contact-sheet --real {input.real} --synthetic {input.synthetic} --study '{params.study}'"
        " --figures '{params.figures}' --out {output} > {log} 2>&1"


def curves(wildcards):
    """Loss curves of everything that was trained."""
    generators = [f"results/generator/{name}/{size}/training.jsonl" for name, size in USED_GENERATORS]
    return generators + [
        f"results/segmentation/{segmenter}/{arm}/{size}/{replicate}/training.jsonl"
        for segmenter, size in COMPARED
        for arm in STUDY.arms_of(segmenter)
        for replicate in range(STUDY.replicates)
    ]


rule plot_training:
    """Loss curves of generators and segmenters."""
    input:
        curves,
    output:
        "results/figures/training.png",
    log:
        "results/logs/plot_training.log",
    params:
        code=code_of("evaluation", "plot-training"),
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-training --curves {input} --study '{params.study}' --figures '{params.figures}'"
        " --out {output} > {log} 2>&1"


# The main figure comes first: the benchmark's segmenter, trained on all there is.
MAIN_FIRST = sorted(COMPARED, key=lambda pair: (pair[0] != STUDY.benchmark.segmenter, -pair[1]))
CASE_PICTURES = [
    f"results/figures/case-{segmenter}-{size}.png"
    for segmenter, size in MAIN_FIRST
    if set(STUDY.figures.case_arms) <= set(STUDY.arms_of(segmenter))
]


rule report:
    """Everything on one page that opens anywhere."""
    input:
        cohort="results/cohort.tsv",
        comparisons=expand("results/comparison/{segmenter}.tsv", segmenter=STUDY.segmenters),
        differences=[f"results/figures/dice_difference-{segmenter}-{size}.png" for segmenter, size in MAIN_FIRST],
        case_pictures=CASE_PICTURES,
        sheets=[f"results/figures/contact_sheet-{name}-{size}.png" for name, size in USED_SETS],
        training="results/figures/training.png",
    output:
        report="results/report.html",
        figure="results/figures/dice_difference.png",
    log:
        "results/logs/report.log",
    params:
        code=code_of("evaluation", "report"),
        config=study_config.as_json(STUDY, without={"compute"}),
    shell:
        "lungsyn evaluation report --config '{params.config}' --cohort {input.cohort} --comparisons {input.comparisons}"
        " --differences {input.differences} --case-pictures {input.case_pictures} --sheets {input.sheets}"
        " --training {input.training} --main-figure {output.figure} --out {output.report} > {log} 2>&1"
