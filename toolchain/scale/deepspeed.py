"""Students and teachers in pieces over processes, by DeepSpeed's ZeRO. Never our own sharding.

ZeRO-1 shards the optimiser's moments and master weights, ZeRO-2 gradients too, ZeRO-3 weights too.
Every parameter is a group of its own, so that one without a gradient in a step is left alone, as a
process by itself would do, and so that its shards are equal cuts of it: rank r of R holds numbers
r * n to (r + 1) * n of the flattened parameter, padded to R * n.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from toolchain.distill.engine import Moments, Weights, sum_gradients
from toolchain.distill.optimizer import groups_of
from toolchain.distill.records import StageRun
from toolchain.scale.budget import bucket_of
from toolchain.scale.pieces import gathering, joined, passes_in_any_order, whole
from toolchain.scale.ready import import_deepspeed

__all__ = ["Sharding", "Stage", "ZeRO"]

Stage = Literal["zero1", "zero2", "zero3", "offload"]
_STAGES = {"zero1": 1, "zero2": 2, "zero3": 3, "offload": 2}


@dataclass(frozen=True)
class Sharding:
    """Holds students at one stage: what `train` takes as its `holding`."""

    stage: Stage

    def __call__(
        self, accelerator: Accelerator, modules: Mapping[str, nn.Module], run: StageRun
    ) -> "ZeRO":
        """Take a student into pieces."""
        return ZeRO(self.stage, accelerator, modules, run)


class _Stepper(torch.optim.AdamW):
    """AdamW over shards: passes groups by that rest, and shortens gradients by `scale` first."""

    scale = 1.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the groups that DeepSpeed has given gradients, where they do not rest."""
        every = self.param_groups
        moving = [group for group in every if group["params"] and not group["rests"]]
        if moving:
            for group in moving:
                for shard in group["params"]:
                    if self.scale != 1.0:
                        shard.grad.mul_(self.scale)
            self.param_groups = moving
            super().step(closure)
            self.param_groups = every


