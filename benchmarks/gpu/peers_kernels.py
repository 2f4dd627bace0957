"""PyTorch's ceilings and single operators."""
import subprocess
import threading
import time

import torch
import torch.nn.functional as F
from peers_support import each_variant, synchronize, tf32, timed
from torch.nn.attention import SDPBackend, sdpa_kernel


def gpu_state():
    query = "clocks.sm,clocks.mem,temperature.gpu,power.draw"
    try:
        return subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True, timeout=10).stdout.strip()
    except OSError:
        return None


def ceilings(sizes, device):
    """Burst: ten products after three warm-ups, the mean, in TF/s. Sustained: products back to back for so many seconds. Copy: bytes read + written."""
    n = sizes["gemm"]
    facts = {}

    def product(dtype):
        return torch.randn(n, n, device=device).to(dtype), torch.randn(n, n, device=device).to(dtype), torch.empty(n, n, device=device, dtype=dtype)

    def burst(name, dtype, allow=False):
        a, b, c = product(dtype)

        def ten():
            for _ in range(10):
                torch.mm(a, b, out=c)

        with tf32(allow):
            seconds = [s / 10 for s in timed({**sizes, "warmups": 1, "repeat": 3, "budget": 0}, device, ten, events=True)]
            time.sleep(0.2)
        facts[f"{name} burst TF/s"] = round(2 * n**3 / min(seconds) / 1e12, 2)
        return seconds

    def sustained():
        a, b, c = product(torch.bfloat16)
        states, stop = [], threading.Event()

        def watch():
            while not stop.wait(2):
                states.append(gpu_state())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        seconds, start = [], time.perf_counter()
        while time.perf_counter() - start < sizes["sustainedSeconds"]:
            synchronize(device)
            at = time.perf_counter()
            for _ in range(200):
                torch.mm(a, b, out=c)
            synchronize(device)
            seconds.append((time.perf_counter() - at) / 200)
        stop.set()
        late = sorted(seconds[len(seconds) // 2:])
        facts["bf16 sustained TF/s"] = round(2 * n**3 / late[len(late) // 2] / 1e12, 2)
        facts["while sustained"] = states[-1] if states else None
        return seconds

    def copy():
        x = torch.randint(-100, 100, (sizes["copyBytes"],), dtype=torch.int8, device=device)
        y = torch.empty_like(x)
        seconds = timed(sizes, device, lambda: y.copy_(x), events=True)
        facts["copy TB/s"] = round(2 * x.numel() / sorted(seconds)[len(seconds) // 2] / 1e12, 3)
        return seconds

    return lambda: each_variant({
        "bf16": lambda: burst("bf16", torch.bfloat16), "fp16": lambda: burst("fp16", torch.float16),
        "tf32": lambda: burst("tf32", torch.float32, True), "copy": copy, "bf16 sustained": sustained}, facts)


def attention(sizes, device):
    """(n, heads, length, headSize) bf16, views of one packed (tokens, 3, heads, headSize) product as an encoder has them."""
    heads, d, s = sizes["heads"], sizes["headSize"], sizes["length"]
    n = sizes["tokens"] // s
    packed = torch.randn(n * s, 3, heads, d, device=device).to(torch.bfloat16)
    q, k, v = (packed[:, i].view(n, s, heads, d).transpose(1, 2).detach().requires_grad_() for i in range(3))
    d_out = torch.randn(n, s, heads, d, device=device).to(torch.bfloat16).transpose(1, 2)
    backward = sizes["direction"] == "backward"

    def measure(forward, inputs, gradient):
        if not backward:
            with torch.no_grad():
                return timed(sizes, device, forward, events=True)
        out = forward()
        return timed(sizes, device, lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True), events=True)

    def sdpa(backend):
        def forward():
            with sdpa_kernel([backend]):
                return F.scaled_dot_product_attention(q, k, v, dropout_p=sizes["dropout"])

        return lambda: measure(forward, (q, k, v), d_out)

    def varlen():
        from torch.nn.attention.varlen import varlen_attn

        if sizes["dropout"] > 0:
            raise ValueError("varlen_attn has no dropout")
        offsets = torch.arange(0, n * s + 1, s, dtype=torch.int32, device=device)
        flat = [packed[:, i].detach().requires_grad_() for i in range(3)]
        gradient = torch.randn(n * s, heads, d, device=device).to(torch.bfloat16)
        return measure(lambda: varlen_attn(*flat, offsets, offsets, s, s), flat, gradient)

    return lambda: each_variant({
        "flash": sdpa(SDPBackend.FLASH_ATTENTION), "cudnn": sdpa(SDPBackend.CUDNN_ATTENTION), "efficient": sdpa(SDPBackend.EFFICIENT_ATTENTION),
        "varlen_attn": varlen})


def linear(sizes, device):
    """bf16 storage throughout; the weight gradient is bf16 too (ours adds to fp32)."""
    r, i, o, kind = sizes["rows"], sizes["in"], sizes["out"], sizes["kind"]
    x, w, b, g = (torch.randn(*shape, device=device).to(torch.bfloat16) for shape in [(r, i), (o, i), (o,), (r, o)])
    work = dict(
        bias=lambda: F.linear(x, w, b), gelu=lambda: F.gelu(F.linear(x, w, b)), input=lambda: g @ w, weight=lambda: (g.T @ x, g.sum(0)))[kind]

    def run(work):
        with torch.no_grad():
            return timed(sizes, device, work, events=True)

    variants = dict(eager=lambda: run(work))
    if kind in ("gelu", "weight"):
        compiled = torch.compile(work, dynamic=False)
        variants["compile"] = lambda: run(compiled)
    return lambda: each_variant(variants)


def layernorm(sizes, device):
    rows, cols = sizes["rows"] // sizes["length"] * sizes["length"], sizes["cols"]
    x, residual, g = (torch.randn(rows, cols, device=device).to(torch.bfloat16) for _ in range(3))
    gamma, beta = (torch.randn(cols, device=device).to(torch.bfloat16).requires_grad_() for _ in range(2))
    x.requires_grad_()
    residual.requires_grad_()

    def forward():
        return F.layer_norm(residual + F.dropout(x, sizes["dropout"]), (cols,), gamma, beta, 1e-12)

    def run(forward):
        if sizes["direction"] == "forward":
            return timed(sizes, device, forward, events=True)
        out = forward()
        return timed(sizes, device, lambda: torch.autograd.grad(out, (x, residual, gamma, beta), g, retain_graph=True), events=True)

    compiled = torch.compile(forward, dynamic=False)
    return lambda: each_variant(dict(eager=lambda: run(forward), compile=lambda: run(compiled)))
