"""The PyTorch sides of train.ts: eager, SDPA, dropout on; options.dtype fp32 or bf16 (autocast)."""
import contextlib
import json

from peers_cpu import bert, options, report, skip, status, timed

try:
    import torch
    import transformers
except ImportError as error:
    skip(str(error))

with open(options["workloads"]) as f:
    work = json.load(f)
model = bert()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.01)
autocast = (lambda: torch.autocast("cpu", torch.bfloat16)) if options["dtype"] == "bf16" else contextlib.nullcontext


def embeddings(rows):
    # Rows of one length: no padding, no mask, PyTorch's best case.
    with autocast():
        hidden = model(input_ids=torch.tensor(rows)).last_hidden_state
    return torch.nn.functional.normalize(hidden[:, 0].float(), dim=-1)


def step():
    q, p = embeddings(work["queries"]), embeddings(work["passages"])
    loss = torch.nn.functional.cross_entropy(q @ p.T / work["temperature"], torch.arange(len(q)))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


loss = step()  # without dropout, and nothing moves
model.train()
for group in optimizer.param_groups:
    group["lr"] = 1e-5
step()
loaded = status("VmRSS")
report({"torch": torch.__version__, "transformers": transformers.__version__}, loaded, {"step": timed(work["repeats"], step)}, loss=loss)