class ZeRO:
    """A student held by DeepSpeed; what it learns beside its weights stays whole."""

    def __init__(
        self,
        stage: Stage,
        accelerator: Accelerator,
        modules: Mapping[str, nn.Module],
        run: StageRun,
    ) -> None:
        deepspeed = import_deepspeed(accelerator.device)
        self._stage, self._accelerator = _STAGES[stage], accelerator
        self.in_place = self._stage < 3
        self._student = modules["student"]
        self._names = list(self._student.state_dict(keep_vars=True))
        mine = {id(p) for p in self._student.parameters()}
        # A surgery may have let some of them rest when the run ends.
        self._learning = {id(p) for p in self._student.parameters() if p.requires_grad}
        groups = groups_of(modules, run.weight_decay)
        numbered = [(p, group) for group in groups for p in group["params"]]
        self._numbers = {id(p): number for number, (p, _) in enumerate(numbered)}
        self._sharded = [p for p, _ in numbered if id(p) in mine]
        self._beside = [p for p, _ in numbered if id(p) not in mine]
        # Small, and their gradients are read outside of any module's forward pass.
        rest = [
            {**group, "params": [p for p in group["params"] if id(p) not in mine]}
            for group in groups
        ]
        rest = [group for group in rest if group["params"]]
        self._small = torch.optim.AdamW(rest, lr=run.lr, fused=True) if rest else None
        self._stepper = _Stepper(
            [{**group, "params": [p], "rests": True} for p, group in numbered if id(p) in mine],
            lr=run.lr,
            fused=True,
        )
        self._moved: set[int] = set()
        self._watches = [p.register_hook(self._seen(i)) for i, p in enumerate(self._sharded)]
        self._engine, *_ = deepspeed.initialize(
            model=self._student,
            optimizer=self._stepper,
            config=_config(
                self._stage,
                run.batch_size,
                elements=sum(p.numel() for p in self._sharded),
                offload=stage == "offload",
            ),
            dist_init_required=False,
        )
        self._zero: Any = self._engine.optimizer
        if self._stage == 2 and stage != "offload":
            # Else it keeps the whole gradient of every parameter that it owns a part of.
            self._zero._use_compact_grad_partition_buffer = lambda group: True  # noqa: ARG005
        if self._stage == 3:
            passes_in_any_order(self._student, self._zero.parameter_offload)
        self._offloaded = stage == "offload"
        self._closed = False

    def backward(self, loss: Tensor, *, student: bool = True) -> None:
        """Add up gradients. DeepSpeed means them over ranks, the loop wants their sum."""
        if not student:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        self._moved.clear()
        self._engine.backward(loss * self._ranks)
        for parameter in self._beside:
            if parameter.grad is not None:
                parameter.grad.div_(self._ranks)

    def step(self, lr: float, own: float | None, norm: float) -> None:
        """Clip all that learns by one norm, then let DeepSpeed update its part."""
        small = [p for p in self._beside if p.grad is not None]
        sum_gradients(self._accelerator, small)
        apart = self._apart() if own is not None else set()
        scale = self._shortening([p for p in small if id(p) not in apart], norm)
        if self._small is not None:
            for group in self._small.param_groups:
                group["lr"] = lr if own is None or not group["surgery"] else own
            for parameter in small:
                if scale != 1.0 and id(parameter) not in apart:
                    assert parameter.grad is not None
                    parameter.grad.mul_(scale)
            self._small.step()
            self._small.zero_grad()
        if self._moved:
            self._stepper.scale = scale
            for number, group in enumerate(self._stepper.param_groups):
                group["lr"], group["rests"] = lr, number not in self._moved
            self._engine.step()
            self._moved.clear()

    def whole(self, parameter: Tensor) -> Tensor:
        """Return a parameter of the student's whole; all ranks ask for it at the same time."""
        return whole(parameter, self._accelerator.device) if self._stage == 3 else parameter

    def weights(self) -> Weights:
        """Yield the student's state, one tensor at a time; all ranks give their pieces."""
        held = dict(self._student.state_dict(keep_vars=True))
        for name in self._names:
            tensor = held[name]
            if self._stage == 3 and isinstance(tensor, nn.Parameter):
                # A tied one is gathered under each of its names.
                tensor = self._parameter(tensor)
            if self._main:
                yield name, tensor

    def moments(self) -> Moments:
        """Yield whole moments, one parameter's at a time; all ranks give their pieces."""
        if self._small is not None and self._main:
            for group in self._small.param_groups:
                for parameter in group["params"]:
                    yield self._numbers[id(parameter)], self._small.state[parameter]
        for number, parameter in enumerate(self._sharded):
            state = self._stepper.state.get(self._shard(number), {})
            whole = {
                key: value if value.ndim == 0 else self._gathered(value, parameter)
                for key, value in state.items()
            }
            if whole and self._main:
                yield self._numbers[id(parameter)], whole

    def resume(self, moments: Moments) -> None:
        """Take this rank's cut of saved moments."""
        shards = {self._numbers[id(p)]: i for i, p in enumerate(self._sharded)}
        beside = {self._numbers[id(p)]: p for p in self._beside}
        for index, own in moments:
            if index in beside:
                assert self._small is not None
                self._small.state[beside[index]] = {
                    key: value.to(beside[index].device) if value.ndim else value
                    for key, value in own.items()
                }
                continue
            shard = self._shard(shards[index])
            self._stepper.state[shard] = {
                key: value if value.ndim == 0 else self._cut(value, shard)
                for key, value in own.items()
            }

    def close(self) -> None:
        """Give the student back as an ordinary module with whole weights."""
        if self._closed:
            return
        self._closed = True
        for watch in self._watches:
            watch.remove()
        found = (
            {id(p): self._parameter(p) for p in self._student.parameters()}
            if (self._stage == 3)
            else {id(p): p.detach().clone() for p in self._student.parameters()}
        )
        self._engine.destroy()
        _made_ordinary(self._student, found, self._learning)

    @property
    def _ranks(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def _main(self) -> bool:
        return bool(self._accelerator.is_main_process)

    def _seen(self, number: int) -> Any:
        def hook(gradient: Tensor) -> None:  # noqa: ARG001
            self._moved.add(number)

        return hook

    def _apart(self) -> set[int]:
        assert self._small is not None
        return {id(p) for g in self._small.param_groups if g["surgery"] for p in g["params"]}

    def _shortening(self, small: list[nn.Parameter], norm: float) -> float:
        """Return what gradients are multiplied by, so that all of them together keep to `norm`."""
        squares = torch.zeros((), dtype=torch.float64, device=self._accelerator.device)
        if self._offloaded and squares.is_cuda:
            # DeepSpeed sends gradients to host memory without waiting for them to arrive.
            torch.cuda.synchronize(squares.device)
        for number in sorted(self._moved):
            for piece in self._gradient(number):
                squares += piece.detach().double().square().sum()
        squares = self._accelerator.reduce(squares, "sum")
        for parameter in small:
            assert parameter.grad is not None
            squares += parameter.grad.double().square().sum()
        total = math.sqrt(float(squares))
        return norm / (total + 1e-6) if total > norm else 1.0

    def _gradient(self, number: int) -> list[Tensor]:
        """Return this rank's shard of a reduced gradient."""
        if self._offloaded:
            return [self._shard(number).grad]  # type: ignore[list-item]
        return list(self._zero.averaged_gradients[number])

    def _shard(self, number: int) -> Tensor:
        """Return this rank's master weights of one parameter, flat."""
        zero = self._zero
        held = (
            zero.fp32_partitioned_groups_flat
            if self._stage == 3
            else (zero.single_partition_of_fp32_groups)
        )
        shard: Tensor = held[number]
        return shard

    def _parameter(self, parameter: nn.Parameter) -> Tensor:
        """Return a parameter whole."""
        numbers = {id(p): i for i, p in enumerate(self._sharded)}
        if id(parameter) in numbers:
            return self._gathered(self._shard(numbers[id(parameter)]), parameter)
        held: Any = parameter
        return self._gathered(held.ds_tensor, parameter)

    def _gathered(self, shard: Tensor, parameter: nn.Parameter) -> Tensor:
        held: Any = parameter
        shape = held.ds_shape if self._stage == 3 else parameter.shape
        return joined(shard, shape, self._accelerator.device)

    def _cut(self, value: Tensor, shard: Tensor) -> Tensor:
        size, rank = shard.numel(), int(self._accelerator.process_index)
        flat = torch.zeros(size * self._ranks, dtype=value.dtype)
        flat[: value.numel()] = value.flatten()
        return flat[rank * size : (rank + 1) * size].to(shard.device, copy=True)


def _config(stage: int, batch: int, *, elements: int, offload: bool = False) -> dict[str, Any]:
    """Return DeepSpeed's settings for a student; precision is autocast's, in fp32 around it.

    Gradients wait in a bucket that is allocated whole, so it must be small beside the student.
    """
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": bucket_of(elements),
    }
    if stage < 3:
        # Clipping takes in what is not sharded, so its norm is ours.
        zero["compute_grad_norm"] = offload
    else:
        zero |= gathering(elements)
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": max(1, batch),
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": 0.0,
        "steps_per_print": 1 << 60,
        "zero_optimization": zero,
    }


def _made_ordinary(
    model: nn.Module, whole: Mapping[int, Tensor], learning: Collection[int]
) -> None:
    """Put plain parameters in the place of DeepSpeed's; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        own = dict(module._parameters)
        for _name, parameter in own.items():
            if parameter is not None and id(parameter) not in made:
                number = id(parameter)
                made[number] = nn.Parameter(whole[number], requires_grad=number in learning)
        module._parameters = {
            name: None if parameter is None else made[id(parameter)]
            for name, parameter in own.items()
        }
