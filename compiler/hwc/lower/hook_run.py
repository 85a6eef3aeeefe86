"""One executable through the vendor's tool, bounded and checked: ``python -m hwc.lower.hook_run FOLDER``.

IREE's compiler runs it, with the executable on stdin, and takes the answer from stdout. The folder keeps, by the
executable's name, what went in, what came out, what the tool said, and the error if there was one.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from hwc import child, told
from hwc.errors import HwcError, StepError
from hwc.files import confined
from hwc.lower.hook import OBJECTS_VARIABLE, SETTINGS, STDERR
from hwc.lower.kernel_objects import check

_EXECUTABLE = re.compile(r'hal\.executable (?:private |public )?@"?([A-Za-z0-9_.$-]+)')
_EXPORT = re.compile(r'hal\.executable\.export (?:private |public )?@"?([A-Za-z0-9_.$-]+)')
_OBJECT = re.compile(r'hal\.executable\.object<\{[^}]*?path = "([^"]*)"')
_TOLD_LINES = 6


def main(folder: Path) -> int:
    """Serve one executable; return the process's exit status."""
    sent = sys.stdin.read()
    found = _EXECUTABLE.search(sent)
    name = found[1] if found else "unnamed"
    settings = json.loads((folder / SETTINGS).read_text())
    try:
        sys.stdout.write(_answer(folder, name, sent, settings))
    except HwcError as error:
        failed = folder / f"{name}.failed"
        failed.mkdir()
        told.tell(failed, error)
        return 1
    return 0


def _answer(folder: Path, name: str, sent: str, settings: dict[str, Any]) -> str:
    given, answered = folder / f"{name}.in.mlir", folder / f"{name}.out.mlir"
    given.write_text(sent)
    outcome = child.run(
        child.Call(
            argv=settings["argv"], cwd=Path(settings["objects"]), timeout_s=settings["timeout_s"],
            memory_bytes=settings["memory_bytes"], env={OBJECTS_VARIABLE: settings["objects"]}, stdin=given,
            stdout=answered, stdout_bytes=settings["answer_bytes"],
        )
    )
    (folder / f"{name}{STDERR}").write_text(outcome.stderr)
    what = f"the vendor's tool on executable `{name}`"
    if outcome.returncode != 0:
        words = "\n".join(outcome.stderr.strip().splitlines()[-_TOLD_LINES:]) or "it said nothing on stderr"
        raise StepError(
            f"{what}: it {outcome.describe()}\n{words}", where="[vendor] executable_hook",
            hint="raise [vendor] timeout_s if it needs longer" if outcome.stopped_by == "time" else "",
        )
    answer = _text(answered, what)
    _same_interface(sent, answer, name, what)
    objects = dict.fromkeys(_OBJECT.findall(answer))
    own = [path for path in objects if path not in _OBJECT.findall(sent)]
    for path in own:
        _check_object(path, settings, what)
    (folder / f"{name}.objects").write_text("\n".join(own))
    return answer


def _text(path: Path, what: str) -> str:
    try:
        answer = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _garbage(what, f"{path.stat().st_size} bytes that are no text") from error
    if not answer.strip():
        raise _garbage(what, "nothing")
    return answer


def _same_interface(sent: str, answer: str, name: str, what: str) -> None:
    """Raise StepError unless the answer is the same executable with the same exports: the model calls these."""
    names = _EXECUTABLE.findall(answer)
    if not names:
        raise _garbage(what, f"no hal.executable, but {answer.strip().splitlines()[0][:80]!r}")
    if names != [name]:
        raise _garbage(what, f"another executable: {', '.join(names)}")
    wanted, found = _EXPORT.findall(sent), _EXPORT.findall(answer)
    if wanted != found:
        raise _garbage(what, f"other exports: {', '.join(found) or 'none'}, not {', '.join(wanted)}")


def _check_object(path: str, settings: dict[str, Any], what: str) -> None:
    where = f"{what} named the object {path!r}, which"
    try:
        file = confined(Path(settings["objects"]), path)
    except HwcError as error:
        raise StepError(f"{where} lies outside ${OBJECTS_VARIABLE}", where="[vendor] executable_hook") from error
    if not file.is_file():
        raise StepError(f"{where} is not in ${OBJECTS_VARIABLE}", where="[vendor] executable_hook")
    check(file.read_bytes(), settings["architecture"], what=where)


def _garbage(what: str, told_: str) -> StepError:
    return StepError(f"{what}: it wrote {told_}", where="[vendor] executable_hook")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
