# REQUIRED INPUTS: results/predictions/{segmenter}/{arm}/{size}/, results/cases/{case}/, results/cohort.tsv,
#                  results/audit/{set}/{size}/
# OUTPUTS:         results/scores/, results/comparison/, results/figures/, results/viewer/, results/report.html,
#                  results/costs.tsv


CHOICE = "results/choice.json"
FROZEN = " --choice {input.choice}" if STUDY.freeze_choice else ""  # as before for studies that freeze nothing
CHOSEN_FROM = [
    (segmenter, arm, of)
    for segmenter in STUDY.segmenters
    for arm in STUDY.arms_of(segmenter)
    if STUDY.can_be_chosen(arm)
    for of in folds(max(STUDY.sizes_of(segmenter)))
]


rule choose:
    """Choose segmenter and arm on validation patients, at the largest size, and freeze the choice."""
    input:
        predictions=[f"results/predictions/{segmenter}/{arm}/{of}" for segmenter, arm, of in CHOSEN_FROM],
        cohort="results/cohort.tsv",
        cases=cases("validation"),
    output:
        choice=CHOICE,
    log:
        "results/logs/choose.log",
    params:
        recipe=recipe_of("evaluation", "choose"),
        recipes=fixed(
            STUDY.model_dump_json(
                include={"study", "benchmark", "arms", "segmenters", "sets", "generators", "synthesis", "replicates"}
            )
        ),
    shell:
        "lungsyn evaluation choose --predictions {input.predictions} --cohort {input.cohort} --cases {input.cases}"
        " --recipes {params.recipes:q} --scores results/scores --out {output.choice} > {log} 2>&1"


rule score:
    """Measure every prediction of an arm: tables of cases, of nodules and of the FROC's points, for each replicate."""
    input:
        predictions="results/predictions/{segmenter}/{arm}/{size}",
        cohort="results/cohort.tsv",
        cases=cases("validation", "test"),
        choice=CHOICE if STUDY.freeze_choice else [],
    output:
        cases="results/scores/{segmenter}/{arm}/{size}.tsv",
        nodules="results/scores/{segmenter}/{arm}/{size}.nodules.tsv",
        points="results/scores/{segmenter}/{arm}/{size}.points.tsv",
        cost="results/scores/{segmenter}/{arm}/{size}.cost.json",
    log:
        "results/logs/score/{segmenter}/{arm}/{size}.log",
    params:
        recipe=recipe_of("evaluation", "score"),
    shell:
        "lungsyn evaluation score --predictions {input.predictions} --cohort {input.cohort} --cases {input.cases}"
        " --out {output.cases} --nodules {output.nodules} --points {output.points} --cost {output.cost}"
        + FROZEN
        + " > {log} 2>&1"


def of_arms(place, pairs, arms=()):
    """A file or folder of each arm (of all, or of these) of the given segmenters and training sets, in the config's
    order."""
    return [
        place.format(segmenter=segmenter, arm=arm, size=size)
        for segmenter, size in pairs
        for arm in arms or STUDY.arms_of(segmenter)
    ]


def compared(kind=""):
    """An input function: the tables of a segmenter's arms at every size: of scores, or .nodules, or .points."""

    def paths(wildcards):
        cohort_rows()  # as in batches
        pairs = [pair for pair in TRAINED if pair[0] == wildcards.segmenter]
        return of_arms(f"results/scores/{{segmenter}}/{{arm}}/{{size}}{kind}.tsv", pairs)

    return paths


def drawn_arms(wildcards):
    """The command line's words for which arms' replicates have a set of their own, and what is drawn for it."""
    arms = [arm for arm in STUDY.arms_of(wildcards.segmenter) if STUDY.arms[arm].synthetic]
    alone = STUDY.replicates_draw == "segmenter" or not arms
    return "" if alone else f"--drawn {STUDY.replicates_draw} --drawn-arms {' '.join(arms)}"


