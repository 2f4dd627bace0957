"""The PyTorch side of infonce.ts: InfoNCE over all pairs as most people write it, forward and backward, in one process per trial.

python torch_infonce.py '{"q": "FILE", "p": "FILE", "batch": N, "width": N, "temperature": T, "threads": N, "dtype": "fp32", "runs": N, "warm": ROWS,
                          "gradients": "FILE or nothing"}'
"""
import json
import sys
import time

import torch

o = json.loads(sys.argv[1])
torch.set_num_threads(o["threads"])


def rows(file, count):
    return torch.from_file(file, size=o["batch"] * o["width"], dtype=torch.float32).view(o["batch"], o["width"])[:count].clone().requires_grad_()


def step(q, p):
    """Seconds of the loss and its backward pass."""
    labels = torch.arange(q.shape[0])
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=o["dtype"] == "bf16"):
        scores = q @ p.T
        loss = torch.nn.functional.cross_entropy(scores / o["temperature"], labels)
    loss.backward()
    return time.perf_counter() - start, loss.item()


def memory(name):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(name))


step(rows(o["q"], o["warm"]), rows(o["p"], o["warm"]))
q, p = rows(o["q"], o["batch"]), rows(o["p"], o["batch"])
before = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")  # the peak begins anew
seconds = []
for _ in range(o["runs"]):
    q.grad = p.grad = None
    taken, loss = step(q, p)
    seconds.append(taken)
peak = memory("VmHWM")
if o.get("gradients"):
    with open(o["gradients"], "wb") as f:
        f.write(q.grad.numpy().tobytes() + p.grad.numpy().tobytes())
print(json.dumps(dict(seconds=seconds, loss=loss, before=before, peak=peak, version="PyTorch " + torch.__version__)))
