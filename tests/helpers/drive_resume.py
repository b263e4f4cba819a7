"""`drive_resume.py RUN_FOLDER WORK_FOLDER` runs a stage that counts to six and saves every number."""

from __future__ import annotations

import sys
from pathlib import Path

from stage_functions import Gate

from flatprobe.errors import FlatprobeError
from flatprobe.pipeline.display import PlainDisplay
from flatprobe.pipeline.runner import run
from flatprobe.pipeline.stage import Stage


def counting(work: Path) -> Stage:
    gate = Gate(entered=work / "entered", opened=work / "opened", tally=work / "tally")
    return Stage("count", "stage_functions:count_on", gate)


def main() -> int:
    folder, work = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        run([counting(work)], folder, display=PlainDisplay())
    except FlatprobeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
