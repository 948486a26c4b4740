# REQUIRED INPUTS: results/cases/{case}/, results/synthetic/{generator}/{set}/
# OUTPUTS:         results/segmentation/{segmenter}/{arm}/{replicate}/, results/predictions/{segmenter}/{arm}/


def training_set(wildcards):
    """What an arm's segmenter learns from: real train cases, a synthetic set, or both."""
    arm = STUDY.arms[wildcards.arm]
    real = cases("train")(wildcards) if arm.real else []
    return real + (batches(arm.synthetic) if arm.synthetic else [])


rule train_segmenter:
    """Train one replicate of one arm; every arm takes the same number of optimiser steps."""
    input:
        cases=training_set,
    output:
        model="results/segmentation/{segmenter}/{arm}/{replicate}/model.safetensors",
        curve="results/segmentation/{segmenter}/{arm}/{replicate}/training.jsonl",
    log:
        "results/logs/train_segmenter/{segmenter}/{arm}/{replicate}.log",
    threads: STUDY.compute.segmenter_threads
    resources:
        gpu=GPU,
    params:
        segmenter=lambda w: settings(STUDY.segmenters[w.segmenter]),
        reseeded=lambda w: "--reseeded" if STUDY.arms[w.arm].reseeded else "",
        seed=SEED,
    shell:
        "lungsyn segmentation train --segmenter '{params.segmenter}' --seed {params.seed} {params.reseeded}"
        " --replicate {wildcards.replicate} --cases {input.cases} --checkpoints results/checkpoints {COMPUTE}"
        " --model {output.model} --curve {output.curve} > {log} 2>&1"


rule predict:
    """Segment the validation and test cases with every replicate of an arm."""
    input:
        models=expand(
            "results/segmentation/{{segmenter}}/{{arm}}/{replicate}/model.safetensors",
            replicate=range(STUDY.replicates),
        ),
        cases=cases("validation", "test"),
    output:
        directory("results/predictions/{segmenter}/{arm}"),
    log:
        "results/logs/predict/{segmenter}/{arm}.log",
    threads: STUDY.compute.segmenter_threads
    resources:
        gpu=GPU,
    shell:
        "lungsyn segmentation predict --models {input.models} --cases {input.cases} {COMPUTE} --out {output}"
        " > {log} 2>&1"
