"""`snakemake --lint` less what this project does on purpose. Ends with 1 if anything else is found."""

import subprocess
import sys

WAIVED = {
    "Specify a conda environment or container for each rule": "one pinned environment runs every rule: envs/",
    "Mixed rules and functions in same snakefile": "an input function stands beside the one rule that it serves",
    "Shell command directly uses variable COMPUTE": "where and how it runs: changing it must rerun nothing",
    "Shell command directly uses variable TOGETHER": "likewise",
    "Shell command directly uses variable TITLE": "likewise: it stands on a picture to look on",
    "Shell command directly uses variable NAMES": "no input on purpose: one case's change would prepare all again",
    "Environment variable PATH used": "every job inherits it: so the package is found by its interpreter",
    "Environment variable USER used": "Snakemake asks for it, and a container's user may have none",
}


def main() -> int:
    ended = subprocess.run(["snakemake", "--lint"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    titles = [line.strip("* :") for line in ended.stdout.splitlines() if line.startswith("    * ")]
    if any(not title.startswith(tuple(WAIVED)) for title in titles) or (ended.returncode and not titles):
        print(ended.stdout)
        return 1
    print(f"snakemake --lint: {len(titles)} remarks of the waived kinds, nothing else")
    return 0


if __name__ == "__main__":
    sys.exit(main())
