# REQUIRED INPUTS: none (phantom), or the raw data below cohort.root (lidc, nifti)
# OUTPUTS:         results/cohort.tsv, results/cases/{case}/, results/nodules.tsv (asked for by name)


rule phantom:
    """Simulate chests at the identities of LIDC-IDRI scans and write them as DICOM."""
    output:
        directory("results/phantom/LIDC-IDRI"),
    log:
        "results/logs/phantom.log",
    threads: 2
    params:
        code=code_of("cohort", "phantom"),
        phantom=settings(STUDY.cohort.phantom),
        nodules=settings(STUDY.cohort.nodules),
        seed=SEED,
    shell:
        "lungsyn cohort phantom --phantom {params.phantom:q} --nodules {params.nodules:q} --seed {params.seed}"
        " --workers {threads} --out {output} > {log} 2>&1"


def raw_data(_):
    """The root of the raw data; of NIfTI files also their folders and their list, whose times tell of new files. DICOM is
    listed once: a download that goes on would move patients from one split to another."""
    if STUDY.cohort.dataset == "lidc":
        return ancient(RAW)
    parts = ("cases.tsv", "images", "labels", "imagesTr", "labelsTr") if STUDY.cohort.dataset == "nifti" else ()
    return [RAW, *(path for path in (f"{RAW}/{part}" for part in parts) if os.path.exists(path))]


checkpoint cohort:
    """List the cases, check their headers, split them by patient. The only table that decides which jobs exist."""
    input:
        raw=raw_data,
    output:
        table="results/cohort.tsv",
    log:
        "results/logs/cohort.log",
    threads: 2
    params:
        code=code_of("cohort", "index"),
        cohort=settings(STUDY.cohort, study_config.Listing),
        root=RAW,
        seed=SEED,
    shell:
        "lungsyn cohort index --cohort {params.cohort:q} --root {params.root:q} --seed {params.seed}"
        " --workers {threads} --out {output.table} > {log} 2>&1"


def case_row(wildcards):
    """What is needed to prepare one case: its row without the split, so that another split prepares nothing again."""
    row = next(row for row in cohort_rows() if row["case"] == wildcards.case)
    return {key: row[key] for key in ("case", "patient", "source", "annotation")}


def case_files(wildcards):
    """One case's raw files: image and label, or a series' folder with its newest file, to notice one that is changed."""
    row = case_row(wildcards)
    source = Path(RAW, row["source"])
    if not source.is_dir():
        return [source, Path(RAW, row["annotation"])]
    files = sorted(os.scandir(source), key=lambda file: (file.stat().st_mtime_ns, file.name))
    return [source, *(file.path for file in files[-1:])]


rule prepare:
    """Annotations and images of one case to NIfTI: HU, nodules, lungs, body on one isotropic grid."""
    input:
        raw=case_files,
    output:
        ct="results/cases/{case}/ct.nii",
        nodules="results/cases/{case}/nodules.nii",
        lungs="results/cases/{case}/lungs.nii",
        body="results/cases/{case}/body.nii",
        case="results/cases/{case}/case.json",
    log:
        "results/logs/prepare/{case}.log",
    params:
        code=code_of("cohort", "prepare"),
        row=lambda w: json.dumps(case_row(w), sort_keys=True),
        cohort=settings(STUDY.cohort, study_config.Preparation),
        root=RAW,
    shell:
        "lungsyn cohort prepare --row {params.row:q} --cohort {params.cohort:q} --root {params.root:q}"
        " --out results/cases/{wildcards.case} > {log} 2>&1"


rule nodules:
    """One row per nodule of every prepared case. No other rule needs it: snakemake ... results/nodules.tsv."""
    input:
        cases=cases("train", "validation", "test"),
    output:
        table="results/nodules.tsv",
    log:
        "results/logs/nodules.log",
    params:
        code=code_of("cohort", "nodules"),
    shell:
        "lungsyn cohort nodules --cases {input.cases} --out {output.table} > {log} 2>&1"
