# REQUIRED INPUTS: results/predictions/{segmenter}/{arm}/, results/cases/{case}/, results/cohort.tsv
# OUTPUTS:         results/scores/, results/comparison/, results/figures/, results/report.html


rule score:
    """Measure every prediction of an arm: one row per case and replicate."""
    input:
        predictions="results/predictions/{segmenter}/{arm}",
        cohort="results/cohort.tsv",
        cases=cases("validation", "test"),
    output:
        "results/scores/{segmenter}/{arm}.tsv",
    log:
        "results/logs/score/{segmenter}/{arm}.log",
    shell:
        "lungsyn evaluation score --predictions {input.predictions} --cohort {input.cohort} --cases {input.cases}"
        " --out {output} > {log} 2>&1"


def scores(segmenter):
    """The score tables of all arms, in the config's order."""
    return [f"results/scores/{segmenter}/{arm}.tsv" for arm in STUDY.arms]


rule compare:
    """Paired differences of every arm to the benchmark arm, per group of cases."""
    input:
        scores=lambda w: scores(w.segmenter),
        benchmark=BENCHMARK_SCORES,
    output:
        "results/comparison/{segmenter}.tsv",
    log:
        "results/logs/compare/{segmenter}.log",
    params:
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
        scores=lambda w: scores(w.segmenter),
        benchmark=BENCHMARK_SCORES,
        comparison="results/comparison/{segmenter}.tsv",
    output:
        "results/figures/dice_difference-{segmenter}.png",
    log:
        "results/logs/plot_difference/{segmenter}.log",
    params:
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
        scores=lambda w: [f"results/scores/{w.segmenter}/{arm}.tsv" for arm in STUDY.figures.case_arms],
        predictions=lambda w: [f"results/predictions/{w.segmenter}/{arm}" for arm in STUDY.figures.case_arms],
        cases=cases("test"),
    output:
        "results/figures/case-{segmenter}.png",
    log:
        "results/logs/plot_case/{segmenter}.log",
    params:
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-case --scores {input.scores} --predictions {input.predictions} --cases {input.cases}"
        " --study '{params.study}' --figures '{params.figures}' --out {output} > {log} 2>&1"


rule contact_sheet:
    """Random synthetic cases with their masks beside random real ones."""
    input:
        real=cases("train"),
        synthetic=lambda w: batches(w.set),
    output:
        "results/figures/contact_sheet-{set}.png",
    log:
        "results/logs/contact_sheet/{set}.log",
    params:
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation contact-sheet --real {input.real} --synthetic {input.synthetic} --study '{params.study}'"
        " --figures '{params.figures}' --out {output} > {log} 2>&1"


def curves(wildcards):
    """Loss curves of everything that was trained."""
    segmenters = expand(
        "results/segmentation/{segmenter}/{arm}/{replicate}/training.jsonl",
        segmenter=STUDY.segmenters,
        arm=STUDY.arms,
        replicate=range(STUDY.replicates),
    )
    generators = {STUDY.sets[arm.synthetic].generator for arm in STUDY.arms.values() if arm.synthetic}
    return [f"results/generator/{name}/training.jsonl" for name in sorted(generators)] + segmenters


rule plot_training:
    """Loss curves of generators and segmenters."""
    input:
        curves,
    output:
        "results/figures/training.png",
    log:
        "results/logs/plot_training.log",
    params:
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-training --curves {input} --study '{params.study}' --figures '{params.figures}'"
        " --out {output} > {log} 2>&1"


USED_SETS = sorted({arm.synthetic for arm in STUDY.arms.values() if arm.synthetic})


rule report:
    """Everything on one page that opens anywhere."""
    input:
        cohort="results/cohort.tsv",
        comparisons=expand("results/comparison/{segmenter}.tsv", segmenter=STUDY.segmenters),
        differences=expand("results/figures/dice_difference-{segmenter}.png", segmenter=STUDY.segmenters),
        case_pictures=expand("results/figures/case-{segmenter}.png", segmenter=STUDY.segmenters),
        sheets=expand("results/figures/contact_sheet-{set}.png", set=USED_SETS),
        training="results/figures/training.png",
    output:
        report="results/report.html",
        figure="results/figures/dice_difference.png",
    log:
        "results/logs/report.log",
    params:
        config=study_config.as_json(STUDY, without={"compute"}),
    shell:
        "lungsyn evaluation report --config '{params.config}' --cohort {input.cohort} --comparisons {input.comparisons}"
        " --differences {input.differences} --case-pictures {input.case_pictures} --sheets {input.sheets}"
        " --training {input.training} --main-figure {output.figure} --out {output.report} > {log} 2>&1"
