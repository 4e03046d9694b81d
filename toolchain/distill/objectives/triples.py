"""How far the cosines of triples lie apart: sums over pairs of others at every vertex.

The cosine at vertex r between others a and c follows from inner products G alone, because

    (x_a - x_r)'(x_c - x_r) = G_ac - h_a - h_c,  h_a = G_ra - G_rr / 2,

times the inverse lengths q_a and q_c of both directions. So a triple costs a few additions instead
of products of whole vectors, and removing a vector is q = 0. Triples are visited one `a` at a time
and visited again in the backward pass: no tensor over all of them ever exists, but where they are
so few that each visit would be shorter than its calls.

Inner products are taken around a detached mean (angles are free of shifts), which keeps the digits
of vectors far from the origin. Directions shorter than rounding are removed.

Shape letters: G groups, P places of a group, H heads, W width of a head, S groups times heads,
K others of a vertex (a and c), V vertices, R vertices as a vector, B batch, N tokens.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import huber_loss, mse_loss, pad
from torch.utils.checkpoint import checkpoint

from toolchain.distill.objectives.angles import AT_ONCE, Distance, piece_of

__all__ = ["at_all", "at_chosen", "at_near", "at_some"]

Rows = Callable[[Tensor, int], Tensor]

# Squared lengths below so many roundings of what they are the difference of mean nothing.
_ROUNDINGS = 16


class _Side(NamedTuple):
    """Inner products, and h and q (K, V) of every other at every vertex."""

    pairs: Tensor
    h: Tensor
    q: Tensor


def at_all(
    student: Tensor, teacher: Tensor, valid_PPG: Tensor | None, distance: Distance
) -> Tensor:
    """Return per vertex (G, P) the mean distance over pairs of others; vectors (G, P, H, W).

    `valid_PPG` says which other (first axis) counts at which vertex (second). None counts every
    pair, also one with itself, whose angle is 0 on both sides.
    """
    G, P, H = student.shape[:3]
    sides = [_all_places(x, valid_PPG) for x in (student, teacher)]
    sums = _summed(_upper, distance, *sides)
    if valid_PPG is None:
        apart = 1.0 if distance == "squared" else 0.5
        unlike = (sides[0].q > 0) != (sides[1].q > 0)
        sums = sums + apart / 2 * unlike.sum(0)
        count: Tensor | float = float(P * P)
    else:
        count = _pairs_of(valid_PPG.sum(0))
    return (2 * sums.view(P, G, H).mean(-1) / count).T


def at_some(
    student: Tensor, teacher: Tensor, vertex_GV: Tensor, valid_PVG: Tensor, distance: Distance
) -> Tensor:
    """Return per vertex (G, V) the mean distance over pairs of others; vectors (G, P, H, W).

    `valid_PVG` says which place of the group counts at which vertex. Costs P^2 pairs a vertex,
    valid or not, but nothing is gathered: for a few times as many places as others.
    """
    G, H = student.shape[0], student.shape[2]
    sides = [_some_places(x, vertex_GV, valid_PVG) for x in (student, teacher)]
    sums = _summed(_upper, distance, *sides)
    return (2 * sums.view(-1, G, H).mean(-1) / _pairs_of(valid_PVG.sum(0))).T


def at_near(
    student: Tensor, teacher: Tensor, real_BN: Tensor, valid_KBN: Tensor, distance: Distance
) -> Tensor:
    """Return per vertex (B, N) the mean distance over its window; vectors (B, N, H, W).

    The window has K places, the vertex itself in the middle; `valid_KBN` says which ones count,
    all of them `real_BN`.
    """
    B, N, H = student.shape[:3]
    sides = [_near_places(x, real_BN, valid_KBN) for x in (student, teacher)]
    sums = _summed(_diagonals(N), distance, *sides)
    return 2 * sums.view(B, H, N).mean(1) / _pairs_of(valid_KBN.sum(0))


def at_chosen(
    student: Tensor,
    teacher: Tensor,
    vertex_R: Tensor,
    others_RK: Tensor,
    valid_RK: Tensor,
    distance: Distance,
) -> Tensor:
    """Return per vertex (R,) the mean distance over others of its own choice; vectors (M, H, W).

    Indices are those of vectors. Vectors are gathered for every vertex, in pieces.
    """
    vertices, others = others_RK.shape
    step = piece_of(others, student.shape[1] * max(student.shape[2], others))

    def piece(student: Tensor, teacher: Tensor, start: int) -> Tensor:
        rows = slice(start, start + step)
        chosen = vertex_R[rows], others_RK[rows], valid_RK[rows]
        sides = [_chosen_places(x, *chosen) for x in (student, teacher)]
        sums = _summed(_upper, distance, *sides)
        return 2 * sums.view(-1, student.shape[1]).mean(-1) / _pairs_of(valid_RK[rows].sum(-1))

    if vertices <= step:
        return piece(student, teacher, 0)
    return torch.cat(
        [
            checkpoint(piece, student, teacher, start, use_reentrant=False)
            for start in range(0, vertices, step)
        ]
    )


def _all_places(x_GPHW: Tensor, valid_PPG: Tensor | None) -> _Side:
    G, P, H, W = x_GPHW.shape
    part = None if valid_PPG is None else (valid_PPG.any(0) | valid_PPG.any(1)).T
    x_SPW = _centred(x_GPHW, part).transpose(1, 2).reshape(G * H, P, W)
    pairs_PPS = _products(x_SPW)
    own_PS = pairs_PPS.diagonal(dim1=0, dim2=1).T
    valid = None if valid_PPG is None else valid_PPG.repeat_interleave(H, -1)
    return _side(pairs_PPS, pairs_PPS, own_PS[:, None], own_PS[None], valid)


def _some_places(x_GPHW: Tensor, vertex_GV: Tensor, valid_PVG: Tensor) -> _Side:
    G, P, H, W = x_GPHW.shape
    counted = valid_PVG.any(1).T.scatter(1, vertex_GV, True)
    x_SPW = _centred(x_GPHW, counted).transpose(1, 2).reshape(G * H, P, W)
    pairs_PPS = _products(x_SPW)
    own_PS = pairs_PPS.diagonal(dim1=0, dim2=1).T
    vertex_VS = vertex_GV.T.repeat_interleave(H, -1)
    at_vertex = vertex_VS[:, None].expand(-1, P, -1)
    from_vertex = pairs_PPS.gather(0, at_vertex).transpose(0, 1)
    own_VS = own_PS.gather(0, vertex_VS)
    valid = valid_PVG.repeat_interleave(H, -1)
    return _side(pairs_PPS, from_vertex, own_PS[:, None], own_VS[None], valid)


def _near_places(x_BNHW: Tensor, real_BN: Tensor, valid_KBN: Tensor) -> _Side:
    B, N, H, W = x_BNHW.shape
    K = valid_KBN.shape[0]
    half = K // 2
    x_BNHW = _centred(x_BNHW, real_BN)
    x_SNW = x_BNHW.transpose(1, 2).reshape(B * H, N, W)
    # Each block of K - 1 tokens with itself and the next one: all that its windows hold.
    size = K - 1
    blocks = -(-(N + 2 * half) // size) + 1
    x = pad(x_SNW, (0, 0, half, blocks * size - half - N)).view(B * H, blocks, size, W)
    products = x[:, :-1] @ torch.cat((x[:, :-1], x[:, 1:]), 2).transpose(-1, -2)
    place = torch.arange(size, device=x.device)
    at = place * (2 * size + 1) + torch.arange(K, device=x.device)[:, None]
    band = products.flatten(2).index_select(2, at.flatten()).view(B * H, -1, K, size)
    # Row k: the product of a token and the k-th one after it.
    band_KSL = band.permute(2, 0, 1, 3).flatten(2)
    own_SL = band_KSL[0]
    offsets = range(-half, half + 1)
    from_vertex = torch.stack(
        [band_KSL[abs(d), :, half + min(d, 0) : half + min(d, 0) + N] for d in offsets]
    )
    own_KSN = torch.stack([own_SL[:, half + d : half + d + N] for d in offsets])
    valid = valid_KBN.repeat_interleave(H, 1)
    return _side(band_KSL, from_vertex, own_KSN, own_KSN[half : half + 1], valid)


def _chosen_places(x_MHW: Tensor, vertex_R: Tensor, others_RK: Tensor, valid_RK: Tensor) -> _Side:
    R, K = others_RK.shape
    H, W = x_MHW.shape[1:]
    found = x_MHW.index_select(0, others_RK.flatten()).view(R, K, H, W)
    away = found - x_MHW.index_select(0, vertex_R).unsqueeze(1)
    away_VKW = away.transpose(1, 2).reshape(R * H, K, W)
    pairs_KKV = _products(away_VKW)
    squared_KV = pairs_KKV.diagonal(dim1=0, dim2=1).T
    ok = (squared_KV > 0) & valid_RK.repeat_interleave(H, 0).T
    return _Side(pairs_KKV, torch.zeros_like(squared_KV), _inverse(squared_KV, ok))


def _centred(x: Tensor, counted: Tensor | None) -> Tensor:
    """Return vectors (G, P, H, W) around the mean of those of their group that count, others 0."""
    if counted is None:
        return x - x.detach().mean(1, keepdim=True)
    weight = counted[:, :, None, None].to(x.dtype)
    mean = (x.detach() * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    return (x - mean) * weight


def _products(x_SPW: Tensor) -> Tensor:
    """Return the inner products of the vectors of each group, groups last (P, P, S)."""
    pairs_PPS: Tensor = _Products.apply(x_SPW)  # type: ignore[no-untyped-call]
    return pairs_PPS


class _Products(torch.autograd.Function):
    """Whose gradient, groups last too, is turned before it is multiplied: else it is done group
    by group, twenty times as slow.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x_SPW: Tensor) -> Tensor:
        ctx.save_for_backward(x_SPW)
        return (x_SPW @ x_SPW.transpose(1, 2)).permute(1, 2, 0).contiguous()

    @staticmethod
    def backward(ctx: FunctionCtx, *above: Tensor) -> Tensor:
        (x_SPW,) = cast(tuple[Tensor], ctx.saved_tensors)  # type: ignore[attr-defined]
        (above_PPS,) = above
        both_SPP = (above_PPS + above_PPS.transpose(0, 1)).permute(2, 0, 1).contiguous()
        return both_SPP @ x_SPW


