"""PyTorch's side of scripts/gpu/bench.ts: one JSON command a line in, one JSON answer a line out (see ours.ts; sizes: cases.ts).

Random weights and data of fixed seeds. Seconds are the host's clock between two synchronisations, or, in ceilings, attention, linear and
layernorm, CUDA events around one run after the L2 cache was overwritten (the launch is hidden then, which favours PyTorch).
"""
import json
import os
import sys

answers = os.fdopen(os.dup(1), "w")  # what libraries print must not come between the answers
os.dup2(2, 1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import gc  # noqa: E402
import traceback  # noqa: E402

import torch  # noqa: E402
from peers_encoder import encode, latency, train  # noqa: E402
from peers_kernels import attention, ceilings, layernorm, linear  # noqa: E402
from peers_objectives import adamw, finetune, gradcache, infonce, mlm, retromae, topk  # noqa: E402

SECTIONS = dict(
    ceilings=ceilings, encode=encode, latency=latency, train=train, attention=attention, linear=linear, layernorm=layernorm, infonce=infonce,
    mlm=mlm, retromae=retromae, gradcache=gradcache, finetune=finetune, adamw=adamw, topk=topk)


def free():
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe(device):
    versions = f"PyTorch {torch.__version__}"
    return f"{versions}, {torch.cuda.get_device_name()}" if device == "cuda" else f"{versions}, cpu {torch.get_num_threads()} threads"


def main():
    key, prepared = None, None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if "close" in command:
                key, prepared = None, None
                free()
                answer = {}
            else:
                sizes, device = command["sizes"], command["device"].split(":")[0]
                if key != line:
                    key, prepared = None, None
                    free()
                    torch.manual_seed(1)
                    prepared = SECTIONS[sizes["section"]](sizes, device)
                    key = line
                answer = prepared()
                answer["device"] = describe(device)
                gc.collect()
                if device == "cuda":
                    torch.cuda.empty_cache()  # our side measures next, on the same card
        except Exception as error:  # noqa: BLE001: the other sections go on
            traceback.print_exc()
            key, prepared = None, None
            answer = dict(failed=f"{type(error).__name__}: {error}")
        print(json.dumps(answer), file=answers, flush=True)


main()
