"""The command line: one place that knows all commands and turns errors into exit codes.

Commands import what is heavy only when they run, so that `--help` answers at once.
"""

import logging
import os
import sys
import traceback

import typer
from rich.console import Console

from toolchain.cli import (
    benchmark,
    bundle,
    cache,
    compress,
    design,
    distill,
    doctor,
    export,
    finetune,
    methods,
    plan,
    quantize,
    report,
    study,
    targets,
    verify,
)
from toolchain.cli.options import version
from toolchain.errors import ToolchainError
from toolchain.scale import processes

__all__ = ["app", "main"]

_EPILOG = (
    "Exit codes: 0 done; 1 a step failed; 2 wrong usage or bad input; 3 a gate was not met "
    "(artefacts kept, reason printed); 4 parity or integrity failure; 5 it would not fit (memory, "
    "disk); 130 interrupted (state saved, run the same command again)."
)

# Where torchao is installed transformers imports it, and it complains of kernels for other CPUs.
_TALKATIVE = ("torchao", "torch.utils._pytree")

app = typer.Typer(
    name="toolchain",
    help="Distil, export, quantise, verify, measure and bundle a transformer in one command.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(version)
app.command("compress")(compress.run)
app.command("plan")(plan.run)
app.command("finetune")(finetune.run)
app.command("design")(design.run)
app.command("cache")(cache.run)
app.command("distill")(distill.run)
app.command("export")(export.run)
app.command("quantize")(quantize.run)
app.command("verify")(verify.run)
app.command("benchmark")(benchmark.run)
app.command("bundle")(bundle.run)
app.command("report")(report.run)
app.command("study")(study.run)
app.command("methods")(methods.run)
app.command("targets")(targets.run)
app.command("doctor")(doctor.run)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if argv is None else argv
    # Launchers that number processes on the command line do so in the environment as well.
    arguments = [word for word in given if not word.startswith("--local_rank=")]
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    # Read when torch loads: threads that spin while they wait starve each other as soon as anything
    # else runs (measured beside one busy process on two cores: 10 samples/s, against 220).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        app(args=arguments)
    except ToolchainError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        who = "" if processes.is_main() else f"process {processes.rank()}: "
        errors.print(f"{who}error: {error.message}", markup=False, style="bold red")
        if error.hint:
            errors.print(f"  {error.hint}", markup=False)
        return error.exit_code
    except SystemExit as done:
        # typer has shown the usage, the help or its own message already.
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0