rule compare:
    """Every arm against the benchmark arm at every size: Dice paired by case, FROC, test nodules of each kind."""
    input:
        scores=compared(),
        nodules=compared(".nodules"),
        points=compared(".points"),
        benchmark=lambda w: [BENCHMARK_SCORES.format(size=of) for name, of in TRAINED if name == w.segmenter],
    output:
        table=report("results/comparison/{segmenter}.tsv", caption="../report/comparison.rst", category="Does it help?"),
        froc="results/comparison/{segmenter}.froc.tsv",
        strata="results/comparison/{segmenter}.strata.tsv",
        layers="results/comparison/{segmenter}.layers.tsv",
    log:
        "results/logs/compare/{segmenter}.log",
    params:
        recipe=recipe_of("evaluation", "compare"),
        evaluation=settings(STUDY.evaluation),
        benchmark=settings(STUDY.benchmark),
        drawn=drawn_arms,
        seed=SEED,
    shell:
        "lungsyn evaluation compare --scores {input.scores} --nodules {input.nodules} --points {input.points}"
        " --benchmark-scores {input.benchmark} --benchmark {params.benchmark:q} --evaluation {params.evaluation:q}"
        " --seed {params.seed} {params.drawn} --froc {output.froc} --strata {output.strata} --layers {output.layers}"
        " --out {output.table} > {log} 2>&1"


# The main figure comes first: the benchmark's segmenter, trained on all there is.
MAIN_FIRST = sorted(COMPARED, key=lambda pair: (pair[0] != STUDY.benchmark.segmenter, -pair[1]))
# Cases are drawn where both arms are; learning curves where there is more than one size.
CASE_ARMS = STUDY.figures.case_arms
DRAWN = [pair for pair in MAIN_FIRST if set(CASE_ARMS) <= set(STUDY.arms_of(pair[0]))]
DRAWN_FROM = [(segmenter, of) for segmenter, size in DRAWN for of in folds(size)]
SEVERAL_SIZES = [segmenter for segmenter in STUDY.segmenters if len(STUDY.sizes_of(segmenter)) > 1]


def figures(name, pairs, caption=None):
    """results/figures/{name}-{segmenter}-{size}.png, or without a size; with a caption also in Snakemake's report.

    What each shows is said in the table of pictures that the rule writes beside them (`lungsyn.evaluation.gallery`)."""
    pairs = list(pairs)
    paths = [f"results/figures/{name}-{'-'.join(map(str, pair))}.png" for pair in pairs]
    if caption is None:
        return paths
    shown = {"caption": f"../report/{caption}.rst", "category": "Does it help?"}
    labels = [{key: str(part) for key, part in zip(("segmenter", "size"), pair)} for pair in pairs]
    return [report(path, labels=of, **shown) for of, path in zip(labels, paths)]


def beside(pictures):
    """The tables with the numbers behind these pictures."""
    return [f"{path.removesuffix('.png')}.tsv" for path in pictures]


ARM_PICTURES = [
    *figures("dice_difference", MAIN_FIRST),
    *figures("ladder", zip(STUDY.segmenters)),
    *figures("learning", zip(SEVERAL_SIZES)),
    *figures("froc", zip(STUDY.segmenters)),
    *figures("cases", DRAWN),
    *figures("turned", DRAWN),
    "results/figures/training.png",
]
KINDS_OF_SETS = ("contact_sheet", "fidelity", "quality", "nearest", "outlines")
SET_PICTURES = [
    picture
    for kind in KINDS_OF_SETS
    for picture in figures(kind, [of for of in PICTURED_SETS if kind != "quality" or of in CHECKED_SETS])
]


