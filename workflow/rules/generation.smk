# REQUIRED INPUTS: results/cases/{case}/ of the train split; for targeted sets the benchmark's scores
# OUTPUTS:         results/generator/{generator}/, results/conditions/{set}.tsv, results/synthetic/{generator}/{set}/


rule train_generator:
    """Train the generator on patches of the train split. A stopped training goes on where it was."""
    input:
        cases=cases("train"),
    output:
        model="results/generator/{generator}/model.safetensors",
        curve="results/generator/{generator}/training.jsonl",
    log:
        "results/logs/train_generator/{generator}.log",
    threads: STUDY.compute.generator_threads
    resources:
        gpu=GPU,
    params:
        generator=lambda w: settings(STUDY.generators[w.generator]),
        seed=SEED,
    shell:
        "lungsyn generation train --generator '{params.generator}' --seed {params.seed} --cases {input.cases}"
        " --checkpoints results/checkpoints {COMPUTE} --model {output.model} --curve {output.curve} > {log} 2>&1"


def condition_cases(wildcards):
    """The cases whose masks a set varies."""
    split = "validation" if STUDY.sets[wildcards.set].conditions == "targeted" else "train"
    return cases(split)(wildcards)


def condition_scores(wildcards):
    """The scores that find the worst cases, for a targeted set."""
    return BENCHMARK_SCORES if STUDY.sets[wildcards.set].conditions == "targeted" else []


rule conditions:
    """Decide which masks to synthesise: one row per volume."""
    input:
        cases=condition_cases,
        scores=condition_scores,
    output:
        "results/conditions/{set}.tsv",
    log:
        "results/logs/conditions/{set}.log",
    params:
        kind=lambda w: STUDY.sets[w.set].conditions,
        volumes=lambda w: STUDY.sets[w.set].volumes,
        worst_cases=lambda w: STUDY.benchmark.worst_cases if STUDY.sets[w.set].conditions == "targeted" else 0,
        seed=SEED,
    shell:
        "lungsyn generation conditions --kind {params.kind} --volumes {params.volumes} --seed {params.seed}"
        " --worst-cases {params.worst_cases} --cases {input.cases} --scores {input.scores} --out {output} > {log} 2>&1"


rule synthesise:
    """Make a batch of whole volumes: HU and masks in the layout of a real case."""
    input:
        cases=condition_cases,
        model="results/generator/{generator}/model.safetensors",
        conditions="results/conditions/{set}.tsv",
    output:
        directory("results/synthetic/{generator}/{set}/{batch}"),
    log:
        "results/logs/synthesise/{generator}/{set}/{batch}.log",
    threads: STUDY.compute.generator_threads
    resources:
        gpu=GPU,
    params:
        synthesis=settings(STUDY.synthesis),
    shell:
        "lungsyn generation synthesise --model {input.model} --conditions {input.conditions} --batch {wildcards.batch}"
        " --set {wildcards.set} --synthesis '{params.synthesis}' --cases {input.cases} {COMPUTE} --out {output}"
        " > {log} 2>&1"
