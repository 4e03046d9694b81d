"""Budget: the bytes of one training run on one rank, share by share, from shapes alone.

A step has two full moments. When the loss is there, all activations are held and no gradient; when
the weights are updated, all gradients and no activation. A third comes when the state is stored.
Each share says what it is at each of them; the peak is that of the fullest.

The state of training, bytes per parameter of the student (N ranks):

    whole     4 + 4 + 8: fp32 weights, gradients, two moments of Adam, whatever the precision (with
              bf16, autocast's copies stand under activations)
    sharded   4 + 4 + 12, whatever the precision: DeepSpeed's optimiser has a copy of its own of the
              weights it updates, so K = 12 as in ZeRO (arXiv 1910.02054, section 3.1)
    zero1     the optimiser's part / N;  zero2  gradients too;  zero3  weights too (section 5)
    offload   as zero2, with gradients and the optimiser's part in host memory

Teachers have weights alone: 4 bytes in fp32, 2 in bf16 but 4 for their tables of embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from toolchain.distill.extract import spares_last_block
from toolchain.distill.memory import stage_bytes
from toolchain.distill.term import BoundTerm
from toolchain.scale.activations import (
    Kernels,
    block_bytes,
    cast_bytes,
    ends_bytes,
    first_token_bytes,
    passing_bytes,
    spare_bytes,
)
from toolchain.scale.captured import captured_bytes, head_bytes, kept_per_token, learned_params
from toolchain.scale.cuts import cut_params
from toolchain.scale.hardware import Hardware
from toolchain.spec import LANGUAGE, ModelSpec

__all__ = [
    "BUCKET",
    "CONTEXT",
    "MOMENTS",
    "Budget",
    "Job",
    "Placed",
    "Share",
    "bucket_of",
    "budget_of",
]

TeacherPlace = Literal["whole", "zero3", "tensor_parallel", "offload", "streamed", "cached"]
StudentPlace = Literal["whole", "zero1", "zero2", "zero3", "offload"]
Moment = Literal["loss", "update", "store"]
MOMENTS: tuple[Moment, ...] = ("loss", "update", "store")

BUCKET = 50_000_000
"""The most elements of a buffer in which DeepSpeed reduces gradients or gathers weights."""


def bucket_of(parameters: int) -> int:
    """Return the elements of a buffer for a student: it is allocated whole, so it must be small."""
    return min(max(1, parameters // 16), BUCKET)


# torch, transformers, accelerate and the interpreter, resident after a step of a tiny model:
# measured once, benchmarks/planner.md.
_PROCESS = 380 << 20
# What DeepSpeed adds: its import, its engine and a step of the same tiny model.
_DEEPSPEED = 80 << 20
# The same with CUDA's libraries: what is usual; no GPU was at hand to measure it.
_PROCESS_WITH_GPU = 3 << 30
CONTEXT = 1 << 30
"""A process's own on a GPU: its context with kernels and workspaces; usual, as well."""
# A state is stored tensor by tensor; one in pieces is gathered for that, and put together.
_STORED, _STORED_PIECES = 1, 3


