"""`python -m toolchain.demo`: the whole of toolchain on a task and an encoder of its own."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from toolchain.__main__ import main as toolchain
from toolchain.demo import encoder, grammar
from toolchain.errors import ToolchainError

__all__ = ["main"]

# A stranger waits minutes, not a coffee break: two brisk epochs for the teacher; the student, with
# twice the rows, has three quarters of one on intermediate layers and half a one on predictions.
_BRISK = (
    "finetune.epochs=2",
    "finetune.lr=1.5e-4",
    "train.lr=3e-4",
    "train.epochs=0.5",
    "stages.inter.epochs=0.75",
    "benchmark.min_seconds=1",
    "benchmark.tokens=[32, 128]",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the inputs, show the command a user would type, run it; return its exit code.

    Options that are not known here go to `toolchain compress`.
    """
    parser = argparse.ArgumentParser(prog="python -m toolchain.demo", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/demo"), metavar="DIR")
    options, rest = parser.parse_known_args(argv)
    output: Path = options.output
    inputs = output.with_name(f"{output.name}-inputs")
    try:
        grammar.write(inputs / "smart-home")
        teacher = encoder.fetch(inputs / "all-MiniLM-L6-v2")
    except ToolchainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    command = ["compress", "--teacher", str(teacher), "--data", str(inputs / "smart-home")]
    command += ["--layers", "3", "--method", "tinybert+kd"]
    command += [f"data.unlabelled={inputs / 'smart-home' / 'logs.txt'}"]
    command += ["--target", "host", "--target", "raspberry-pi-4"]
    command += ["-o", str(output), *_BRISK, *rest]
    print(f"$ toolchain {shlex.join(command)}", file=sys.stderr)
    return toolchain(command)


if __name__ == "__main__":
    sys.exit(main())
