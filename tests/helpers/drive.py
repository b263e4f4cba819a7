"""`drive.py RUN_FOLDER WORK_FOLDER` runs three stages; tests interrupt or kill the process."""

from __future__ import annotations

import sys
from pathlib import Path

from stage_functions import Gate, Number

from flatprobe.errors import FlatprobeError
from flatprobe.pipeline.display import PlainDisplay
from flatprobe.pipeline.runner import run
from flatprobe.pipeline.stage import Stage


def three_stages(work: Path) -> Stage:
    tally = work / "tally"
    before = Stage("before", "stage_functions:write", Number(value=1, tally=tally))
    gate = Gate(entered=work / "entered", opened=work / "opened", tally=tally)
    waiting = Stage("wait", "stage_functions:wait", gate, {"first": before})
    return Stage("after", "stage_functions:add", Number(value=10, tally=tally), {"waited": waiting, "first": before})


def main() -> int:
    folder, work = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        run([three_stages(work)], folder, display=PlainDisplay())
    except FlatprobeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
