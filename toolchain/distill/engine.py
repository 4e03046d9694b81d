"""Engine: holds the student while it trains, and takes its steps.

The loop computes losses; where weights, gradients and moments lie, and how ranks add up gradients,
is the engine's. `Whole` keeps a copy of everything in every process; others keep the student in
pieces. What it learns beside its weights (projections, masks, memories) is small and stays whole.

A parameter that got no gradient in a step is left alone by all engines: no decay, no moments.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

from accelerate import Accelerator
from torch import Tensor, nn

from toolchain.distill.optimizer import clip, optimizer_of
from toolchain.distill.records import StageRun
from toolchain.distill.tables import row_gradients

__all__ = ["Engine", "Holding", "Moments", "Weights", "Whole", "sum_gradients"]

Weights = Iterable[tuple[str, Tensor]]
"""Tensors by the names they have in a `state_dict`."""

Moments = Iterable[tuple[int, Mapping[str, Tensor]]]
"""The optimiser's state of parameters that have one, by their number in `groups_of`'s order."""


class Engine(Protocol):
    """One stage's student in training. All ranks call its methods in the same order.

    `in_place` says whether the weights stay where they are between passes. Where they come and go,
    the student cannot answer in inference mode, and all ranks run it equally often.
    """

    @property
    def in_place(self) -> bool:
        """Whether weights stay where they are."""

    def backward(self, loss: Tensor, *, student: bool = True) -> None:
        """Add up this rank's gradients; without `student`, it has no part in the loss."""

    def step(self, lr: float, own: float | None, norm: float) -> None:
        """Sum gradients over ranks, clip them to `norm` together, update, and forget them.

        A surgery's own parameters learn at `own` and are not clipped; None treats them as all.
        """

    def whole(self, parameter: Tensor) -> Tensor:
        """Return a parameter of the student's as a whole tensor, which has its gradient."""

    def weights(self) -> Weights:
        """Yield the student's whole state, one tensor at a time; nothing but on rank 0."""

    def moments(self) -> Moments:
        """Yield whole moments, one parameter's at a time; nothing but on rank 0."""

    def resume(self, moments: Moments) -> None:
        """Take up moments that were saved, on any number of ranks."""

    def close(self) -> None:
        """Give the student back whole, as it came. May be called again."""


Holding = Callable[[Accelerator, Mapping[str, nn.Module], StageRun], Engine]
"""Takes a run's modules, the "student" among them, on its device."""


class Whole:
    """A copy of everything in every process; gradients are summed over them."""

    in_place = True

    def __init__(
        self, accelerator: Accelerator, modules: Mapping[str, nn.Module], run: StageRun
    ) -> None:
        self._accelerator, self._student = accelerator, modules["student"]
        self._entered = ExitStack()
        # Other ranks' rows are others, and a GPU clears a table in no time.
        if accelerator.num_processes == 1 and accelerator.device.type == "cpu":
            self._entered.enter_context(row_gradients(self._student))
        self._optimizer = accelerator.prepare_optimizer(
            optimizer_of(modules, run.lr, run.weight_decay)
        )

    def backward(self, loss: Tensor, *, student: bool = True) -> None:  # noqa: ARG002
        """Add up this rank's gradients."""
        self._accelerator.backward(loss)

    def step(self, lr: float, own: float | None, norm: float) -> None:
        """Sum, clip, update, forget."""
        groups = self._optimizer.param_groups
        for group in groups:
            group["lr"] = lr if own is None or not group["surgery"] else own
        sum_gradients(self._accelerator, [p for group in groups for p in group["params"]])
        # What has a rate of its own has gradients of a size of its own.
        clipped = [g["params"] for g in groups if own is None or not g["surgery"]]
        clip([p for params in clipped for p in params], norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def whole(self, parameter: Tensor) -> Tensor:
        """Return the parameter."""
        return parameter

    def weights(self) -> Weights:
        """Yield the student's state."""
        if self._accelerator.is_main_process:
            yield from self._student.state_dict().items()

    def moments(self) -> Moments:
        """Return the optimiser's state."""
        if self._accelerator.is_main_process:
            yield from self._optimizer.optimizer.state_dict()["state"].items()

    def resume(self, moments: Moments) -> None:
        """Take up saved moments."""
        groups = self._optimizer.optimizer.state_dict()["param_groups"]
        state = {index: dict(own) for index, own in moments}
        self._optimizer.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def close(self) -> None:
        """Give its tables dense gradients again."""
        self._entered.close()


def sum_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Sum gradients over ranks; which parameters have one is the same on all of them."""
    if accelerator.num_processes > 1:
        for gradient in (p.grad for p in parameters if p.grad is not None):
            gradient.copy_(accelerator.reduce(gradient, "sum"))
