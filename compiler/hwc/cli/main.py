"""The ``hwc`` command: global options, sub-commands, and one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

import hwc
from hwc.cli import build, bundles, cache, export, facts, predict, registry, report, route

app = typer.Typer(
    name="hwc",
    help="Compile a PyTorch model once and ship it, verified and profiled, to every chip in a mixed fleet.",
    no_args_is_help=True,
    rich_markup_mode=None,  # half the start-up time of `hwc --help`
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Newer versions of Typer carry a click of their own, older ones use the package: the base of either's usage errors.
_ClickError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")
build.register(app)
bundles.register(app)
registry.register(app)
cache.register(app)
export.register(app)
facts.register(app)
predict.register(app)
route.register(app)
report.register(app)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"hwc {hwc.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.", envvar="HWC_DEBUG")] = False,
    store: Annotated[Path | None, typer.Option(help="Folder of the bundle store (default: artifacts).")] = None,
    targets_dir: Annotated[Path | None, typer.Option(help="Folder of target descriptors to look in first.")] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Folder of model specifications to look in first.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Set what every command shares; options win over HWC_* variables, those over hwc.toml."""
    del version
    named = {"HWC_STORE": store, "HWC_TARGETS_DIR": targets_dir, "HWC_MODELS_DIR": models_dir}
    os.environ.update({name: str(path.absolute()) for name, path in named.items() if path is not None})
    if debug:
        os.environ["HWC_DEBUG"] = "1"


def main() -> None:
    """Run the command line; exit with the code of the error's class."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command; return its exit code."""
    from hwc import render
    from hwc.errors import HwcError, InternalError, InterruptedBuild

    try:
        code = app(args=argv, standalone_mode=False)  # newer versions of Typer turn Ctrl-C into a code, too
        if code == InterruptedBuild.exit_code:
            raise KeyboardInterrupt
    except typer.Exit as stop:
        return stop.exit_code
    except _ClickError as wrong:
        wrong.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        render.note("interrupted; nothing half-done is visible, and the next run goes on from what was finished")
        return 130
    except HwcError as failure:
        if "HWC_DEBUG" in os.environ:
            traceback.print_exc()
        render.error(failure)
        return failure.exit_code
    except OSError as failure:
        from hwc.files import explain_os_error

        if "HWC_DEBUG" in os.environ:
            traceback.print_exc()
        render.error(explain_os_error(failure, "the operating system refused"))
        return 4
    except Exception as bug:
        if "HWC_DEBUG" in os.environ:
            traceback.print_exc()
        what = f"internal error: {type(bug).__name__}: {bug}"
        render.error(InternalError(what, where=_log_bug(), hint="please report this"))
        return 1
    return code if isinstance(code, int) else 0


def _log_bug() -> str:
    from hwc.spec.project import cache_home

    log = cache_home(os.environ) / "logs" / f"crash-{os.getpid()}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
    except OSError:
        return "the log could not be written; run again with --debug"
    return str(log)