def _side(
    pairs: Tensor, from_vertex: Tensor, own: Tensor, own_vertex: Tensor, valid: Tensor | None
) -> _Side:
    """Return h and q (K, V), from G_ra, G_aa and G_rr."""
    h = from_vertex - own_vertex / 2
    squared = own - 2 * h
    least = _ROUNDINGS * torch.finfo(pairs.dtype).eps * (own + own_vertex).detach()
    ok = squared > least
    return _Side(pairs, h, _inverse(squared, ok if valid is None else ok & valid))


def _inverse(squared: Tensor, ok: Tensor) -> Tensor:
    """Return the inverse lengths, 0 without a gradient where they are not ok."""
    return squared.masked_fill(~ok, torch.inf).rsqrt()


def _pairs_of(others: Tensor) -> Tensor:
    return (others * (others - 1)).clamp(min=1)


def _upper(pairs: Tensor, i: int) -> Tensor:
    """Return the products of place i with all later ones, for all vertices (c, 1, S) or (c, V)."""
    later = pairs[i, i + 1 :]
    return later


def _diagonals(tokens: int) -> Rows:
    def rows(band_KSL: Tensor, i: int) -> Tensor:
        """Return the products of the window's place i with all later ones, (c, S, N)."""
        return band_KSL[1 : len(band_KSL) - i, :, i : i + tokens]

    return rows


