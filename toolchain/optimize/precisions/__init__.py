"""The precisions: one file each; see `toolchain.optimize.precision`."""
