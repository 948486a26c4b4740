# REQUIRED INPUTS: results/cases/{case}/, results/synthetic/{generator}/{set}/{size}/, results/generator/{generator}/{size}/
# OUTPUTS:         results/audit/{set}/{size}/nearest.tsv, results/audit/{set}/{size}/verdict.json,
#                  results/audit/membership/{generator}/{size}.tsv, results/audit/{set}/{size}/fidelity.json,
#                  results/audit/{set}/{size}/masks.tsv, results/quality/{set}/{size}.tsv


def held_out_splits(wildcards):
    """Splits of which the generator knows nothing. A set with masks from validation cases is compared with test cases
    only, so that no set is measured against the cases whose masks it has."""
    return ["test"] if source_of(STUDY.sets[wildcards.set]).split == "validation" else ["validation", "test"]


def donors(wildcards):
    """Cases beside the train ones from which a set has its masks: their outlines may be given away too."""
    return cases("validation")(wildcards) if source_of(STUDY.sets[wildcards.set]).split == "validation" else []


def attackable(generator):
    """Whether there is a model whose loss can be asked for."""
    return trained(generator) and made_by(generator).attackable


def of_set(wildcards):
    """The command line's words for which set it is about, and who made it."""
    generator = STUDY.sets[wildcards.set].generator
    return f"--of generator={generator} set={wildcards.set} size={wildcards.size}"


rule memorisation:
    """The nearest train case of every synthetic, held-out and planted one: nodules, volumes, parts and outlines."""
    input:
        synthetic=lambda w: batches(w.set, w.size),
        train=LEARNED,
        held_out=lambda w: cases(*held_out_splits(w))(w),
        donors=donors,
    output:
        neighbours="results/audit/{set}/{size}/nearest.tsv",
        cost="results/audit/{set}/{size}/nearest.cost.json",
    log:
        "results/logs/memorisation/{set}/{size}.log",
    threads: STUDY.compute.generator_threads
    resources:
        gpu=GPU,
    params:
        recipe=recipe_of("audit", "memorisation"),
        of=of_set,
        audit=settings(STUDY.audit, Probing),
        seed=SEED,
    shell:
        "lungsyn audit memorisation {params.of} --audit {params.audit:q} --seed {params.seed}"
        " --synthetic {input.synthetic} --train {input.train} --held-out {input.held_out}"
        " --donors {input.donors} {COMPUTE} --cost {output.cost} --out {output.neighbours} > {log} 2>&1"


rule membership:
    """The generator's loss on each case that it learned from, and on each of the validation and test cases."""
    input:
        model="results/generator/{generator}/{size}/model.safetensors",
        train=LEARNED,
        unseen=cases("validation", "test"),
    output:
        losses="results/audit/membership/{generator}/{size}.tsv",
        cost="results/audit/membership/{generator}/{size}.cost.json",
    log:
        "results/logs/membership/{generator}/{size}.log",
    threads: STUDY.compute.generator_threads
    resources:
        gpu=GPU,
    params:
        recipe=lambda w: recipe_of("audit", "membership", kind_of(w)),
        seed=SEED,
    shell:
        "lungsyn audit membership --of generator={wildcards.generator} size={wildcards.size} --model {input.model}"
        " --seed {params.seed} --train {input.train} --unseen {input.unseen} {COMPUTE}"
        " --cost {output.cost} --out {output.losses} > {log} 2>&1"


rule verdict:
    """Can the set be shared? Every check with its value, its threshold and a sentence."""
    input:
        synthetic=lambda w: batches(w.set, w.size),
        neighbours="results/audit/{set}/{size}/nearest.tsv",
        membership=of_generator("results/audit/membership/{generator}/{size}.tsv", attackable),
    output:
        report("results/audit/{set}/{size}/verdict.json", caption="../report/verdict.rst", category="Can it be shared?"),
    log:
        "results/logs/verdict/{set}/{size}.log",
    params:
        recipe=recipe_of("audit", "verdict"),
        of=of_set,
        audit=settings(STUDY.audit, Thresholds),
        membership=lambda w, input: f"--membership {input.membership}" if input.membership else "",
        splits=held_out_splits,
        seed=SEED,
    shell:
        "lungsyn audit verdict {params.of} --audit {params.audit:q} --seed {params.seed}"
        " --held-out-splits {params.splits} --synthetic {input.synthetic} --neighbours {input.neighbours}"
        " {params.membership} --out {output} > {log} 2>&1"


def all_train(wildcards):
    """All that generators learn from; of the fold, if there are any."""
    return case_files(training_set(100, of_training_set(wildcards.size).get("fold")), ["train"], hosts=True)


rule fidelity:
    """How many of a set's volumes were rejected; how far it is from the train cases, beside held-out real ones."""
    input:
        train=all_train,  # at every size: one reference and one floor
        held_out=cases("validation", "test"),
        synthetic=lambda w: batches(w.set, w.size),
        reference=of_generator(RANGES, is_checked),
        weights=STUDY.audit.fidelity.weights or [],
    output:
        fidelity="results/audit/{set}/{size}/fidelity.json",
        quality="results/quality/{set}/{size}.tsv",
        masks="results/audit/{set}/{size}/masks.tsv",
        cost="results/audit/{set}/{size}/fidelity.cost.json",
    log:
        "results/logs/fidelity/{set}/{size}.log",
    params:
        recipe=recipe_of("audit", "fidelity"),
        of=of_set,
        fidelity=settings(STUDY.audit.fidelity),
        reference=lambda w, input: f"--reference {input.reference}" if input.reference else "",
        seed=SEED,
    shell:
        "lungsyn audit fidelity {params.of} --real-train {input.train} --real-held-out {input.held_out}"
        " --synthetic {input.synthetic} {params.reference} --fidelity {params.fidelity:q} --seed {params.seed}"
        " --quality {output.quality} --masks {output.masks} --cost {output.cost} --out {output.fidelity} > {log} 2>&1"
