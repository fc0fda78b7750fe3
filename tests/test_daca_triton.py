"""DACA's Triton kernels: in Triton's interpreter without a GPU, compiled for GPUs, and on one where there is one."""

import os
import subprocess
import sys

import pytest
import torch

from modalign.networks.daca_attention import deformable_window_attention

pytest.importorskip("triton")

INTERPRETED = """
import torch
from modalign.networks.daca_attention import deformable_window_attention
from modalign.networks.daca_triton import triton_window_attention

torch.manual_seed(0)
for shape, window, heads, channels in (((8, 9), 3, 2, 14), ((3, 4, 3), 2, 1, 3)):
    images = [torch.randn(1, channels, *shape, requires_grad=True) for _ in range(3)]
    field = 3 * torch.randn(1, len(shape), *shape)
    weights = torch.randn(1, channels, *shape)
    results = []
    for attention in (triton_window_attention, deformable_window_attention):
        output = attention(*images, field, window, heads)
        results.append([output, *torch.autograd.grad((output * weights).sum(), images)])
    for fused, tiled in zip(*results):
        torch.testing.assert_close(fused, tiled, atol=1e-5, rtol=1e-5)
"""

CHANNELS_LAST = """
import torch
from modalign.networks.daca_triton import triton_window_attention

torch.manual_seed(0)
for batch in (1, 2):
    images = [torch.randn(batch, 6, 5, 7) for _ in range(3)]
    field, weights = 2 * torch.randn(batch, 2, 5, 7), torch.randn(batch, 6, 5, 7)
    results = []
    for order in (torch.contiguous_format, torch.channels_last):
        here = [image.to(memory_format=order).requires_grad_() for image in images]
        output = triton_window_attention(*here, field.to(memory_format=order), 3, 2)
        gradients = torch.autograd.grad(output, here, weights.to(memory_format=order))
        results.append([output, *gradients])
    for rows, last in zip(*results):
        torch.testing.assert_close(rows, last, atol=1e-6, rtol=1e-6)
"""

COMPILED = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from modalign.networks import daca_triton

constants = {"DIMENSION": 2, "CHANNELS": 7, "PADDED": 8, "WINDOW": 28, "CELL": 8, "PRECISION": "tf32"}
constants |= {"BLOCK_PIXELS": daca_triton.BLOCK_PIXELS, "BLOCK_VOXELS": daca_triton.BLOCK_VOXELS}
types = {name: "i32" for name in ("pixels", "size_0", "size_1", "size_2")} | {"phase": "*i64", "tiles": "*i64"}
for kernel in (daca_triton._forward, daca_triton._backward):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    options = {"num_warps": 8, "num_stages": 1}
    compiled = compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    # What every GPU since 2020 gives to a block.
    assert compiled.asm["cubin"] and compiled.metadata.shared < 99 * 1024, compiled.metadata.shared
"""


def run(script: str, **environment: str) -> None:
    """In a process of its own: Triton reads its mode when it is imported."""
    finished = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton is there for Linux")
def test_in_the_interpreter_the_kernels_agree_with_the_tiles_and_for_any_order_in_memory():
    run(INTERPRETED + CHANNELS_LAST, TRITON_INTERPRET="1")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton is there for Linux")
def test_the_kernels_compile_for_gpus(tmp_path):
    run(COMPILED, TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("shape", "window"), [((40, 33), 28), ((12, 9, 10), 7)])
def test_the_kernels_agree_with_the_tiles_on_a_gpu(shape, window):
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(2, 14, *shape, generator=draw) for _ in range(3)]
    field = 4 * torch.randn(2, len(shape), *shape, generator=draw)
    results = []
    for device in ("cuda", "cpu"):
        here = [image.to(device).requires_grad_() for image in images]
        output = deformable_window_attention(*here, field.to(device), window, 2)
        results.append([output, *torch.autograd.grad(output.sin().sum(), here)])
    for fused, tiled in zip(*results, strict=True):
        torch.testing.assert_close(fused.cpu(), tiled, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_papers_size_takes_less_than_two_gigabytes_of_a_gpu():
    images = [torch.randn(4, 14, 384, 320, device="cuda", requires_grad=True) for _ in range(3)]
    torch.cuda.reset_peak_memory_stats()
    deformable_window_attention(*images, torch.randn(4, 2, 384, 320, device="cuda"), 28, 2).sum().backward()
    assert torch.cuda.max_memory_allocated() < 2e9
