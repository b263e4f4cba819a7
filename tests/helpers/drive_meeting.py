"""`drive_meeting.py RUN_FOLDER PLACE` runs two stages at a time that wait for a third, which never comes."""

from __future__ import annotations

import sys
from pathlib import Path

from stage_functions import Meeting

from flatprobe.errors import FlatprobeError
from flatprobe.pipeline.runner import RunnerSettings, run
from flatprobe.pipeline.stage import Stage


def meetings(place: Path, count: int, parties: int | None = None) -> list[Stage]:
    """Stages that end once all (or so many) are under way."""
    return [
        Stage(
            f"meet/{n}", "stage_functions:meet", Meeting(name=str(n), place=place, parties=parties or count)
        )
        for n in range(count)
    ]


def main() -> int:
    folder, place = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        run(meetings(place, 2, parties=3), folder, RunnerSettings(workers=2))
    except FlatprobeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
