"""Hosts: cases without marked lesions. They teach the generator and lend their bodies.

They are train cases, in no arm as labelled data and in no test. Nobody says that they are healthy.
"""

from collections.abc import Mapping

MARKED, HOST = "marked", "host"  # the role of a case


def is_host(row: Mapping) -> bool:
    """Whether a row of a table of cases, or a case's ``about``, is a host's. Older ones know no role.

    >>> is_host({"case": "case-0012", "role": "host"})
    True
    """
    return row.get("role") == HOST