@dataclass(frozen=True)
class Placed:
    """Where teacher and student lie."""

    teacher: TeacherPlace = "whole"
    student: StudentPlace = "whole"

    def __str__(self) -> str:
        """As a sentence names it."""
        return f"teacher {self.teacher}, student {self.student}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One student and who teaches it, as far as memory goes.

    `batch` is the global one. `extra` are models trained in the same process beside the student.
    """

    student: ModelSpec
    teachers: tuple[ModelSpec, ...]
    terms: tuple[BoundTerm, ...]
    batch: int
    tokens: int
    bf16: bool
    extra: tuple[ModelSpec, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Share:
    """Bytes of one thing at each moment, in the order of `MOMENTS`, and how they came about."""

    name: str
    where: Literal["rank", "host", "disk"] = "rank"
    at: tuple[int, int, int]
    formula: str

    @property
    def most(self) -> int:
        """The most it ever is."""
        return max(self.at)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a job needs where: per rank on its device, per machine in host memory and on disk.

    `before` is what the pass of a cached teacher over the data takes of a rank, before the student
    trains; `disk_per_token` is what that pass writes.
    """

    placed: Placed
    hardware: Hardware
    shares: tuple[Share, ...] = field(default_factory=tuple)
    before: int = 0
    disk_per_token: int = 0

    def rank_at(self, moment: Moment) -> int:
        """Return the bytes on one rank at a moment."""
        index = MOMENTS.index(moment)
        return sum(share.at[index] for share in self.shares if share.where == "rank")

    @property
    def fullest(self) -> Moment:
        """The moment at which a rank holds most."""
        return max(MOMENTS, key=self.rank_at)

    @property
    def rank_bytes(self) -> int:
        """Bytes at the peak of one rank."""
        return max(self.before, self.rank_at(self.fullest))

    def _total(self, where: str) -> int:
        sums = (sum(s.at[i] for s in self.shares if s.where == where) for i in range(len(MOMENTS)))
        return max(sums)

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory of a machine with all ranks; without GPUs it is the ranks' own."""
        if not self.hardware.gpu:
            return self.hardware.ranks * self.rank_bytes
        return self._total("host")

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk that the step itself needs: the teacher's weights, the stored state."""
        return self._total("disk")

    def as_json(self) -> dict[str, Any]:
        """Return the placement, the totals and every share, as plans print them."""
        return {
            "teacher": self.placed.teacher,
            "student": self.placed.student,
            "hardware": str(self.hardware),
            "ranks": self.hardware.ranks,
            "rank_bytes": self.rank_bytes,
            "fullest": self.fullest,
            "before_bytes": self.before,
            "host_bytes": self.host_bytes,
            "disk_bytes": self.disk_bytes,
            "disk_bytes_per_token": self.disk_per_token,
            "shares": [
                {
                    "name": share.name,
                    "where": share.where,
                    **dict(zip(MOMENTS, share.at, strict=True)),
                    "formula": share.formula,
                }
                for share in self.shares
                if share.most
            ],
        }

    def why_not(self) -> str | None:
        """Return what does not fit, or None."""
        hardware = self.hardware
        if self.rank_bytes > hardware.rank_bytes:
            where = "each GPU" if hardware.gpu else "each process" * (hardware.ranks > 1)
            return (
                f"needs {_gb(self.rank_bytes)} {f'on {where}' if where else 'of memory'} "
                f"(estimated), {_gb(hardware.rank_bytes)} are there"
            )
        for name, need, there in (
            ("host memory", self.host_bytes, hardware.host_bytes),
            ("disk", self.disk_bytes, hardware.disk_bytes),
        ):
            if there is not None and need > there:
                return f"needs {_gb(need)} of {name} (estimated), {_gb(there)} are there"
        return None


def budget_of(job: Job, placed: Placed, hardware: Hardware) -> Budget:
    """Return what a job needs, placed so. Nothing is loaded or allocated."""
    kernels = Kernels(bf16=job.bf16, gpu=hardware.gpu)
    shares = (
        *_teachers(job, placed, hardware, kernels),
        *_state(job, placed, hardware),
        *_passes(job, placed, hardware, kernels),
        *_buffers(job, placed, hardware),
        *_process(placed, hardware),
    )
    if placed.teacher not in ("cached", "streamed") or not job.teachers:
        return Budget(placed=placed, hardware=hardware, shares=shares)
    return Budget(
        placed=placed,
        hardware=hardware,
        shares=shares,
        before=_before(job, hardware, kernels),
        disk_per_token=kept_per_token(job.terms, job.teachers, job.tokens),
    )


