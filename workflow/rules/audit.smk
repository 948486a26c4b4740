# REQUIRED INPUTS: results/synthetic/{generator}/{set}/{size}/, results/cases/{case}/
# OUTPUTS:         results/audit/{set}/{size}/, results/figures/fidelity-{set}-{size}.png


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
        "results/figures/fidelity-{set}-{size}.png",
    log:
        "results/logs/plot_fidelity/{set}/{size}.log",
    params:
        study=settings(STUDY.study),
        figures=settings(STUDY.figures),
    shell:
        "lungsyn audit plot-fidelity --fidelity {input} --study '{params.study}' --figures '{params.figures}'"
        " --out {output} > {log} 2>&1"
