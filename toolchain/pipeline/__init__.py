"""compress(), in files by what its steps are for: convert, prove, choose, pack."""

from toolchain.pipeline.run import Outcome, compress, take_part

__all__ = ["Outcome", "compress", "take_part"]
