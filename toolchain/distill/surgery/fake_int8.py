"""Quantisation-aware training: the student computes with the rounding of its int8 file.

Fake quantisation with straight-through gradients (Jacob et al., CVPR 2018; arXiv 1712.05877,
section 3), of activations whose range is found anew for every input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Moment
from toolchain.distill.shapes import Unfit
from toolchain.distill.surgery.surgery import Operation, Surgery
from toolchain.lazy import lazy
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from toolchain.distill.teachers import Readable, TrainingModel
else:
    torch = lazy("torch")

__all__ = ["FakeInt8", "Product", "Rounding"]


@dataclass(frozen=True)
class Product:
    """A module that multiplies by a matrix the file stores as int8.

    `first` says that the file computes it for the first token of a sequence alone.
    """

    path: str
    first: bool = False

    def __str__(self) -> str:
        """Return its path, with [0] where it reads the first token."""
        return f"{self.path}[0]" if self.first else self.path


@dataclass(frozen=True)
class FakeInt8(Surgery):
    """Products read uint8 inputs and int8 weights, tables give uint8 rows; all else is fp32.

    Inputs have one range per sequence over its real tokens, since int8 files are judged and used
    one row at a time: `products` and `tables` are the modules a file has in int8, and what they see
    of a row there.
    """

    key: ClassVar[str] = "fake_int8"
    exact: ClassVar[bool] = True
    reads_teachers: ClassVar[bool] = False
    # They are multiplied by the last layer's own weights, past its forward method.
    hides: ClassVar[frozenset[str]] = frozenset({"states"})
    products: tuple[Product, ...] = ()
    tables: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return what decides the outcome, for digests."""
        products = " ".join(map(str, self.products))
        return f"FakeInt8(products={products}, tables={' '.join(self.tables)})"

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:  # noqa: ARG002
        """Raise Unfit for a decoder."""
        if student.causal:
            raise Unfit(
                "a decoder reads a prompt at once and then token by token, with other ranges",
                "int8 with a range per token is not trained for",
            )

    def begin(
        self,
        student: "TrainingModel",
        teachers: "Sequence[Readable]",  # noqa: ARG002
    ) -> "Rounding":
        """Let the student round as its file does, in training and evaluation."""
        return Rounding(self, student.model)


class Rounding(Operation):
    """The rounding under way: modules have a forward method of their own, none is added.

    The weights that are trained are not rounded themselves; quantised, they are what was computed
    with, so nothing has to be folded.
    """

    def __init__(self, surgery: FakeInt8, model: "nn.Module") -> None:
        self._real_BN: Tensor | None = None
        self._last: tuple[Tensor, bool, Tensor] | None = None
        self._entrance = model.register_forward_pre_hook(
            self._enter, prepend=True, with_kwargs=True
        )
        self._changed: list[nn.Module] = []
        for product in surgery.products:
            module = model.get_submodule(product.path)
            self._change(module, self._multiplying(module, product.first))
        for path in surgery.tables:
            module = model.get_submodule(path)
            self._change(module, _looking_up(module))

    def before_step(self, moment: Moment) -> None:
        """Every step rounds alike."""

    def heal(self) -> None:
        """Give the modules their own forward method back."""
        self._entrance.remove()
        for module in self._changed:
            del module.forward
        self._last = None

    def _enter(
        self,
        model: "nn.Module",  # noqa: ARG002
        args: object,  # noqa: ARG002
        kwargs: "dict[str, Tensor]",
    ) -> None:
        self._real_BN = kwargs["attention_mask"].bool()
        self._last = None

    def _change(self, module: "nn.Module", forward: "Callable[[Tensor], Tensor]") -> None:
        module.forward = forward
        self._changed.append(module)

    def _multiplying(self, module: "nn.Module", first: bool) -> "Callable[[Tensor], Tensor]":
        from toolchain.distill.surgery.quantised import as_multiplied

        linear = isinstance(module, torch.nn.Linear)

        def forward(x: "Tensor") -> "Tensor":
            assert isinstance(module.weight, torch.Tensor)
            stored = as_multiplied(module.weight, outputs=0 if linear else 1)
            bias = module.bias
            assert bias is None or isinstance(bias, torch.Tensor)
            read = self._read(x, first)
            return torch.nn.functional.linear(read, stored if linear else stored.T, bias)

        return forward

    def _read(self, x: "Tensor", first: bool) -> "Tensor":
        from toolchain.distill.surgery.quantised import as_read

        # Queries, keys and values mostly read the same tensor.
        if self._last and self._last[0] is x and self._last[1] == first:
            return self._last[2]
        if x.ndim == 2:
            read = as_read(x)
        elif first:
            # What the file never computes is left as it is.
            read = torch.cat([as_read(x[:, :1]), x[:, 1:]], dim=1)
        else:
            read = as_read(x, self._real_BN)
        self._last = (x, first, read)
        return read


def _looking_up(module: "nn.Module") -> "Callable[[Tensor], Tensor]":
    from toolchain.distill.surgery.quantised import as_looked_up

    own: Callable[[Tensor], Tensor] = module.forward

    def forward(ids: "Tensor") -> "Tensor":
        assert isinstance(module.weight, torch.Tensor)
        return as_looked_up(own(ids), module.weight)

    return forward
