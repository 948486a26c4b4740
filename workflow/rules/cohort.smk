# REQUIRED INPUTS: none (phantom), or the raw data below cohort.root (lidc, nifti)
# OUTPUTS:         results/cohort.tsv, results/cases/{case}/


rule phantom:
    """Simulate chests at the identities of LIDC-IDRI scans and write them as DICOM."""
    output:
        directory("results/phantom/LIDC-IDRI"),
    params:
        phantom=settings(STUDY.cohort.phantom),
        nodules=settings(STUDY.cohort.nodules),
        seed=SEED,
    log:
        "results/logs/phantom.log",
    threads: 2
    shell:
        "lungsyn cohort phantom --phantom '{params.phantom}' --nodules '{params.nodules}' --seed {params.seed}"
        " --workers {threads} --out {output} > {log} 2>&1"


checkpoint cohort:
    """List the cases, check their headers, split them by patient. The only table that decides which jobs exist."""
    input:
        raw=RAW,
    output:
        table="results/cohort.tsv",
    params:
        cohort=settings(STUDY.cohort),
        seed=SEED,
    log:
        "results/logs/cohort.log",
    threads: 2
    shell:
        "lungsyn cohort index --cohort '{params.cohort}' --root {input.raw} --seed {params.seed}"
        " --workers {threads} --out {output.table} > {log} 2>&1"


def case_row(wildcards):
    """What is needed to prepare one case: its row without the split, so that another split prepares nothing again."""
    row = next(row for row in cohort_rows() if row["case"] == wildcards.case)
    return json.dumps({key: row[key] for key in ("case", "patient", "source", "annotation")}, sort_keys=True)


rule prepare:
    """Annotations and images of one case to NIfTI: HU, nodules, lungs, body on one isotropic grid."""
    input:
        raw=RAW,
    output:
        ct="results/cases/{case}/ct.nii",
        nodules="results/cases/{case}/nodules.nii",
        lungs="results/cases/{case}/lungs.nii",
        body="results/cases/{case}/body.nii",
        case="results/cases/{case}/case.json",
    params:
        row=case_row,
        cohort=settings(STUDY.cohort),
    log:
        "results/logs/prepare/{case}.log",
    shell:
        "lungsyn cohort prepare --row '{params.row}' --cohort '{params.cohort}' --root {input.raw}"
        " --out results/cases/{wildcards.case} > {log} 2>&1"
