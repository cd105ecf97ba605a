"""Put result files of calls that ran side by side, on GPUs of one host, into one file.

    python benchmarks/serving_merge.py one.json two.json --out benchmarks/results/serving-h100.json

The files have to agree in hardware, versions, model and the package's source. Calls are numbered
anew in the order of the files; rows that several files hold alike, since one began as a copy of
another, stay what they are in the first. Of rows about the same case the last file's counts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from serving_parts.join import joined
from serving_parts.result import MergeError, load, save


def main() -> None:
    """Read the files, write the one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    results = []
    for path in options.files:
        found = load(path)
        if found is None:
            sys.exit(f"{path} is not there")
        results.append(found)
    try:
        save(options.out, joined(results))
    except MergeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
