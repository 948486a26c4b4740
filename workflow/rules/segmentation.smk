# REQUIRED INPUTS: results/cases/{case}/, results/synthetic/{generator}/{set}/{size}/
# OUTPUTS:         results/segmentation/{segmenter}/{arm}/{size}/{replicate}/, results/predictions/{segmenter}/{arm}/{size}/
#                  results/found/{set}/{size}.tsv


REPLICATES = list(range(STUDY.replicates))


def real_cases(wildcards):
    """The real cases that an arm's segmenter learns from: those of the training-set size, or none."""
    return cases("train")(wildcards) if STUDY.arms[wildcards.arm].real else []


def synthetic_cases(wildcards):
    """The synthetic cases that a replicate of an arm learns from: the batches of its draw of the set, or none."""
    name = STUDY.arms[wildcards.arm].synthetic
    return batches(name, drawn(wildcards.arm, wildcards.size, int(wildcards.replicate))) if name else []


BENCHMARK_MODEL = (
    f"results/segmentation/{STUDY.benchmark.segmenter}/{STUDY.benchmark.arm}/{{size}}/{{replicate}}/model.safetensors"
)
FINDS = "results/found/{set}/{size}.tsv"  # what the benchmark finds in a synthetic set


def finds(wildcards):
    """The table by which an arm chooses among the cases of its set, if it does."""
    arm = STUDY.arms[wildcards.arm]
    if not arm.found:
        return []
    return FINDS.format(set=arm.synthetic, size=drawn(wildcards.arm, wildcards.size, int(wildcards.replicate)))


def use(wildcards):
    """The command line's words for how an arm uses its cases; none for what it does not say. It asks for no ``input``:
    of such parameters Snakemake notes no change."""
    arm = STUDY.arms[wildcards.arm]
    said = part(arm, Use).model_dump(mode="json", exclude_defaults=True)
    words = [f"--{key.replace('_', '-')} {shlex.quote(json.dumps(value))}" for key, value in said.items()]
    words += [f"--found {shlex.quote(as_json(arm.found))} --finds {finds(wildcards)}"] if arm.found else []
    return " ".join(words)


rule train_segmenter:
    """Train one replicate of one arm; every arm takes the same number of optimiser steps."""
    input:
        cases=real_cases,
        synthetic=synthetic_cases,
        finds=finds,
    output:
        model="results/segmentation/{segmenter}/{arm}/{size}/{replicate}/model.safetensors",
        curve="results/segmentation/{segmenter}/{arm}/{size}/{replicate}/training.jsonl",
        cost="results/segmentation/{segmenter}/{arm}/{size}/{replicate}/cost.json",
    log:
        "results/logs/train_segmenter/{segmenter}/{arm}/{size}/{replicate}.log",
    threads: STUDY.compute.segmenter_threads
    resources:
        gpu=GPU,
    params:
        recipe=lambda w: recipe_of("segmentation", "train", STUDY.segmenters[w.segmenter].kind),
        kind=lambda w: f"--kind {STUDY.segmenters[w.segmenter].kind}",
        segmenter=lambda w: settings(settings_of(STUDY.segmenters[w.segmenter]))(w),
        use=use,
        reseeded=lambda w: "--reseeded" if STUDY.arms[w.arm].reseeded else "",
        seed=seed_of_fold,
    shell:
        "exec lungsyn segmentation train --of segmenter={wildcards.segmenter} arm={wildcards.arm} size={wildcards.size}"
        " replicate={wildcards.replicate} {params.kind} --segmenter {params.segmenter:q} --seed {params.seed}"
        " {params.reseeded} --cases {input.cases} --synthetic {input.synthetic} {params.use}"
        " --checkpoints results/checkpoints {COMPUTE}"
        " --model {output.model} --curve {output.curve} --cost {output.cost} > {log} 2>&1"


rule find:
    """Ask the benchmark's segmenter, which learned from train patients only, what it finds in a synthetic set."""
    input:
        models=lambda w: [BENCHMARK_MODEL.format(size=undrawn(w.size), replicate=i) for i in REPLICATES],
        synthetic=lambda w: batches(w.set, w.size),
    output:
        table=FINDS,
        cost="results/found/{set}/{size}.cost.json",
    log:
        "results/logs/find/{set}/{size}.log",
    threads: STUDY.compute.segmenter_threads
    resources:
        gpu=GPU,
    params:
        replicates=REPLICATES,
        recipe=recipe_of("segmentation", "find", STUDY.segmenters[STUDY.benchmark.segmenter].kind),
        inference=settings(inference_of(STUDY.segmenters[STUDY.benchmark.segmenter])),
    shell:
        "lungsyn segmentation find --of set={wildcards.set} size={wildcards.size}"
        " --inference {params.inference:q} --replicates {params.replicates} --models {input.models}"
        " --cases {input.synthetic} {COMPUTE} --cost {output.cost} --out {output.table} > {log} 2>&1"


rule predict:
    """Segment the validation and test cases with every replicate of an arm."""
    input:
        models=expand(
            "results/segmentation/{{segmenter}}/{{arm}}/{{size}}/{replicate}/model.safetensors",
            replicate=REPLICATES,
        ),
        cases=cases("validation", "test"),
    output:
        folder=directory("results/predictions/{segmenter}/{arm}/{size}"),
        cost="results/predictions/{segmenter}/{arm}/{size}.cost.json",
    log:
        "results/logs/predict/{segmenter}/{arm}/{size}.log",
    threads: STUDY.compute.segmenter_threads
    resources:
        gpu=GPU,
    params:
        replicates=REPLICATES,
        recipe=lambda w: recipe_of("segmentation", "predict", STUDY.segmenters[w.segmenter].kind),
        inference=lambda w: settings(inference_of(STUDY.segmenters[w.segmenter]))(w),
    shell:
        "lungsyn segmentation predict --of segmenter={wildcards.segmenter} arm={wildcards.arm} size={wildcards.size}"
        " --inference {params.inference:q} --replicates {params.replicates} --models {input.models} --cases {input.cases}"
        " {COMPUTE} --cost {output.cost} --out {output.folder} > {log} 2>&1"
