"""What a GPU, or this CPU, makes of the two inner loops: Locor's local sums and DACA's attention.

``python benchmarks/accelerator.py`` prints two Markdown tables, on a GPU where there is one. The first compares bytes
per second with those of copying an array; bytes are those that the separable form moves when every product is written
and read once: images and mask read, basis functions and products written and read, sums written. A CPU has a few planes
in work at a time, whose products stay in its cache, a GPU the whole image. The second has the papers' block, at their
size too, against gathering all samples.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from daca import with_gradients
from racing import largest_difference, with_peak_memory
from scenes import other_contrast, smooth_field, smooth_image
from torch import Tensor

from modalign.devices import resolve_device
from modalign.networks.daca_attention import deformable_window_attention
from modalign.networks.daca_reference import gather_all_attention
from modalign.similarity.local_regression import Problem, local_regression_loss, local_sums, slabs, window_matrix
from modalign.similarity.locor import LearnedBasis, gradient_magnitude

COPIED = 64 * 2**20
"""Numbers of the array whose copy says how fast memory is."""
HEAD, FUNCTIONS, SIGMA, STRIDE = (92, 110, 92), 4, 1.0, 3
CHANNELS, HEADS, WINDOW = 14, 2, 28
MOST = 200
"""Repeats."""


def main() -> None:
    """Print both tables."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"{name}, torch {torch.__version__}\n")
    print("| what | seconds | GB | GB/s | share of a copy's |\n|---|---|---|---|---|")
    copy = None
    for what, work, moved in _local_sums(device, options.scale):
        seconds = _seconds(work, device, options.seconds)
        rate = moved / seconds / 1e9
        copy = copy or rate
        print(f"| {what} | {seconds:.3g} | {moved / 1e9:.2f} | {rate:.1f} | {rate / copy:.2f} |", flush=True)
    print("\n| DACA and gradients | seconds | peak memory (MB) | largest difference |\n|---|---|---|---|")
    for line in _attention(device, options):
        print(line, flush=True)


def _local_sums(device: torch.device, scale: int) -> list[tuple[str, Callable[[], Any], float]]:
    """What to do, and how many bytes that moves: a copy, the sums of one direction, and loss with gradient."""
    array, target = (torch.zeros(COPIED, device=device) for _ in range(2))
    shape = tuple(scale * n for n in HEAD)
    scan = smooth_image(shape, seed=0)
    images = [torch.from_numpy(i)[None, None].to(device) for i in (scan, other_contrast(scan, seed=1))]
    source, wanted = (torch.cat([i, gradient_magnitude(i)], 1) for i in images)
    mask = torch.ones_like(images[0])
    basis = LearnedBasis(2, FUNCTIONS, (16, 16), torch.Generator().manual_seed(0)).to(device)
    windows = tuple(torch.from_numpy(window_matrix(n, SIGMA, STRIDE, 0.5)).float().to(device) for n in shape)
    problem = Problem(basis, windows, "log", 1e-4, 1e-4)
    parts = slabs(source[0], windows[0])
    with torch.no_grad():
        sums = local_sums(problem, source[0], wanted[0], mask[0], parts)
    inputs = source.numel() + wanted.numel() + mask.numel()
    moved = inputs + 2 * (FUNCTIONS + len(sums)) * mask.numel() + sums.numel()

    @torch.no_grad()
    def only_sums() -> Tensor:
        return local_sums(problem, source[0], wanted[0], mask[0], parts)

    def with_gradient() -> tuple[Tensor, ...]:
        source.requires_grad_()
        return torch.autograd.grad(
            local_regression_loss(source, wanted, mask, basis, windows), [source, *basis.parameters()]
        )

    size = " x ".join(map(str, shape))
    # Back from the sums: the derivative by every product is written and read, with the functions and what they get.
    back = inputs + 2 * (2 * FUNCTIONS + len(sums)) * mask.numel() + sums.numel() + source.numel()
    return [
        (f"copy of {COPIED / 2**20:.0f} million numbers", lambda: target.copy_(array), 8.0 * COPIED),
        (f"Locor's local sums, {size}, {len(sums)} products", only_sums, 4.0 * moved),
        (f"Locor's loss and gradient, {size}", with_gradient, 4.0 * (moved + back)),
    ]


def _attention(device: torch.device, options: argparse.Namespace) -> list[str]:
    """A line for every size and way."""
    lines = []
    for batch, shape in ((1, (96, 96)), (options.batch, tuple(options.size))):
        draw = torch.Generator().manual_seed(0)
        images = [torch.randn(batch, CHANNELS, *shape, generator=draw).to(device).requires_grad_() for _ in range(3)]
        field = torch.from_numpy(smooth_field((*shape, batch), seed=1)[:2]).permute(3, 0, 1, 2).contiguous().to(device)
        first: list[Tensor] | None = None
        for name, attention in (("ours", deformable_window_attention), ("gather all", gather_all_attention)):
            work = partial(with_gradients, attention, images, field, WINDOW, HEADS)
            what = f"{name}, {batch} x {' x '.join(map(str, shape))}"
            gathered = 4 * batch * shape[0] * shape[1] * WINDOW**2 * (3 * CHANNELS + 4 * HEADS)
            if name != "ours" and gathered > options.largest_gb * 1e9:
                lines.append(f"| {what} | would take some {gathered / 1e9:.0f} GB | | |")
                continue
            found, memory = _peak(work, device)
            apart = "" if first is None else f"{largest_difference(first, found):.1e}"
            first = first or found
            lines.append(f"| {what} | {_seconds(work, device, options.seconds):.3g} | {memory:,.0f} | {apart} |")
    return lines


def _peak(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """The result, and by how many MB memory rose above what was in use."""
    if device.type != "cuda":
        found, memory = with_peak_memory(work)
        return found, float("nan") if memory is None else memory
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    return work(), (torch.cuda.max_memory_allocated(device) - before) / 1e6


def _seconds(work: Callable[[], Any], device: torch.device, budget_s: float) -> float:
    """The fastest of the repeats that fit into the budget, after one to warm up."""
    times: list[float] = []
    work()
    while not times or (sum(times) < budget_s and len(times) < MOST):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=resolve_device(), choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--seconds", type=float, default=4.0, help="to spend on every line, about")
    parser.add_argument("--scale", type=int, default=1, help="factor of the head's size along each axis, as on a GPU 2")
    parser.add_argument("--batch", type=int, default=4, help="of DACA's larger images")
    parser.add_argument("--size", type=int, nargs=2, default=(384, 320), help="of DACA's larger images")
    parser.add_argument("--largest-gb", type=float, default=12.0, help="leave out gathering all where it takes more")
    return parser


if __name__ == "__main__":
    main()
