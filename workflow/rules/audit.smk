# REQUIRED INPUTS: results/cases/{case}/, results/synthetic/{generator}/{set}/{size}/, results/generator/{generator}/{size}/
# OUTPUTS:         results/audit/{set}/{size}/nearest.tsv, results/audit/{set}/{size}/verdict.json,
#                  results/audit/membership/{generator}/{size}.tsv, results/figures/nearest-{set}-{size}.png,
#                  results/audit/{set}/{size}/fidelity.json, results/figures/fidelity-{set}-{size}.png


def held_out_splits(wildcards):
    """Splits of which the generator knows nothing. A targeted set has its masks from validation cases: it is compared
    with test cases only, so that no set is measured against the cases whose masks it has."""
    targeted = STUDY.sets[wildcards.set].conditions == "targeted"
    return ["test"] if targeted else ["validation", "test"]


rule memorisation:
    """The nearest train case of every synthetic, held-out and planted one: nodules and whole volumes."""
    input:
        synthetic=lambda w: batches(w.set, w.size),
        train=cases("train"),
        held_out=lambda w: cases(*held_out_splits(w))(w),
    output:
        "results/audit/{set}/{size}/nearest.tsv",
    log:
        "results/logs/memorisation/{set}/{size}.log",
    threads: STUDY.compute.generator_threads
    resources:
        gpu=GPU,
    params:
        code=code_of("audit", "memorisation"),
        audit=settings(STUDY.audit, study_config.Probing),
        seed=SEED,
    shell:
        "lungsyn audit memorisation --audit '{params.audit}' --seed {params.seed} --synthetic {input.synthetic}"
        " --train {input.train} --held-out {input.held_out} {COMPUTE} --out {output} > {log} 2>&1"


rule membership:
    """The generator's loss on each case that it learned from, and on each of the validation and test cases."""
    input:
        model="results/generator/{generator}/{size}/model.safetensors",
        train=cases("train"),
        unseen=cases("validation", "test"),
    output:
        "results/audit/membership/{generator}/{size}.tsv",
    log:
        "results/logs/membership/{generator}/{size}.log",
    threads: STUDY.compute.generator_threads
    resources:
        gpu=GPU,
    params:
        code=code_of("audit", "membership"),
        seed=SEED,
    shell:
        "lungsyn audit membership --model {input.model} --seed {params.seed} --train {input.train}"
        " --unseen {input.unseen} {COMPUTE} --out {output} > {log} 2>&1"


def generator_membership(wildcards):
    """The attack on the set's generator; there is nothing to attack where nothing was trained."""
    name = STUDY.sets[wildcards.set].generator
    trained = STUDY.generators[name].kind != "copy_paste"
    return f"results/audit/membership/{name}/{wildcards.size}.tsv" if trained else []


rule verdict:
    """Can the set be shared? Every check with its value, its threshold and a sentence."""
    input:
        neighbours="results/audit/{set}/{size}/nearest.tsv",
        membership=generator_membership,
    output:
        report("results/audit/{set}/{size}/verdict.json", caption="../report/verdict.rst", category="Can it be shared?"),
    log:
        "results/logs/verdict/{set}/{size}.log",
    params:
        code=code_of("audit", "verdict"),
        audit=settings(STUDY.audit, study_config.Thresholds),
        membership=lambda w, input: f"--membership {input.membership}" if input.membership else "",
        splits=held_out_splits,
        seed=SEED,
    shell:
        "lungsyn audit verdict --audit '{params.audit}' --seed {params.seed} --set {wildcards.set}"
        " --size {wildcards.size} --held-out-splits {params.splits} --neighbours {input.neighbours}"
        " {params.membership} --out {output} > {log} 2>&1"


rule plot_nearest:
    """The synthetic cases that are closest to train cases, beside held-out ones."""
    input:
        neighbours="results/audit/{set}/{size}/nearest.tsv",
        synthetic=lambda w: batches(w.set, w.size),
        train=cases("train"),
        held_out=lambda w: cases(*held_out_splits(w))(w),
    output:
        "results/figures/nearest-{set}-{size}.png",
    log:
        "results/logs/plot_nearest/{set}/{size}.log",
    params:
        code=code_of("audit", "plot-nearest"),
        audit=settings(STUDY.audit, study_config.Probing),
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn audit plot-nearest --audit '{params.audit}' --neighbours {input.neighbours} --set {wildcards.set}"
        " --synthetic {input.synthetic} --train {input.train} --held-out {input.held_out} --study '{params.study}'"
        " --figures '{params.figures}' --out {output} > {log} 2>&1"


rule fidelity:
    """How far a synthetic set is from the train cases, beside how far held-out real cases are."""
    input:
        train=lambda w: cases("train")(None),  # all, at every size: one reference and one floor
        held_out=cases("validation", "test"),
        synthetic=lambda w: batches(w.set, w.size),
        weights=STUDY.audit.fidelity.weights or [],
    output:
        "results/audit/{set}/{size}/fidelity.json",
    log:
        "results/logs/fidelity/{set}/{size}.log",
    params:
        code=code_of("audit", "fidelity"),
        fidelity=settings(STUDY.audit.fidelity),
        seed=SEED,
    shell:
        "lungsyn audit fidelity --real-train {input.train} --real-held-out {input.held_out}"
        " --synthetic {input.synthetic} --set {wildcards.set} --size {wildcards.size} --fidelity '{params.fidelity}'"
        " --seed {params.seed} --out {output} > {log} 2>&1"


rule plot_fidelity:
    """Each measure of a synthetic set beside its real-vs-real floor, at a glance."""
    input:
        "results/audit/{set}/{size}/fidelity.json",
    output:
        report(
            "results/figures/fidelity-{set}-{size}.png", caption="../report/fidelity.rst", category="How real is it?"
        ),
    log:
        "results/logs/plot_fidelity/{set}/{size}.log",
    params:
        code=code_of("audit", "plot-fidelity"),
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn audit plot-fidelity --fidelity {input} --study '{params.study}' --figures '{params.figures}'"
        " --out {output} > {log} 2>&1"