def _summed(rows: Rows, distance: Distance, student: _Side, teacher: _Side) -> Tensor:
    """Return the sum over a < c of the distance of two sides' cosines, per vertex (V)."""
    if rows is _upper and len(student.h) * student.h.numel() <= AT_ONCE:
        return _summed_at_once(distance, student, teacher)
    sums: Tensor = _Sum.apply(rows, distance, *student, *teacher)  # type: ignore[no-untyped-call]
    return sums


def _summed_at_once(distance: Distance, student: _Side, teacher: _Side) -> Tensor:
    """Return the same from tensors over all pairs: for few numbers, of which each step is short."""
    compare = huber_loss if distance == "huber" else mse_loss
    values = compare(_all_cosines(student), _all_cosines(teacher), reduction="none")
    # One with itself is no pair.
    return (values.sum((0, 1)) - values.diagonal(dim1=0, dim2=1).sum(-1)) / 2


def _all_cosines(side: _Side) -> Tensor:
    """Return the cosines between all others, in both orders, (K, K, V)."""
    pairs, h, q = side
    products = pairs.unsqueeze(2) if pairs.ndim == h.ndim else pairs
    return (products - h[:, None] - h) * q[:, None] * q


class _Sum(torch.autograd.Function):
    """What `_summed` gives and its gradient, without a tensor over all triples."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Rows, distance: Distance, *sides: Tensor) -> Tensor:
        """`sides` are pairs, h and q of the student, then of the teacher."""
        ctx.save_for_backward(*sides)
        ctx.how = rows, distance  # type: ignore[attr-defined]
        student, teacher = _Side(*sides[:3]), _Side(*sides[3:])
        total = torch.zeros_like(student.h[0])
        for i in range(len(student.h) - 1):
            apart = _cosines(student, rows, i).sub_(_cosines(teacher, rows, i))
            if distance == "huber":
                slope = apart.clamp(-1, 1)
                apart = apart.sub_(slope, alpha=0.5).mul_(slope)
            else:
                apart.square_()
            total += apart.sum(0)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *above: Tensor) -> tuple[Tensor | None, ...]:
        """Visit all triples again."""
        rows, distance = cast(tuple[Rows, Distance], ctx.how)  # type: ignore[attr-defined]
        kept = cast(tuple[Tensor, ...], ctx.saved_tensors)  # type: ignore[attr-defined]
        sides = _Side(*kept[:3]), _Side(*kept[3:])
        wanted = [any(ctx.needs_input_grad[at : at + 3]) for at in (2, 5)]  # type: ignore[attr-defined]
        grads = [
            _Side(*map(torch.zeros_like, side)) if asked else None
            for side, asked in zip(sides, wanted, strict=True)
        ]
        for i in range(len(sides[0].h) - 1):
            cosines = [_cosines(side, rows, i) for side in sides]
            slope = cosines[0] - cosines[1]
            slope = slope.clamp_(-1, 1) if distance == "huber" else slope.mul_(2)
            slope *= above[0]
            for side, grad, cosine in zip(sides, grads, cosines, strict=True):
                if grad is not None:
                    _pull(side, grad, cosine, slope, rows, i)
                slope = -slope if wanted[1] else slope
        found: list[Tensor | None] = []
        for side, grad in zip(sides, grads, strict=True):
            # Collected as q times its gradient; where q is 0 it is removed and has none.
            found += (
                (grad.pairs, grad.h, torch.where(side.q > 0, grad.q / side.q, 0.0))
                if grad
                else (None, None, None)
            )
        return None, None, *found


def _cosines(side: _Side, rows: Rows, i: int) -> Tensor:
    """Return the cosines between place i and all later ones, (c, V)."""
    pairs, h, q = side
    found = _spread(rows(pairs, i), h) - h[i + 1 :]
    return found.sub_(h[i]).mul_(q[i + 1 :]).mul_(q[i])


def _pull(side: _Side, grad: _Side, cosine: Tensor, slope: Tensor, rows: Rows, i: int) -> None:
    """Add the gradients of the cosines between place i and all later ones."""
    turned = cosine.mul_(slope)
    grad.q[i] += turned.sum(0)
    grad.q[i + 1 :] += turned
    scaled = (slope * side.q[i + 1 :]).mul_(side.q[i])
    grad.h[i] -= scaled.sum(0)
    grad.h[i + 1 :] -= scaled
    of_pairs = _spread(rows(grad.pairs, i), side.h)
    of_pairs += scaled.sum_to_size(of_pairs.shape)


def _spread(products: Tensor, h: Tensor) -> Tensor:
    """Return products (c, S) as (c, 1, S) where all places of a group are its vertices."""
    return products.unsqueeze(1) if products.ndim < h.ndim else products
