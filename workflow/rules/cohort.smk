# REQUIRED INPUTS: none (a reader that simulates), or the raw data below cohort.root
# OUTPUTS:         results/listing.tsv, results/cases/{case}/, results/cohort.tsv, results/private/names.tsv,
#                  results/nodules.tsv (asked for by name)

import hashlib

from lungsyn.cohort.private import read_names
from lungsyn.hosts import is_host

if READER.simulates:

    rule phantom:
        """Simulate chests at the identities of LIDC-IDRI scans and write them as DICOM."""
        output:
            folder=directory("results/phantom/LIDC-IDRI"),
            cost="results/phantom/cost.json",
        log:
            "results/logs/phantom.log",
        threads: 2
        params:
            recipe=recipe_of("cohort", "phantom", STUDY.cohort.dataset),
            cohort=settings(STUDY.cohort, Simulation),
            seed=SEED,
        shell:
            "lungsyn cohort phantom --cohort {params.cohort:q} --seed {params.seed}"
            " --workers {threads} --cost {output.cost} --out {output.folder} > {log} 2>&1"


def raw_data(_):
    """The raw data that a rule writes, or that are listed once. Others are no input: Snakemake would record names of
    files that may not be public."""
    return RAW if READER.simulates else ancient(RAW) if LISTED_ONCE else []


def files_below(paths, times):
    """A digest over names, sizes and ``times`` of all files at or below ``paths``: it tells that one is new, gone or
    another one, also one that is older than the one before."""
    found = [file for path in map(Path, paths) for file in ([path] if path.is_file() else path.rglob("*"))]
    stats = [(os.fsencode(path), path.stat()) for path in sorted(found) if path.is_file()]
    facts = [(name, stat.st_size, *(getattr(stat, time) for time in times)) for name, stat in stats]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def raw_files(_):
    """Which files there are, by the time of their last change in any way: what is copied may bring an old one."""
    if LISTED_ONCE:
        return ""
    return files_below(READER.watched(Path(RAW), STUDY.cohort), ("st_mtime_ns", "st_ctime_ns"))


def listed_by(wildcards):
    """All that makes the listing again. The table is then made again, too, also where the listing comes out the same:
    Snakemake would leave it out, and start what waits for it without its cases."""
    cohort = settings(STUDY.cohort, Listing)(wildcards)
    phantom = (
        [recipe_of("cohort", "phantom", STUDY.cohort.dataset), as_json(STUDY.cohort.phantom)]
        if READER.simulates
        else []
    )
    recipe = recipe_of("cohort", "index", STUDY.cohort.dataset)
    return [recipe, cohort, str(RAW), raw_files(wildcards), SEED, *phantom]


checkpoint listing:
    """List the cases, check their headers, split them by patient: what the raw data hold."""
    input:
        raw=raw_data,
    output:
        table="results/listing.tsv",
    log:
        "results/logs/listing.log",
    threads: 2
    params:
        recipe=recipe_of("cohort", "index", STUDY.cohort.dataset),
        cohort=settings(STUDY.cohort, Listing),
        root=fixed(RAW),
        files=raw_files,
        seed=SEED,
    shell:
        "lungsyn cohort index --cohort {params.cohort:q} --root {params.root:q} --seed {params.seed}"
        " --workers {threads} --names {NAMES} --out {output.table} > {log} 2>&1"


def listed_rows():
    """Rows of the cases that the listing includes, by case; known once its checkpoint has run."""
    table = Path(checkpoints.listing.get().output.table)
    return listed_in(table, table.stat().st_mtime_ns)


@cache
def listed_in(table, written_ns):
    return {row["case"]: row for row in read_table(table) if row["status"] == "included"}


@cache
def sources_in(names, written_ns):
    """The place of every case's raw files: read once, and not again by each case."""
    return {row["case"]: row["source"] for row in read_names(names)}


def raw_of_case(wildcards):
    """What tells that a case's raw files, or its patient, are others: their digest or, where they are listed once, their
    names, sizes and times. Scores and the audit count patients by what the case itself says of it."""
    row = listed_rows().get(wildcards.case)
    if row is None:
        raise WorkflowError(f"results/listing.tsv includes no case {wildcards.case}")
    role = ["host"] if is_host(row) else []  # of others nothing, so that they are not prepared again
    if not READER.listed_once:
        return [row["raw"], row["patient"], *role]
    source = sources_in(Path(NAMES), Path(NAMES).stat().st_mtime_ns)[wildcards.case]
    return " ".join([files_below([Path(RAW, source)], ("st_mtime_ns",)), *role])


rule prepare:
    """Annotations and images of one case to NIfTI: HU, nodules, lungs, body on one isotropic grid. The labels that
    cohort.labels names lie beside: case.json, which is written last, stands for them."""
    input:
        listing=ancient("results/listing.tsv"),  # whose row of this case is a parameter: others may change
    output:
        ct="results/cases/{case}/ct.nii",
        nodules="results/cases/{case}/nodules.nii.gz",
        lungs="results/cases/{case}/lungs.nii.gz",
        body="results/cases/{case}/body.nii.gz",
        case="results/cases/{case}/case.json",
        cost="results/cases/{case}/cost.json",
    log:
        "results/logs/prepare/{case}.log",
    params:
        recipe=recipe_of("cohort", "prepare", STUDY.cohort.dataset),
        raw=raw_of_case,
        cohort=settings(STUDY.cohort, Preparation),
        root=fixed(RAW),
    shell:
        "lungsyn cohort prepare --case={wildcards.case} --cohort {params.cohort:q} --root {params.root:q}"
        " --names {NAMES} --cost {output.cost} --out results/cases/{wildcards.case} > {log} 2>&1"


checkpoint cohort:
    """The cases that could be prepared. The table that decides which jobs exist."""
    input:
        listing="results/listing.tsv",
        cases=lambda _: [f"results/cases/{case}/case.json" for case in listed_rows()],
    output:
        table="results/cohort.tsv",
    log:
        "results/logs/cohort.log",
    params:
        recipe=recipe_of("cohort", "table"),
        listed_by=listed_by,
    shell:
        "lungsyn cohort table --listing {input.listing} --cases {input.cases} --out {output.table} > {log} 2>&1"


rule nodules:
    """One row per nodule of every prepared case. No other rule needs it: snakemake ... results/nodules.tsv."""
    input:
        cases=cases("train", "validation", "test"),
    output:
        table="results/nodules.tsv",
    log:
        "results/logs/nodules.log",
    params:
        recipe=recipe_of("cohort", "nodules"),
    shell:
        "lungsyn cohort nodules --cases {input.cases} --out {output.table} > {log} 2>&1"