rule plot_arms:
    """What came of the arms: each size at a glance, the FROC, case by case, cases and nodules, loss curves."""
    input:
        scores=of_arms("results/scores/{segmenter}/{arm}/{size}.tsv", TRAINED),
        nodules=of_arms("results/scores/{segmenter}/{arm}/{size}.nodules.tsv", DRAWN_FROM, CASE_ARMS),
        predictions=of_arms("results/predictions/{segmenter}/{arm}/{size}", DRAWN_FROM, CASE_ARMS),
        comparisons=expand("results/comparison/{segmenter}.tsv", segmenter=STUDY.segmenters),
        frocs=expand("results/comparison/{segmenter}.froc.tsv", segmenter=STUDY.segmenters),
        generators=[f"results/generator/{name}/{size}/training.jsonl" for name, size in DRAWN_GENERATORS],
        curves=expand(
            of_arms("results/segmentation/{segmenter}/{arm}/{size}/{{replicate}}/training.jsonl", TRAINED),
            replicate=REPLICATES,
        ),
        cohort="results/cohort.tsv",
        cases=cases("test"),
    output:
        figures("dice_difference", MAIN_FIRST, caption="dice_difference"),
        figures("ladder", zip(STUDY.segmenters), caption="ladder"),
        figures("learning", zip(SEVERAL_SIZES)),
        figures("froc", zip(STUDY.segmenters)),
        figures("cases", DRAWN, caption="cases"),
        figures("turned", DRAWN),
        training="results/figures/training.png",
        data=beside(ARM_PICTURES),
        pictures="results/figures/arms.tsv",
        cost="results/figures/arms.cost.json",
    log:
        "results/logs/plot_arms.log",
    params:
        recipe=recipe_of("evaluation", "plot-arms"),
        benchmark=settings(STUDY.benchmark),
        evaluation=settings(STUDY.evaluation),
        null_arms=null_arms(STUDY.model_dump()["arms"], STUDY.benchmark.arm),
        study=settings(STUDY.title),
        figures=settings(STUDY.figures, Drawing),
    shell:
        "lungsyn evaluation plot-arms --scores {input.scores} --nodules {input.nodules}"
        " --predictions {input.predictions} --comparisons {input.comparisons} --frocs {input.frocs}"
        " --curves {input.generators} {input.curves} --cohort {input.cohort} --cases {input.cases}"
        " --null-arms {params.null_arms} --benchmark {params.benchmark:q} --evaluation {params.evaluation:q}"
        " --study {params.study:q} --figures {params.figures:q} --pictures {output.pictures} --cost {output.cost}"
        " --out results/figures > {log} 2>&1"


rule plot_set:
    """A synthetic set: random cases beside real ones, those closest to train cases, its measures and distances."""
    input:
        synthetic=lambda w: batches(w.set, w.size),
        train=cases("train"),
        hosts=HOSTS,
        held_out=lambda w: cases(*held_out_splits(w))(w),
        donors=donors,
        reference=of_generator(RANGES, is_checked),
        neighbours="results/audit/{set}/{size}/nearest.tsv",
        fidelity="results/audit/{set}/{size}/fidelity.json",
    output:
        report(
            "results/figures/contact_sheet-{set}-{size}.png",
            caption="../report/contact_sheet.rst",
            category="How real is it?",
        ),
        report(
            "results/figures/fidelity-{set}-{size}.png", caption="../report/fidelity.rst", category="How real is it?"
        ),
        "results/figures/quality-{set}-{size}.png",
        "results/figures/nearest-{set}-{size}.png",
        "results/figures/outlines-{set}-{size}.png",
        data=[f"results/figures/{kind}-{{set}}-{{size}}.tsv" for kind in KINDS_OF_SETS],
        pictures="results/figures/set-{set}-{size}.tsv",
        cost="results/figures/set-{set}-{size}.cost.json",
    log:
        "results/logs/plot_set/{set}/{size}.log",
    params:
        recipe=recipe_of("evaluation", "plot-set"),
        reference=lambda w, input: f"--reference {input.reference}" if input.reference else "",
        audit=settings(STUDY.audit, Probing),
        study=settings(STUDY.title),
        figures=settings(STUDY.figures, Drawing),
    shell:
        "lungsyn evaluation plot-set --of set={wildcards.set} size={wildcards.size} --synthetic {input.synthetic}"
        " --train {input.train} --hosts {input.hosts} --held-out {input.held_out} --donors {input.donors}"
        " --neighbours {input.neighbours} --fidelity {input.fidelity} {params.reference}"
        " --audit {params.audit:q} --study {params.study:q} --figures {params.figures:q}"
        " --pictures {output.pictures} --cost {output.cost} --out results/figures > {log} 2>&1"


