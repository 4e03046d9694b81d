"""Slow plain-NumPy twins of objectives and transforms: loops, nothing shared with ours."""

import numpy as np


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(student, teacher, tau=1.0):
    """tau^2 KL(p_T || p_S) of two score vectors."""
    p, q = softmax(np.asarray(teacher) / tau), softmax(np.asarray(student) / tau)
    return tau**2 * sum(pi * (np.log(pi) - np.log(qi)) for pi, qi in zip(p, q, strict=True))


def masked_mean_kl_of_maps(student, teacher, mask):
    """Mean over heads and valid query rows of KL over valid keys; maps (B, H, N, N)."""
    values = []
    for b in range(mask.shape[0]):
        keys = np.flatnonzero(mask[b])
        for h in range(student.shape[1]):
            values += [kl(student[b, h, n, keys], teacher[b, h, n, keys]) for n in keys]
    return float(np.mean(values))


def masked_mse_of_maps(student, teacher, mask):
    """Mean over heads and pairs of valid tokens of squared differences; maps (B, H, N, N)."""
    values = []
    for b in range(mask.shape[0]):
        real = np.flatnonzero(mask[b])
        for h in range(student.shape[1]):
            values += [(student[b, h, i, j] - teacher[b, h, i, j]) ** 2 for i in real for j in real]
    return float(np.mean(values))


def relation(x, heads):
    """Scores (B, R, N, N) of scaled dot products in `heads` relation heads; x (B, N, D)."""
    B, N, D = x.shape
    width = D // heads
    out = np.zeros((B, heads, N, N))
    for b in range(B):
        for r in range(heads):
            part = x[b, :, r * width : (r + 1) * width]
            for i in range(N):
                for j in range(N):
                    out[b, r, i, j] = part[i] @ part[j] / np.sqrt(width)
    return out
