"""What share of a suite of small ONNX networks in many styles `withstand verify` solves, and whether rightly.

    python benchmarks/verify_suite.py --folder runs/verify-suite --out results/benchmarks/verify_suite.json

The networks are trained and written first, in a minute; each property then has a process of its own and 60
seconds. The same command goes on where it was stopped. It ends with status 1 where an answer contradicts one
that is known, or more than a tenth are open.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from onnx_suite.suite import write
from withstand.results.instances import InstanceRow
from withstand.runs.benchmark import verify_instances

_BAR = 0.1  # of what may stay unknown


def main() -> int:
    """Writes the suite, verifies it, and prints what came of each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/verify-suite"), help="for files and results"
    )
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a property")
    parser.add_argument("--only", default="", help="networks whose names have this")
    parser.add_argument("--out", type=Path, help="a JSON file of the figures")
    settings = parser.parse_args()
    answers = write(settings.folder / "suite", timeout=settings.timeout, only=settings.only)
    rows = verify_instances(
        settings.folder / "suite" / "instances.csv", settings.folder / "results", on_row=_tell
    )
    known = {(row.onnx, row.vnnlib): answers[row.onnx, row.vnnlib] for row in rows}
    wrong = [row for row in rows if row.is_solved and known[row.onnx, row.vnnlib] not in (None, row.result)]
    print(_table(rows))
    unsolved = sum(not row.is_solved for row in rows)
    seconds = sum(row.prepare_time + row.time for row in rows)
    print(
        f"{unsolved} of {len(rows)} open ({100 * unsolved / len(rows):.1f} %; bar {100 * _BAR:.0f} %), "
        f"{sum(answer is not None for answer in known.values())} with a known answer, {len(wrong)} wrong, "
        f"{seconds:.0f} s"
    )
    for row in wrong:
        print(f"WRONG: {row.onnx} {row.vnnlib}: {row.result}, but it is {known[row.onnx, row.vnnlib]}")
    if settings.out is not None:
        counts = dict(Counter(row.result for row in rows))
        content = {
            "timeout": settings.timeout,
            "results": counts,
            "wrong": len(wrong),
            "seconds": round(seconds, 1),
        }
        settings.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return int(bool(wrong) or unsolved > _BAR * len(rows))


def _table(rows: Sequence[InstanceRow]) -> str:
    by_net: dict[str, list[InstanceRow]] = defaultdict(list)
    for row in rows:
        by_net[Path(row.onnx).stem].append(row)
    head = f"{'network':<26}{'unsat':>6}{'sat':>6}{'open':>6}{'splits':>8}{'seconds':>9}  open properties"
    return "\n".join([head, *(_line(name, of_net) for name, of_net in by_net.items())])


def _line(name: str, rows: Sequence[InstanceRow]) -> str:
    counts = Counter(row.result for row in rows)
    still_open = [row for row in rows if not row.is_solved]
    names = ", ".join(f"{Path(row.vnnlib).stem} ({row.message or row.result})" for row in still_open)
    splits, seconds = sum(row.num_splits for row in rows), sum(row.time for row in rows)
    numbers = f"{counts['unsat']:>6}{counts['sat']:>6}{len(still_open):>6}{splits:>8}{seconds:>9.1f}"
    return f"{name:<26}{numbers}  {names}".rstrip()


def _tell(done: int, total: int, row: InstanceRow, is_new: bool) -> None:
    took = f"{row.time:.1f} s" if is_new else "as before"
    print(f"{done}/{total} {row.vnnlib}: {row.result} ({took})", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