def costs_of_sets(wildcards):
    """What the generators and the volumes of the audited sets cost."""
    made = [f"{batch}.cost.json" for name, size in USED_SETS for batch in batches(name, size)]
    return [*(f"results/generator/{name}/{size}/cost.json" for name, size in USED_GENERATORS), *made]


SETS_BESIDE = ["results/figures/sets.png"] if USED_SETS else []


rule plot_sets:
    """The synthetic sets side by side: how real, how useful, how private, and how dear each is."""
    input:
        verdicts=[f"results/audit/{name}/{size}/verdict.json" for name, size in USED_SETS],
        fidelity=[f"results/audit/{name}/{size}/fidelity.json" for name, size in USED_SETS],
        comparisons=expand("results/comparison/{segmenter}.tsv", segmenter=STUDY.segmenters),
        costs=costs_of_sets,
    output:
        report("results/figures/sets.png", caption="../report/sets.rst", category="How real is it?"),
        data="results/figures/sets.tsv",
        sets="results/sets.tsv",
        uses="results/uses.tsv",
        pictures="results/figures/beside.tsv",
    log:
        "results/logs/plot_sets.log",
    params:
        recipe=recipe_of("evaluation", "plot-sets"),
        benchmark=settings(STUDY.benchmark),
        arms=fixed(json.dumps({name: arm.model_dump(mode="json") for name, arm in STUDY.arms.items()})),
        study=settings(STUDY.title),
        figures=settings(STUDY.figures, Drawing),
    shell:
        "lungsyn evaluation plot-sets --verdicts {input.verdicts} --fidelity {input.fidelity}"
        " --comparisons {input.comparisons} --costs {input.costs} --benchmark {params.benchmark:q}"
        " --arms {params.arms:q} --study {params.study:q} --figures {params.figures:q} --sets {output.sets} --uses {output.uses}"
        " --pictures {output.pictures} --out results/figures > {log} 2>&1"


# With folds the viewer shows the first one.
VIEWED = [(segmenter, of) for segmenter, of in TRAINED if of_training_set(of).get("fold", 1) == 1]


rule viewer:
    """Volumes to look at in a browser: synthetic beside real ones, and predictions. They are never exported."""
    input:
        synthetic=lambda w: [batch for name, size in PICTURED_SETS for batch in batches(name, size)],
        cases=cases("train", "validation", "test", hosts=True),
        neighbours=[f"results/audit/{name}/{size}/nearest.tsv" for name, size in PICTURED_SETS],
        scores=of_arms("results/scores/{segmenter}/{arm}/{size}.tsv", VIEWED),
        predictions=of_arms("results/predictions/{segmenter}/{arm}/{size}", VIEWED),
        cohort="results/cohort.tsv",
    output:
        folder=directory("results/viewer"),
    log:
        "results/logs/viewer.log",
    params:
        recipe=recipe_of("viewer", "write"),
        study=settings(STUDY.title),
        figures=settings(STUDY.figures, Viewing),
    shell:
        "lungsyn viewer write --cohort {input.cohort} --cases {input.cases} --synthetic {input.synthetic}"
        " --neighbours {input.neighbours} --scores {input.scores} --predictions {input.predictions}"
        " --study {params.study:q} --figures {params.figures:q} --out {output.folder} > {log} 2>&1"


