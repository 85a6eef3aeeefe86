"""The child process of one step: ``python -m hwc.pipeline.work FOLDER`` runs the stage its request names."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hwc import told
from hwc.errors import HwcError
from hwc.files import explain_os_error
from hwc.job import Job


def main(folder: Path) -> int:
    """Run one stage; tell an HwcError to the parent in a file and return its exit code."""
    from hwc.pipeline.stages import STAGES

    request = json.loads((folder / ".request.json").read_text())
    job = Job(
        params=request["params"],
        local=request["local"],
        inputs={role: Path(path) for role, path in request["inputs"].items()},
        out=folder,
        work=Path(request["work"]),
    )
    try:
        STAGES[request["stage"]].function(job)
    except HwcError as error:
        told.tell(folder, error)
        return error.exit_code
    except OSError as error:
        failure = explain_os_error(error, f"{request['stage']} cannot go on")
        told.tell(folder, failure)
        return failure.exit_code
    (folder / ".finished").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
