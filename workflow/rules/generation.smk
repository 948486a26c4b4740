# REQUIRED INPUTS: results/cases/{case}/ of the train split; for targeted sets the benchmark's predictions
# OUTPUTS:         results/generator/{generator}/{size}/, results/conditions/{set}/{size}.tsv,
#                  results/synthetic/{generator}/{set}/{size}/, results/quality/{generator}/{size}/
#                  {size}: training-set size, percent of the train patients, and the fold if there are any


rule train_generator:
    """Train the generator on patches of the train split. A stopped training goes on where it was.

    ``exec``: at a time limit Slurm tells every process to end. A shell would do so at once, Snakemake after it, and the
    training would be killed while it saves."""
    input:
        cases=LEARNED,
        files=lambda w: FILES[w.generator],
    output:
        model="results/generator/{generator}/{size}/model.safetensors",
        curve="results/generator/{generator}/{size}/training.jsonl",
        cost="results/generator/{generator}/{size}/cost.json",
    log:
        "results/logs/train_generator/{generator}/{size}.log",
    priority: 1  # most of the study waits for it
    threads: STUDY.compute.generator_threads * STUDY.compute.gpus
    resources:
        gpu=GPUS,
    params:
        recipe=lambda w: recipe_of("generation", "train", kind_of(w)),
        generator=lambda w: settings(STUDY.generators[w.generator])(w),
        seed=seed_of_fold,
    shell:
        "exec {TOGETHER}lungsyn generation train --of generator={wildcards.generator} size={wildcards.size}"
        " --generator {params.generator:q} --seed {params.seed} --cases {input.cases}"
        " --checkpoints results/checkpoints {COMPUTE} --model {output.model} --curve {output.curve} --cost {output.cost}"
        " --live results/live/{wildcards.generator}-{wildcards.size}.png {TITLE} > {log} 2>&1"


def condition_cases(wildcards):
    """The cases whose masks, or statistics of masks, a set has; hosts lend their bodies."""
    return cases(source_of(STUDY.sets[wildcards.set]).split, hosts=True)(wildcards)


def condition_predictions(wildcards):
    """What the benchmark found, where a source asks which cases it finds worst.

    Not the score table: an edit of a measure makes that again and must not aim, synthesise and train anew.
    """
    asks = source_of(STUDY.sets[wildcards.set]).needs_benchmark
    return BENCHMARK_PREDICTIONS.format(size=undrawn(wildcards.size)) if asks else []


def worst_cases(wildcards):
    """How many cases are the worst, where a source asks."""
    asks = source_of(STUDY.sets[wildcards.set]).needs_benchmark
    return f"--worst-cases {STUDY.benchmark.worst_cases if asks else 0}"


def condition_table(wildcards):
    """The user's table of what the volumes of a set are to be, if there is one."""
    return from_here(STUDY.tables[wildcards.set]) if wildcards.set in STUDY.tables else []


rule conditions:
    """Decide which masks to synthesise: one row per volume."""
    input:
        cases=condition_cases,
        predictions=condition_predictions,
        table=condition_table,
    output:
        "results/conditions/{set}/{size}.tsv",
    log:
        "results/logs/conditions/{set}/{size}.log",
    params:
        recipe=lambda w: recipe_of("generation", "conditions", STUDY.sets[w.set].conditions.kind),
        conditions=lambda w: settings(STUDY.sets[w.set].conditions)(w),
        volumes=lambda w: f"--volumes {STUDY.sets[w.set].volumes}",  # with its name, or it could be the next number
        worst_cases=worst_cases,
        table=lambda w, input: f"--table {shlex.quote(str(input.table))}" if input.table else "",
        seed=seed_of_fold,
    shell:
        "lungsyn generation conditions --of set={wildcards.set} size={wildcards.size}"
        " --conditions {params.conditions:q} {params.volumes} --seed {params.seed}"
        " {params.worst_cases} {params.table} --cases {input.cases} --predictions {input.predictions} --out {output}"
        " > {log} 2>&1"


def grid_json(generator):
    """Where a generator's patches meet, as JSON: ``null`` where there are none."""
    grid = made_by(generator).patch_grid(STUDY.generators[generator], STUDY.synthesis)
    return as_json(grid) if grid else "null"


rule reference:
    """Measure the train cases: the ranges in which a synthetic case must lie. Seams: where this generator's patches meet."""
    input:
        cases=LEARNED,
    output:
        ranges=RANGES,
        cost="results/quality/{generator}/{size}/reference.cost.json",
    log:
        "results/logs/reference/{generator}/{size}.log",
    params:
        recipe=recipe_of("generation", "reference"),
        grid=lambda w: grid_json(w.generator),
        quality=settings(STUDY.quality),
    shell:
        "lungsyn generation reference --of generator={wildcards.generator} size={wildcards.size}"
        " --cases {input.cases} --grid {params.grid:q} --quality {params.quality:q}"
        " --cost {output.cost} --out {output.ranges} > {log} 2>&1"


def case_it_is_like(wildcards):
    """The case of whose kind a set's volumes are to be, if of one's."""
    kind = STUDY.sets[wildcards.set].source
    if kind is None or kind.like is None:
        return []
    fold = of_training_set(wildcards.size).get("fold")
    if kind.like not in {row["case"] for row in in_fold(cohort_rows(), fold) if row["split"] == "train"}:
        where = f" in fold {fold}: of the folds' cases only a host is one in all" if fold else ""
        raise WorkflowError(
            f"sets.{wildcards.set}.source.like is {kind.like}: results/cohort.tsv has no such train case{where}"
        )
    return f"results/cases/{kind.like}/case.json"


rule synthesise:
    """Make a batch of whole volumes: HU and masks in the layout of a real case. Odd ones are made again."""
    input:
        cases=condition_cases,
        reference=of_generator(RANGES, is_checked),
        model=of_generator("results/generator/{generator}/{size}/model.safetensors", of=of_model),
        like=case_it_is_like,
        rows="results/conditions/{set}/{size}.tsv",
    output:
        folder=directory("results/synthetic/{generator}/{set}/{size}/{batch}"),
        cost="results/synthetic/{generator}/{set}/{size}/{batch}.cost.json",
    log:
        "results/logs/synthesise/{generator}/{set}/{size}/{batch}.log",
    threads: STUDY.compute.generator_threads
    resources:
        gpu=lambda w: GPU if trained(w.generator) else 0,
    params:
        recipe=lambda w: recipe_of("generation", "synthesise", kind_of(w), STUDY.sets[w.set].conditions.kind),
        generator=lambda w: settings(STUDY.generators[w.generator])(w),
        conditions=lambda w: settings(STUDY.sets[w.set].conditions)(w),
        model=lambda w, input: f"--model {input.model}" if input.model else "",
        reference=lambda w, input: f"--reference {input.reference}" if input.reference else "",
        source=lambda w: as_json(kind) if (kind := STUDY.sets[w.set].source) else "null",
        like=lambda w, input: f"--like {input.like}" if input.like else "",
        synthesis=settings(STUDY.synthesis),
        quality=settings(STUDY.quality),
    shell:
        "lungsyn generation synthesise --of generator={wildcards.generator} set={wildcards.set} size={wildcards.size}"
        " --generator {params.generator:q} --conditions {params.conditions:q}"
        " {params.model} {params.reference} --source {params.source:q} {params.like}"
        " --rows {input.rows} --batch {wildcards.batch}"
        " --synthesis {params.synthesis:q} --quality {params.quality:q} --cases {input.cases} {COMPUTE}"
        " --cost {output.cost} --out {output.folder} > {log} 2>&1"