def costs(wildcards):
    """The costs of all jobs whose results are in the report; of what is no longer in the config there is none."""
    places = ["phantom/cost.json"] if READER.simulates else []
    places += [f"cases/{row['case']}/cost.json" for row in cohort_rows()]
    places += [f"generator/{name}/{size}/cost.json" for name, size in DRAWN_GENERATORS]
    for name, size in generators_of(CHECKED_SETS, has=is_checked):
        places += [f"quality/{name}/{size}/reference.cost.json"]
    made = [f"{batch}.cost.json" for name, size in DRAWN_SETS for batch in batches(name, size)]
    places += [place.removeprefix("results/") for place in made]
    arms = of_arms("{segmenter}/{arm}/{size}", TRAINED)
    places += [f"segmentation/{of}/{replicate}/cost.json" for of in arms for replicate in REPLICATES]
    places += [f"predictions/{of}.cost.json" for of in arms]
    places += [f"found/{name}/{size}.cost.json" for name, size in in_folds(STUDY.sought_sets)]
    places += [f"audit/{name}/{size}/{what}.cost.json" for what in ("nearest", "fidelity") for name, size in USED_SETS]
    places += [f"audit/membership/{name}/{size}.cost.json" for name, size in USED_GENERATORS if attackable(name)]
    places += [f"scores/{of}.cost.json" for of in arms]
    places += [f"figures/set-{name}-{size}.cost.json" for name, size in PICTURED_SETS]
    return [f"results/{place}" for place in [*places, "figures/arms.cost.json"]]


rule report:
    """Everything on one page that opens anywhere."""
    input:
        cohort="results/cohort.tsv",
        comparisons=expand("results/comparison/{segmenter}.tsv", segmenter=STUDY.segmenters),
        strata=expand("results/comparison/{segmenter}.strata.tsv", segmenter=STUDY.segmenters),
        layers=expand("results/comparison/{segmenter}.layers.tsv", segmenter=STUDY.segmenters),
        pictures=[
            "results/figures/arms.tsv",
            *(["results/figures/beside.tsv"] if SETS_BESIDE else []),
            *(f"results/figures/set-{name}-{size}.tsv" for name, size in PICTURED_SETS),
        ],
        shown=[path for kind in (ARM_PICTURES, SETS_BESIDE, SET_PICTURES) for path in (*kind, *beside(kind))],
        sets=["results/sets.tsv"] if SETS_BESIDE else [],
        uses=["results/uses.tsv"] if SETS_BESIDE else [],
        quality=[f"results/quality/{name}/{size}.tsv" for name, size in CHECKED_SETS],
        verdicts=[f"results/audit/{name}/{size}/verdict.json" for name, size in USED_SETS],
        masks=[f"results/audit/{name}/{size}/masks.tsv" for name, size in USED_SETS],
        costs=costs,
        choice=CHOICE if STUDY.freeze_choice else [],
        viewer=["results/viewer"] if STUDY.figures.viewer_cases else [],
    output:
        report="results/report.html",
        figure="results/figures/dice_difference.png",
        text="results/answer.txt",
        costs="results/costs.tsv",
    log:
        "results/logs/report.log",
    params:
        recipe=recipe_of("evaluation", "report"),
        config=fixed(as_json(STUDY, without={"compute"})),
        viewer=lambda w, input: "--viewer viewer/index.html" if input.viewer else "",  # as the page links to it
    shell:
        "lungsyn evaluation report --config {params.config:q} --cohort {input.cohort} --comparisons {input.comparisons}"
        " --strata {input.strata} --layers {input.layers} --pictures {input.pictures} --verdicts {input.verdicts}"
        " --quality {input.quality} --masks {input.masks} --sets {input.sets} --uses {input.uses}"
        " --costs {input.costs} --choice {input.choice} --main-figure {output.figure} --text {output.text}"
        " --cost-table {output.costs} {params.viewer} --out {output.report} > {log} 2>&1"
