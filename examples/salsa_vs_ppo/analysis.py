"""Read the finished pipelines of a study and print its tables, as PLAN.md lays them down.

    python analysis.py study/                      Markdown on stdout
    python analysis.py study/ --json results.json  the figures of every pipeline, too
    python analysis.py study/ --html report.html   a page with charts and the same tables, too
    python analysis.py results.json                the same tables from these figures

Works on a study that is not finished: each figure says from how many pipelines it is.
"""

import argparse
import json
import sys
from pathlib import Path

import report
from claims import claims
from pipelines import left_out, read_study, to_record
from tables import tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="a study's folder, or a file of its figures")
    parser.add_argument("--json", type=Path, help="file for the figures of every pipeline")
    parser.add_argument("--html", type=Path, help="file for a page with charts and all tables")
    given = parser.parse_args()
    if not given.study.exists():
        sys.exit(f"error: there is no {given.study}")
    try:
        without = left_out(given.study)
        study = read_study(given.study)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        sys.exit(f"error: {given.study} is not a study's folder or its figures: {error!r}")
    for name in without:
        print(f"note: {name} is left out: no pair of SFT models was admitted", file=sys.stderr)
    if not study:
        sys.exit(f"error: no finished pipeline in {given.study}")
    record = {name: [to_record(unit) for unit in found] for name, found in study.items()}
    try:
        if given.json:
            given.json.write_text(json.dumps(record) + "\n", encoding="utf-8")
        if given.html:
            given.html.write_text(report.page(study), encoding="utf-8")
    except OSError as error:
        sys.exit(f"error: {error}")
    print("\n".join(table.markdown() for table in [claims(study), *tables(study)]))


if __name__ == "__main__":
    main()
