"""The PyTorch side of encoder-vs-torch.ts: Hugging Face BertModel, eager, fp32, SDPA. One JSON command per line in, one JSON answer per line out.

python torch_encoder.py '{"config": {...}, "weights": "FILE.safetensors", "threads": N}'
"""
import json
import sys
import time

import torch
import transformers
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

transformers.logging.set_verbosity_error()
options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
c = options["config"]
model = BertModel(
    BertConfig(
        attn_implementation="sdpa", vocab_size=c["vocab"], hidden_size=c["hidden"], num_hidden_layers=c["layers"], num_attention_heads=c["heads"],
        intermediate_size=c["intermediate"], max_position_embeddings=c["maxPositions"], type_vocab_size=c["typeVocab"], layer_norm_eps=c["layerNormEps"],
        hidden_dropout_prob=c["hiddenDropout"], attention_probs_dropout_prob=c["attentionDropout"]),
    add_pooling_layer=False)
missing = model.load_state_dict(load_file(options["weights"]), strict=False)
assert not missing.unexpected_keys and all("." not in k or k.endswith("_ids") for k in missing.missing_keys), missing
optimizer = None


def embeddings(rows):
    # Rows of equal length: no padding, no attention mask, PyTorch's best case.
    return torch.nn.functional.normalize(model(input_ids=torch.tensor(rows)).last_hidden_state[:, 0], dim=-1)


def embed(command):
    model.eval()
    with torch.no_grad():
        start = time.perf_counter()
        result = embeddings(command["ids"])
        seconds = time.perf_counter() - start
    return dict(seconds=seconds, embeddings=result.tolist() if command.get("values") else None)


def train(command):
    """One step of InfoNCE with in-batch negatives: forward, backward, clip, AdamW."""
    global optimizer
    optimizer = optimizer or torch.optim.AdamW(model.parameters())
    model.train(command["dropout"])
    for group in optimizer.param_groups:
        group["lr"] = command["learningRate"]
    start = time.perf_counter()
    q, p = embeddings(command["queries"]), embeddings(command["passages"])
    loss = torch.nn.functional.cross_entropy(q @ p.T / command["temperature"], torch.arange(len(q)))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return dict(seconds=time.perf_counter() - start, loss=loss.item())


print(json.dumps(dict(torch=torch.__version__, transformers=transformers.__version__, threads=torch.get_num_threads())), flush=True)
for line in sys.stdin:
    command = json.loads(line)
    print(json.dumps(dict(embed=embed, train=train)[command["op"]](command)), flush=True)
