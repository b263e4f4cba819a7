"""`drive_meeting.py RUN_FOLDER FOLDER` runs two stages that wait for a third one, which never starts."""

from __future__ import annotations

import sys
from pathlib import Path

from stage_functions import Meeting

from flatprobe.errors import FlatprobeError
from flatprobe.pipeline.runner import RunnerSettings, run
from flatprobe.pipeline.stage import Stage


def meetings(folder: Path, count: int, parties: int | None = None) -> list[Stage]:
    """Stages that end once `parties` of them run (default: all)."""
    return [
        Stage(f"meet/{n}", "stage_functions:meet", Meeting(name=str(n), folder=folder, parties=parties or count))
        for n in range(count)
    ]


def main() -> int:
    run_folder, folder = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        run(meetings(folder, 2, parties=3), run_folder, RunnerSettings(workers=2))
    except FlatprobeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
