# REQUIRED INPUTS: results/predictions/{segmenter}/{arm}/{size}/, results/cases/{case}/, results/cohort.tsv,
#                  results/audit/{set}/{size}/
# OUTPUTS:         results/scores/, results/comparison/, results/figures/, results/report.html


rule score:
    """Measure every prediction of an arm: tables of cases, of nodules and of the FROC's points, for each replicate."""
    input:
        predictions="results/predictions/{segmenter}/{arm}/{size}",
        cohort="results/cohort.tsv",
        cases=cases("validation", "test"),
    output:
        cases="results/scores/{segmenter}/{arm}/{size}.tsv",
        nodules="results/scores/{segmenter}/{arm}/{size}.nodules.tsv",
        points="results/scores/{segmenter}/{arm}/{size}.points.tsv",
    log:
        "results/logs/score/{segmenter}/{arm}/{size}.log",
    params:
        code=code_of("evaluation", "score"),
    shell:
        "lungsyn evaluation score --predictions {input.predictions} --cohort {input.cohort} --cases {input.cases}"
        " --out {output.cases} --nodules {output.nodules} --points {output.points} > {log} 2>&1"


NULL_ARMS = [name for name, arm in STUDY.arms.items() if arm.reseeded]


def scores(wildcards):
    """The score tables of a segmenter's arms at one training-set size, in the config's order."""
    segmenter, size = wildcards.segmenter, wildcards.size
    return [f"results/scores/{segmenter}/{arm}/{size}.tsv" for arm in STUDY.arms_of(segmenter)]


