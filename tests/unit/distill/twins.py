"""Slow plain-NumPy twins of objectives and transforms: loops, nothing shared with ours."""

import itertools

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


def gram_of_tokens(x, y):
    """Inner products of tokens of two layers over the width, (B, N, N); x, y (B, N, D)."""
    B, N, D = x.shape
    tokens = range(N)
    return np.array([[[x[b, i] @ y[b, j] / D for j in tokens] for i in tokens] for b in range(B)])


def gram_of_features(x, y, mask):
    """(B, D, D) of two layers over real tokens."""
    out = []
    for b in range(x.shape[0]):
        real = np.flatnonzero(mask[b])
        out.append(sum(np.outer(x[b, n], y[b, n]) for n in real) / len(real))
    return np.array(out)


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def kl_over_others(student, teacher):
    """Mean over vectors of KL(softmax of cosines with all others), two lists of equal length."""
    values = []
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        s = [cosine(student[i], student[j]) for j in others]
        t = [cosine(teacher[i], teacher[j]) for j in others]
        values.append(kl(s, t) if others else 0.0)
    return values


def angle(at, a, b):
    """Cosine of the angle at `at`; 0 where a direction has no length."""
    u, v = a - at, b - at
    size = np.linalg.norm(u) * np.linalg.norm(v)
    return float(u @ v / size) if size else 0.0


def huber(difference):
    size = abs(difference)
    return size**2 / 2 if size < 1 else size - 0.5


def mean_of_angles(student, teacher, at, others, distance):
    """Mean over two different others of the distance of cosines at vector `at`; 0 without any."""
    values = [
        distance(
            angle(student[at], student[j], student[k]) - angle(teacher[at], teacher[j], teacher[k])
        )
        for j in others
        for k in others
        if j != k
    ]
    return float(np.mean(values)) if values else 0.0