def _before(job: Job, hardware: Hardware, kernels: Kernels) -> int:
    """Return what streaming takes of a rank: two blocks or a table, a block's work, knowledge."""
    batch = -(-job.batch // hardware.ranks)
    work = max(
        _live(spec, kernels.element) + passing_bytes(spec, batch, job.tokens, kernels)
        for spec in job.teachers
    )
    captured = captured_bytes(job.terms, job.student, job.teachers, batch, job.tokens, kernels)
    return work + captured + (CONTEXT if hardware.gpu else _PROCESS)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def _always(size: int) -> tuple[int, int, int]:
    return (size, size, size)


def _live(spec: ModelSpec, element: int) -> int:
    """Return the bytes of what is gathered at once: two blocks, or the largest table."""
    table = max(spec.embedding_params(), spec.head_params())
    return element * max(2 * spec.block_params(), table)


def _head(job: Job, spec: ModelSpec, element: int) -> tuple[int, str]:
    """Return the bytes of a head that is whole for a step, for terms on its states; and say so."""
    if any(bound.term.extract.kind == "states" for bound in job.terms):
        return element * spec.head_params(), " + the head"
    return 0, ""


def _teachers(job: Job, placed: Placed, hardware: Hardware, kernels: Kernels) -> list[Share]:
    """Return the shares of the teachers' weights."""
    e, N, found = kernels.element, hardware.ranks, []
    for number, spec in enumerate(job.teachers, 1):
        name = f"teacher {number} weights" if len(job.teachers) > 1 else "teacher weights"
        tables = spec.embedding_params()
        rest = spec.params() - tables
        head, and_head = _head(job, spec, e)
        on_disk = Share(
            name=f"{name} on disk",
            where="disk",
            at=_always(e * spec.params()),
            formula=f"{e} P_t, in the precision it runs in",
        )
        match placed.teacher:
            case "whole":
                size = e * rest + 4 * tables
                found.append(Share(name=name, at=_always(size), formula=f"{e} P_t, tables 4"))
            case "zero3":
                size = e * spec.params() // N + _live(spec, e) + head
                formula = f"{e} P_t / {N} + two blocks or the largest table{and_head}"
                found.append(Share(name=name, at=_always(size), formula=formula))
            case "tensor_parallel":
                cut = cut_params(spec)
                size = e * (spec.params() - cut + -(-cut // N)) + head
                formula = f"{e} x {cut:,} cut / {N} + {e} x {spec.params() - cut:,} whole{and_head}"
                found.append(Share(name=name, at=_always(size), formula=formula))
            case "offload":
                size = _live(spec, e) + head
                formula = f"{e} x two blocks or the largest table{and_head}"
                found.append(Share(name=name, at=_always(size), formula=formula))
                held = Share(
                    name=f"{name} in host memory",
                    where="host",
                    at=_always(e * spec.params()),
                    formula=f"{e} P_t",
                )
                found.append(held)
            case "streamed" | "cached":
                # Its passes over the data are over before the student trains.
                pass
        found.append(on_disk)
    return found


def _state(job: Job, placed: Placed, hardware: Hardware) -> list[Share]:
    """Return the shares of the student's weights, gradients, optimiser and learned projections."""
    N, P = hardware.ranks, job.student.params()
    whole = placed.student == "whole"
    e, o = (4, 8) if whole else (4, 12)
    weights, gradients, optimiser = e * P, e * P, o * P
    offload = placed.student == "offload"
    cut = {"whole": 0, "zero1": 1, "zero2": 2, "zero3": 3, "offload": 2}[placed.student]
    by = [1, 1, 1]
    for i in range(cut):
        by[2 - i] = N
    head, and_head = _head(job, job.student, e)
    live = _live(job.student, e) + head if cut == 3 else 0
    # Gradients of what is gathered are whole until they are reduced.
    on_rank = [weights // by[0] + live, gradients // by[1] + live, optimiser // by[2]]
    said = [
        f"{size} P_s" + (f" / {n}" if n > 1 else "") for size, n in zip((e, e, o), by, strict=True)
    ]
    if live:
        said[0] += f" + two blocks or the largest table{and_head}"
        said[1] += " + of the same"
    found = []
    if offload:
        held = gradients + optimiser
        found.append(
            Share(
                name="student in host memory",
                where="host",
                at=_always(held),
                formula=f"{e + o} P_s over all ranks",
            )
        )
        on_rank, said = [weights, 0, 0], [f"{e} P_s", "", ""]
    # All terms' gradients are compared now and then, while the graph is still there.
    read = on_rank[1] if whole and len(job.terms) > 1 else 0
    learned = learned_params(job.terms)
    extra = sum(spec.params() for spec in job.extra)
    copies = _STORED if whole else _STORED_PIECES
    stored = copies * 4 * _largest(job.student)
    found += [
        Share(name="student weights", at=_always(on_rank[0]), formula=said[0]),
        Share(
            name="gradients",
            at=(read, on_rank[1], 0),
            formula=said[1] + (", and at readings of their shares" if read else ""),
        ),
        Share(name="optimiser", at=_always(on_rank[2]), formula=said[2]),
        Share(
            name="projections",
            at=(12 * learned, 16 * learned, 12 * learned),
            formula=f"16 x {learned:,} learned parameters of terms",
        ),
        Share(
            name="stored state",
            where="host" if hardware.gpu else "rank",
            at=(0, 0, stored),
            formula=f"{copies} x the largest tensor, one at a time",
        ),
        Share(
            name="stored state on disk",
            where="disk",
            at=_always(2 * 12 * P + 4 * P),
            formula="12 P_s, twice while it is replaced, and the best 4 P_s",
        ),
    ]
    if extra:
        found.append(
            Share(name="other models", at=_always(16 * extra), formula="16 P, trained together")
        )
    return found


def _passes(job: Job, placed: Placed, hardware: Hardware, kernels: Kernels) -> list[Share]:
    """Return the shares of activations, captured knowledge and losses."""
    student, tokens = job.student, job.tokens
    batch = -(-job.batch // hardware.ranks)
    kept = student.layers * block_bytes(student, batch, tokens, kernels)
    if _spares(job, placed):
        kept -= block_bytes(student, batch, tokens, kernels)
        kept += first_token_bytes(student, batch, tokens, kernels)
    kept += ends_bytes(student, batch, tokens, kernels)
    # Operators run the student again for each further view.
    views = len({bound.term.view for bound in job.terms} | {"plain"})
    kept *= views
    casts = cast_bytes(student, kernels)
    captured = captured_bytes(job.terms, student, job.teachers, batch, tokens, kernels)
    here = placed.teacher not in ("streamed", "cached")
    # Cut across matrices, ranks pass the rows of all and keep what they know of their own.
    rows = job.batch if placed.teacher == "tensor_parallel" else batch
    passing = max(
        (passing_bytes(spec, rows, tokens, kernels) for spec in job.teachers if here), default=0
    )
    if rows > batch:
        words = (spec.vocab for spec in job.teachers if spec.task in LANGUAGE)
        passing = max(passing, kernels.element * rows * tokens * max(words, default=0))
    losses = max(
        stage_bytes(job.terms, batch, tokens),
        head_bytes(student, batch, tokens, kernels),
        spare_bytes(student, batch, tokens, kernels),
    )
    # Teachers pass before the student does, so that their working space is there again.
    beyond = max(0, passing - kept - casts - losses)
    return [
        Share(
            name="activations",
            at=(kept, 0, 0),
            formula=f"{f'{views} x ' * (views > 1)}{student.layers} blocks and the ends, "
            f"{batch} x {tokens} tokens",
        ),
        Share(name="autocast copies", at=(casts, 0, 0), formula="2 x matrices in bf16"),
        Share(
            name="captured knowledge",
            at=(captured, captured, 0),
            formula="what hooks keep of teacher and student",
        ),
        Share(
            name="losses",
            at=(losses, 0, 0),
            formula="terms and their gradients, or those of the last block or the vocabulary",
        ),
        Share(
            name="teacher's pass",
            at=(beyond, 0, 0),
            formula="one block at work, where that is more than what follows",
        ),
    ]


def _spares(job: Job, placed: Placed) -> bool:
    """Return whether the student's last block is computed for its first token alone."""
    asked = (request for bound in job.terms for request in bound.requests("student"))
    return placed.student != "zero3" and spares_last_block(job.student, asked)


def _buffers(job: Job, placed: Placed, hardware: Hardware) -> list[Share]:
    """Return the share of what is sent and received."""
    if hardware.ranks == 1 and placed.student == "whole":
        return []
    P = job.student.params()
    if placed.student == "whole":
        largest = 4 * _largest(job.student)
        return [
            Share(
                name="communication",
                at=(0, largest, 0),
                formula="one gradient at a time, the largest is a table",
            )
        ]
    size = 2 * 4 * bucket_of(P)
    # What is larger than a bucket is reduced by itself, through a copy.
    by_itself = 4 * _largest(job.student) if hardware.ranks > 1 else 0
    return [
        Share(
            name="communication",
            at=(size, size + by_itself, 0),
            formula=f"two buckets of P_s / 16, at most {BUCKET:,}, and the largest gradient",
        )
    ]


def _largest(spec: ModelSpec) -> int:
    """Return the parameters of the largest tensor."""
    tables: Sequence[int] = (spec.vocab * spec.embedding_width, spec.width * spec.ffn)
    return max(tables)


def _process(placed: Placed, hardware: Hardware) -> list[Share]:
    """Return the shares of interpreter, libraries and contexts."""
    if not hardware.gpu:
        pieces = placed.student != "whole" or placed.teacher in ("zero3", "offload")
        return [
            Share(
                name="process",
                at=_always(_PROCESS + (_DEEPSPEED if pieces else 0)),
                formula="interpreter and libraries, once" + (", DeepSpeed's" if pieces else ""),
            )
        ]
    return [
        Share(name="process", at=_always(CONTEXT), formula="CUDA context, kernels, workspaces"),
        Share(
            name="processes",
            where="host",
            at=_always(hardware.ranks * _PROCESS_WITH_GPU),
            formula=f"{hardware.ranks} x interpreter and libraries",
        ),
    ]
