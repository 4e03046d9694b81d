"""Two gloo ranks keep the rows that both wrote."""

import multiprocessing
import socket

import torch

from toolchain.data.batching import Batch
from toolchain.distill.operators.replay import Replay


def batch(first: int, count: int, width: int) -> Batch:
    ids = torch.arange(first, first + count)[:, None] + torch.arange(width)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Batch(inputs, ids, tuple(range(first, first + count)))


def keeps_on_a_rank(rank: int, port: int, queue: "multiprocessing.Queue[object]") -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    replay = Replay(0.5, 0.1, 0.1, capacity=5)
    # The ranks' slices differ in number and width; they have rows of the global batch in turn.
    replay.keep(batch(10 + 10 * rank, 3 - rank, 6 + rank))
    found = replay.drawn(batch(90, 3 - rank, 5), torch.Generator().manual_seed(0))
    queue.put((rank, replay.numbers_R.tolist(), replay.ids_RN.tolist(), list(found.rows)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_ranks_keep_the_same_rows_and_draw_different_ones() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[object] = context.Queue()
    ranks = [context.Process(target=keeps_on_a_rank, args=(r, port, queue)) for r in (0, 1)]
    for process in ranks:
        process.start()
    found = sorted(queue.get(timeout=120) for _ in ranks)  # type: ignore[type-var]
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    (_, numbers, ids, first), (_, other_numbers, other_ids, second) = found  # type: ignore[misc]
    assert numbers == other_numbers == [10, 20, 11, 21, 12]
    assert ids == other_ids
    assert sorted(first + second) == sorted(numbers)