def window_angles(student, teacher, mask, window, causal=False):
    """Mean over real tokens; x (B, N, D)."""
    values = []
    for b in range(mask.shape[0]):
        real = [int(n) for n in np.flatnonzero(mask[b])]
        for i in real:
            near = [j for j in real if j != i and abs(j - i) <= window // 2]
            near = [j for j in near if j < i] if causal else near
            values.append(mean_of_angles(student[b], teacher[b], i, near, np.square))
    return float(np.mean(values))


def layer_angles(student, teacher, mask):
    """Mean over layers and real tokens; x (B, N, L, D)."""
    values = []
    for b, n in np.argwhere(mask):
        layers = range(student.shape[2])
        values += [
            mean_of_angles(
                student[b, n], teacher[b, n], i, [j for j in layers if j != i], np.square
            )
            for i in layers
        ]
    return float(np.mean(values))


def sample_angles(student, teacher):
    """Mean of Huber over all triples with repetition; x (B, D)."""
    rows = range(len(student))
    return float(
        np.mean(
            [
                huber(
                    angle(student[i], student[j], student[k])
                    - angle(teacher[i], teacher[j], teacher[k])
                )
                for i in rows
                for j in rows
                for k in rows
            ]
        )
    )


def guided_angles(student, teacher, given, vertices, partners):
    """One sequence of real positions: x (N, D), attention given[i, j] in the mean over heads."""
    N = len(student)
    received = [sum(given[j, i] for j in range(N) if j != i) for i in range(N)]
    chosen = sorted(range(N), key=lambda i: -received[i])[:vertices]
    values = []
    for i in chosen:
        others = sorted((j for j in range(N) if j != i), key=lambda j: -given[i, j])[:partners]
        if len(others) > 1:
            values.append(mean_of_angles(student, teacher, i, others, huber))
    return float(np.mean(values)) if values else 0.0


def rkd_distance(student, teacher):
    """Mean over all pairs of Huber of distances over their mean; x (B, D)."""

    def relative(x):
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        return d / d[d > 0].mean()

    difference = relative(student) - relative(teacher)
    return float(np.mean([huber(v) for v in difference.flatten()]))


def cka(x, y):
    """Linear CKA by centred Gram matrices, as HSIC is defined; rows (R, F) and (R, G)."""
    R = len(x)
    centre = np.eye(R) - np.ones((R, R)) / R
    a, b = (centre @ z @ z.T @ centre for z in (x, y))
    return float(np.trace(a @ b) / np.sqrt(np.trace(a @ a) * np.trace(b @ b)))


def spans(x, mask, size=3):
    """Means of runs of real tokens of one sequence; x (N, D)."""
    real = np.flatnonzero(mask)
    return np.array([x[real[i : i + size]].mean(0) for i in range(0, len(real), size)])


def divergence(p, q):
    """KL(p || q) of two probability vectors; outcomes of probability 0 in p count nothing."""
    return sum(pi * np.log(pi / qi) for pi, qi in zip(p, q, strict=True) if pi > 0)


def rkl(student, teacher, tau=1.0):
    """tau^2 KL(Q || P) of two score vectors."""
    return tau**2 * divergence(softmax(student / tau), softmax(teacher / tau))


def gjs(student, teacher, beta, tau=1.0):
    """tau^2 times the generalised Jensen-Shannon divergence of two score vectors."""
    p, q = softmax(teacher / tau), softmax(student / tau)
    m = [beta * pi + (1 - beta) * qi for pi, qi in zip(p, q, strict=True)]
    return tau**2 * (beta * divergence(p, m) + (1 - beta) * divergence(q, m))


def skl(student, teacher, alpha, tau=1.0):
    """tau^2 KL(P || alpha P + (1 - alpha) Q)."""
    p, q = softmax(teacher / tau), softmax(student / tau)
    return tau**2 * divergence(p, alpha * p + (1 - alpha) * q)


def srkl(student, teacher, alpha, tau=1.0):
    """tau^2 KL(Q || (1 - alpha) P + alpha Q)."""
    p, q = softmax(teacher / tau), softmax(student / tau)
    return tau**2 * divergence(q, (1 - alpha) * p + alpha * q)


def akl(student, teacher, mu, tau=1.0):
    """tau^2 times forward and reverse KL weighed by the gaps of head and tail."""
    p, q = softmax(teacher / tau), softmax(student / tau)
    mass, head, tail = 0.0, 0.0, 0.0
    for i in sorted(range(len(p)), key=lambda i: -p[i]):
        if mass < mu:
            head += abs(p[i] - q[i])
        else:
            tail += abs(p[i] - q[i])
        mass += p[i]
    both = head * divergence(p, q) + tail * divergence(q, p)
    return tau**2 * both / (head + tail)


def tckd(student, teacher, label, tau=1.0):
    """tau^2 KL of (p_y, 1 - p_y)."""
    p, q = softmax(teacher / tau)[label], softmax(student / tau)[label]
    return tau**2 * divergence([p, 1 - p], [q, 1 - q])


def nckd(student, teacher, label, tau=1.0):
    """tau^2 KL of the distributions over the other classes, renormalised."""
    others = [i for i in range(len(student)) if i != label]
    p, q = softmax(teacher / tau)[others], softmax(student / tau)[others]
    return tau**2 * divergence(p / p.sum(), q / q.sum())


def pearson(a, b):
    """Correlation of two vectors."""
    return float(np.corrcoef(a, b)[0, 1])


def pearson_intra(student, teacher):
    """1 - the mean over columns of their correlation over rows; matrices (P, C)."""
    columns = range(student.shape[1])
    return 1 - sum(pearson(student[:, c], teacher[:, c]) for c in columns) / len(columns)


def l1_sorted(student, teacher):
    """Sum of |p - q| after sorting, zeros where one side has no more; any two lengths."""
    p, q = sorted(softmax(teacher), reverse=True), sorted(softmax(student), reverse=True)
    longest = max(len(p), len(q))
    p, q = [*p, *[0.0] * (longest - len(p))], [*q, *[0.0] * (longest - len(q))]
    return sum(abs(a - b) for a, b in zip(p, q, strict=True))


def phi(tau_max, progress):
    """1 - (T - 1) / tau_max for T that falls from tau_max to 1 in equal parts of the run."""
    parts = [k / tau_max for k in range(1, tau_max + 1)]
    falls = sum(progress >= part - 1e-9 for part in parts[:-1])
    return 1 - (tau_max - falls - 1) / tau_max


def hinge(student, teacher, margin, phi):
    """max(0, |s - phi t|^2 - margin phi)."""
    squared = sum((s - phi * t) ** 2 for s, t in zip(student, teacher, strict=True))
    return max(0.0, squared - margin * phi)


def taid(student, teacher, t, tau=1.0):
    """tau^2 KL from the softmax of the interpolated logits to the student."""
    target = [(1 - t) * s + t * z for s, z in zip(student, teacher, strict=True)]
    return kl(student, target, tau)


def taid_pace(losses, steps, start=0.4, end=1.0, alpha=5e-4, momentum=0.99):
    """The share t of every step, as the authors' update rule gives it from the losses so far."""
    t, drop, previous, shares = start, 0.0, None, []
    for step in range(steps):
        if step:
            loss, grown = losses[step - 1], t
            if previous is not None:
                drop = momentum * drop + (1 - momentum) * (previous - loss) / (previous + 1e-15)
                grown = t + alpha / (1 + np.exp(-drop)) * (1 - t)
            previous = loss
            t = min(end, max(start + (end - start) * step / steps, grown))
        shares.append(t)
    return shares


def topk_kl(student, teacher, k, tau=1.0):
    """tau^2 KL over the teacher's k largest outcomes and one bucket of the rest."""
    p, q = softmax(teacher / tau), softmax(student / tau)
    top = sorted(range(len(p)), key=lambda i: -p[i])[:k]
    rest = [i for i in range(len(p)) if i not in top]
    coarse = [[x[i] for i in top] + [sum(x[i] for i in rest)] for x in (p, q)]
    return tau**2 * divergence(*coarse)


def zscore(x, eps=1e-7):
    """Minus the mean, over the population standard deviation plus eps."""
    mean = sum(x) / len(x)
    deviation = (sum((v - mean) ** 2 for v in x) / len(x)) ** 0.5
    return np.array([(v - mean) / (deviation + eps) for v in x])


def cosnce(student, teacher, mask):
    """LRC-BERT's value of each anchor; states (B, N, D), mask (B, N)."""
    rows = len(mask)
    g = np.zeros((rows, rows))
    for i in range(rows):
        for k in range(rows):
            both = [n for n in range(mask.shape[1]) if mask[i, n] and mask[k, n]]
            g[i, k] = np.mean([1 - cosine(student[i, n], teacher[k, n]) for n in both])
    out = []
    for i in range(rows):
        negatives = [(2 - (g[i, k] - g[i, i])) / 2 for k in range(rows) if k != i]
        out.append(g[i, i] + np.mean(negatives))
    return np.array(out)


def attention_mixture(student, teachers):
    """The teacher layers (K vectors) mixed by the softmax of their products with one student's."""
    weights = softmax(np.array([student @ layer for layer in teachers]))
    return sum(w * layer for w, layer in zip(weights, teachers, strict=True))


def cheapest_transport(supply, demand, costs):
    """The smallest cost of a transport plan, by looking at every basic solution."""
    rows, columns = len(supply), len(demand)
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    wanted = np.array([*supply, *demand])
    best = np.inf
    for chosen in itertools.combinations(cells, rows + columns - 1):
        system = np.zeros((rows + columns, len(chosen)))
        for k, (i, j) in enumerate(chosen):
            system[i, k] = system[rows + j, k] = 1
        flow, *_ = np.linalg.lstsq(system, wanted, rcond=None)
        if np.allclose(system @ flow, wanted) and flow.min() > -1e-9:
            best = min(best, sum(f * costs[i][j] for f, (i, j) in zip(flow, chosen, strict=True)))
    return best


def nearest_in_order(costs, strict=True):
    """The smallest sum of one column per row, columns ascending, by trying them all."""
    choose = itertools.combinations if strict else itertools.combinations_with_replacement
    found = choose(range(len(costs[0])), len(costs))
    return min(sum(row[c] for row, c in zip(costs, columns, strict=True)) for columns in found)


def layer_weights(weights, work):
    """BERT-EMD's next weights of one side from each layer's flow times cost."""
    costs = [w / weight for w, weight in zip(work, weights, strict=True)]
    raised = [sum(costs) / cost for cost in costs]
    return [r / sum(raised) for r in raised]


def minillm(student, teacher, tokens, alpha, clip, length_norm):
    """Values (T,) of both parts of MiniLLM for one text, and their gradients (T, V).

    Logits (T, V) and the tokens that were drawn; eq. 7 of arXiv 2306.08543, in closed form.
    """
    last = len(tokens)
    q, p = [softmax(z) for z in student], [softmax(z) for z in teacher]
    reward = [np.log(p[t][y] / q[t][y]) for t, y in enumerate(tokens)]
    single, long, slopes = [], [], ([], [])
    for t, y in enumerate(tokens):
        w = q[t][y] / (alpha * p[t][y] + (1 - alpha) * q[t][y])
        kl_t = sum(qi * np.log(qi / pi) for qi, pi in zip(q[t], p[t], strict=True))
        single.append(w * kl_t)
        slopes[0].append(w * q[t] * (np.log(q[t] / p[t]) - kl_t))
        behind = sum(reward[u] for u in range(t + 1, last))
        if length_norm and t + 1 < last:
            behind /= last - t - 1
        bounded = w if clip is None else min(max(w, 1 - clip), 1 + clip)
        long.append(-min(w * behind, bounded * behind))
        # Where the bounded one is less, nothing moves.
        moves = w * behind <= bounded * behind
        slopes[1].append(-w * behind * (np.eye(len(q[t]))[y] - q[t]) * moves)
    return np.array(single), np.array(long), np.array(slopes[0]), np.array(slopes[1])