def all_scores(wildcards, kind=""):
    """The score tables of a segmenter's arms at every size; ``kind``: .nodules, .points."""
    segmenter = wildcards.segmenter
    return [
        f"results/scores/{segmenter}/{arm}/{size}{kind}.tsv"
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
        report("results/comparison/{segmenter}.tsv", caption="../report/comparison.rst", category="Does it help?"),
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


rule froc:
    """Every arm's FROC on the test nodules, read at LUNA16's seven rates, with intervals."""
    input:
        lambda w: all_scores(w, ".points"),
    output:
        "results/comparison/{segmenter}.froc.tsv",
    log:
        "results/logs/froc/{segmenter}.log",
    params:
        code=code_of("evaluation", "froc"),
        evaluation=settings(STUDY.evaluation),
        benchmark=settings(STUDY.benchmark),
        seed=SEED,
    shell:
        "lungsyn evaluation froc --points {input} --benchmark '{params.benchmark}'"
        " --evaluation '{params.evaluation}' --seed {params.seed} --out {output} > {log} 2>&1"


rule strata:
    """The arms on the test nodules of each kind: by diameter, texture and place."""
    input:
        lambda w: all_scores(w, ".nodules"),
    output:
        "results/comparison/{segmenter}.strata.tsv",
    log:
        "results/logs/strata/{segmenter}.log",
    params:
        code=code_of("evaluation", "strata"),
        evaluation=settings(STUDY.evaluation),
        benchmark=settings(STUDY.benchmark),
        seed=SEED,
    shell:
        "lungsyn evaluation strata --nodules {input} --benchmark '{params.benchmark}'"
        " --evaluation '{params.evaluation}' --seed {params.seed} --out {output} > {log} 2>&1"


rule plot_difference:
    """THE figure: per-case Dice difference to the benchmark arm."""
    input:
        scores=scores,
        benchmark=BENCHMARK_SCORES,
        comparison="results/comparison/{segmenter}.tsv",
    output:
        report(
            "results/figures/dice_difference-{segmenter}-{size}.png",
            caption="../report/dice_difference.rst",
            category="Does it help?",
        ),
    log:
        "results/logs/plot_difference/{segmenter}/{size}.log",
    params:
        code=code_of("evaluation", "plot-difference"),
        benchmark=settings(STUDY.benchmark),
        null_arms=NULL_ARMS,
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-difference --scores {input.scores} --benchmark-scores {input.benchmark}"
        " --comparison {input.comparison} --benchmark '{params.benchmark}' --null-arms {params.null_arms}"
        " --study '{params.study}' --figures '{params.figures}' --out {output} > {log} 2>&1"


rule plot_ladder:
    """Mean difference of every arm to the benchmark arm, per training-set size."""
    input:
        table="results/comparison/{segmenter}.tsv",
        cohort="results/cohort.tsv",
    output:
        report("results/figures/ladder-{segmenter}.png", caption="../report/ladder.rst", category="Does it help?"),
    log:
        "results/logs/plot_ladder/{segmenter}.log",
    params:
        code=code_of("evaluation", "plot-ladder"),
        benchmark=settings(STUDY.benchmark),
        evaluation=settings(STUDY.evaluation),
        null_arms=NULL_ARMS,
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-ladder --table {input.table} --cohort {input.cohort} --null-arms {params.null_arms}"
        " --benchmark '{params.benchmark}' --evaluation '{params.evaluation}' --study '{params.study}'"
        " --figures '{params.figures}' --out {output} > {log} 2>&1"


rule plot_learning:
    """Mean Dice of every arm over the number of training patients."""
    input:
        table="results/comparison/{segmenter}.tsv",
        cohort="results/cohort.tsv",
    output:
        "results/figures/learning-{segmenter}.png",
    log:
        "results/logs/plot_learning/{segmenter}.log",
    params:
        code=code_of("evaluation", "plot-learning"),
        benchmark=settings(STUDY.benchmark),
        evaluation=settings(STUDY.evaluation),
        null_arms=NULL_ARMS,
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-learning --table {input.table} --cohort {input.cohort} --null-arms {params.null_arms}"
        " --benchmark '{params.benchmark}' --evaluation '{params.evaluation}' --study '{params.study}'"
        " --figures '{params.figures}' --out {output} > {log} 2>&1"


rule plot_froc:
    """FROC of every arm beside the benchmark's."""
    input:
        table="results/comparison/{segmenter}.froc.tsv",
        cohort="results/cohort.tsv",
    output:
        "results/figures/froc-{segmenter}.png",
    log:
        "results/logs/plot_froc/{segmenter}.log",
    params:
        code=code_of("evaluation", "plot-froc"),
        benchmark=settings(STUDY.benchmark),
        evaluation=settings(STUDY.evaluation),
        null_arms=NULL_ARMS,
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-froc --table {input.table} --cohort {input.cohort} --null-arms {params.null_arms}"
        " --benchmark '{params.benchmark}' --evaluation '{params.evaluation}' --study '{params.study}'"
        " --figures '{params.figures}' --out {output} > {log} 2>&1"


def case_arms(wildcards, place):
    """A file or folder of each of the two arms that are drawn."""
    return [
        place.format(segmenter=wildcards.segmenter, arm=arm, size=wildcards.size) for arm in STUDY.figures.case_arms
    ]


rule plot_cases:
    """Test cases of best, median and worst change with every replicate's contour for two arms."""
    input:
        scores=lambda w: case_arms(w, "results/scores/{segmenter}/{arm}/{size}.tsv"),
        predictions=lambda w: case_arms(w, "results/predictions/{segmenter}/{arm}/{size}"),
        cases=cases("test"),
    output:
        report("results/figures/cases-{segmenter}-{size}.png", caption="../report/cases.rst", category="Does it help?"),
    log:
        "results/logs/plot_cases/{segmenter}/{size}.log",
    params:
        code=code_of("evaluation", "plot-cases"),
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-cases --scores {input.scores} --predictions {input.predictions} --cases {input.cases}"
        " --study '{params.study}' --figures '{params.figures}' --out {output} > {log} 2>&1"


rule plot_turned:
    """Test nodules that one of two arms found and the other missed."""
    input:
        nodules=lambda w: case_arms(w, "results/scores/{segmenter}/{arm}/{size}.nodules.tsv"),
        predictions=lambda w: case_arms(w, "results/predictions/{segmenter}/{arm}/{size}"),
        cases=cases("test"),
    output:
        "results/figures/turned-{segmenter}-{size}.png",
    log:
        "results/logs/plot_turned/{segmenter}/{size}.log",
    params:
        code=code_of("evaluation", "plot-turned"),
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-turned --nodules {input.nodules} --predictions {input.predictions}"
        " --cases {input.cases} --study '{params.study}' --figures '{params.figures}' --out {output} > {log} 2>&1"


rule contact_sheet:
    """Random synthetic cases with their masks beside random real ones."""
    input:
        real=cases("train"),
        synthetic=lambda w: batches(w.set, w.size),
    output:
        report(
            "results/figures/contact_sheet-{set}-{size}.png",
            caption="../report/contact_sheet.rst",
            category="How real is it?",
        ),
    log:
        "results/logs/contact_sheet/{set}/{size}.log",
    params:
        code=code_of("evaluation", "contact-sheet"),
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation contact-sheet --real {input.real} --synthetic {input.synthetic} --study '{params.study}'"
        " --figures '{params.figures}' --out {output} > {log} 2>&1"


rule plot_quality:
    """Where the measures of real and synthetic cases lie; rejected volumes with the reason."""
    input:
        synthetic=lambda w: batches(w.set, w.size),
        reference=lambda w: f"results/quality/{STUDY.sets[w.set].generator}/{w.size}/reference.json",
    output:
        "results/figures/quality-{set}-{size}.png",
    log:
        "results/logs/plot_quality/{set}/{size}.log",
    params:
        code=code_of("evaluation", "plot-quality"),
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn evaluation plot-quality --synthetic {input.synthetic} --reference {input.reference}"
        " --set {wildcards.set} --study '{params.study}' --figures '{params.figures}' --out {output} > {log} 2>&1"


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
# Cases are drawn where both arms are; learning curves where there is more than one size.
DRAWN = [pair for pair in MAIN_FIRST if set(STUDY.figures.case_arms) <= set(STUDY.arms_of(pair[0]))]
SEVERAL_SIZES = [segmenter for segmenter in STUDY.segmenters if len(STUDY.sizes_of(segmenter)) > 1]


rule report:
    """Everything on one page that opens anywhere."""
    input:
        cohort="results/cohort.tsv",
        comparisons=expand("results/comparison/{segmenter}.tsv", segmenter=STUDY.segmenters),
        strata=expand("results/comparison/{segmenter}.strata.tsv", segmenter=STUDY.segmenters),
        differences=[f"results/figures/dice_difference-{segmenter}-{size}.png" for segmenter, size in MAIN_FIRST],
        ladders=expand("results/figures/ladder-{segmenter}.png", segmenter=STUDY.segmenters),
        learning=expand("results/figures/learning-{segmenter}.png", segmenter=SEVERAL_SIZES),
        frocs=expand("results/figures/froc-{segmenter}.png", segmenter=STUDY.segmenters),
        case_pictures=[f"results/figures/cases-{segmenter}-{size}.png" for segmenter, size in DRAWN],
        turned=[f"results/figures/turned-{segmenter}-{size}.png" for segmenter, size in DRAWN],
        sheets=[f"results/figures/contact_sheet-{name}-{size}.png" for name, size in USED_SETS],
        quality=[f"results/quality/{name}/{size}.tsv" for name, size in CHECKED_SETS],
        quality_pictures=[f"results/figures/quality-{name}-{size}.png" for name, size in CHECKED_SETS],
        training="results/figures/training.png",
        verdicts=[f"results/audit/{name}/{size}/verdict.json" for name, size in USED_SETS],
        nearest=[f"results/figures/nearest-{name}-{size}.png" for name, size in USED_SETS],
        fidelity=[f"results/figures/fidelity-{name}-{size}.png" for name, size in USED_SETS],
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
        " --strata {input.strata} --differences {input.differences} --ladders {input.ladders}"
        " --learning {input.learning} --frocs {input.frocs} --case-pictures {input.case_pictures}"
        " --turned {input.turned} --sheets {input.sheets} --training {input.training} --verdicts {input.verdicts}"
        " --quality {input.quality} --quality-pictures {input.quality_pictures}"
        " --nearest {input.nearest} --fidelity {input.fidelity} --main-figure {output.figure} --out {output.report}"
        " > {log} 2>&1"
