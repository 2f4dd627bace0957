"""PyTorch's encoder: Hugging Face BertModel with SDPA, eager and compiled, and the real sentence-transformers package on padded batches."""
import tempfile

import torch
import torch.nn.functional as F
from peers_support import autocast, bert, bert_config, each_variant, lengths_of, padded, synchronize, texts_of, timed
from transformers import BertModel


def vectors(model, ids, mask, device):
    """Ids on the host to vectors on the host."""
    if mask is not None:
        mask = mask.to(device, non_blocking=True)
    hidden = model(input_ids=ids.to(device, non_blocking=True), attention_mask=mask).last_hidden_state
    return F.normalize(hidden[:, 0].float(), dim=-1).cpu()


def encode(sizes, device):
    config = sizes["config"]
    model = bert(config, device, torch.bfloat16)
    lengths = lengths_of(sizes["lengths"])
    texts = sorted(texts_of(lengths, config["vocab"]), key=len, reverse=True)  # as sentence-transformers orders them
    equal = min(lengths) == max(lengths)

    def run(model, batch):
        # Texts of one length need no padding and no mask: PyTorch's best case.
        for start in range(0, len(texts), batch):
            part = texts[start:start + batch]
            ids, mask = (torch.stack(part), None) if equal else padded(part)
            vectors(model, ids, mask, device)

    def under(model, batch):
        with torch.inference_mode():
            return timed(sizes, device, lambda: run(model, batch))

    compiled = torch.compile(model, mode="max-autotune", dynamic=False) if "compile" in sizes["variants"] else None
    st = sentence_transformer(config, device) if "sentence-transformers" in sizes["variants"] else None
    variants = {}
    for batch in sizes["batchTexts"]:
        if "eager" in sizes["variants"]:
            variants[f"eager {batch} texts"] = lambda batch=batch: under(model, batch)
        if st is not None:
            variants[f"sentence-transformers {batch} texts"] = lambda batch=batch: timed(
                sizes, device, lambda: st.encode(words, batch_size=batch, show_progress_bar=False))
    if compiled is not None:
        whole = [b for b in sizes["batchTexts"] if len(texts) % b == 0] or [len(texts)]  # one shape: compiled once
        variants[f"compile {whole[-1]} texts"] = lambda: under(compiled, whole[-1])
    words = [" ".join(f"w{i}" for i in t.tolist()) for t in texts_of([n - 2 for n in lengths], config["vocab"])] if st is not None else []
    return lambda: each_variant(variants, dict(tokens=sum(lengths)))


def sentence_transformer(config, device, training=False):
    """The package's own pipeline (tokenisation included) over a model folder made on the spot; a text of n words is n + 2 tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import BertTokenizer

    with tempfile.TemporaryDirectory() as folder:
        special = ["[PAD]"] + [f"[unused{i}]" for i in range(1, 100)] + ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        with open(f"{folder}/vocab.txt", "w") as f:
            f.write("\n".join(special + [f"w{i}" for i in range(len(special), config["vocab"])]) + "\n")
        BertTokenizer(f"{folder}/vocab.txt").save_pretrained(folder)
        BertModel(bert_config(config), add_pooling_layer=True).save_pretrained(folder)
        word = Transformer(folder, max_seq_length=config["maxPositions"])
        model = SentenceTransformer(modules=[word, Pooling(config["hidden"], "cls"), Normalize()], device=device)
    return model if training else model.to(torch.bfloat16)


def latency(sizes, device):
    config = sizes["config"]
    model = bert(config, device, torch.bfloat16)
    ids = texts_of([sizes["tokens"]], config["vocab"])[0][None]
    facts = {}

    def under(name, model):
        with torch.inference_mode():
            seconds = sorted(timed(sizes, device, lambda: vectors(model, ids, None, device)))
        facts[f"{name} p50"], facts[f"{name} p99"] = seconds[len(seconds) // 2], seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))]
        return seconds

    variants = dict(eager=lambda: under("eager", model))
    if "compile" in sizes["variants"]:
        compiled = torch.compile(model, mode="max-autotune", dynamic=False)  # CUDA graphs included
        variants["compile"] = lambda: under("compile", compiled)
    return lambda: each_variant(variants, facts)


def train(sizes, device):
    """Forward with dropout under autocast, backward, clipping to norm 1, fused AdamW; texts in random order, padded to the longest."""
    config = sizes["config"]
    model = bert(config, device, training=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    lengths = lengths_of(sizes["lengths"])
    ids, mask = padded(texts_of(lengths, config["vocab"]))
    equal = min(lengths) == max(lengths)
    gradient = 1e-3 * torch.randn(len(lengths), ids.shape[1], config["hidden"], device=device) * mask[..., None].to(device)
    facts = dict(tokens=sum(lengths), paddedTokens=ids.numel())

    def step(model):
        with autocast(device):
            hidden = model(input_ids=ids.to(device), attention_mask=None if equal else mask.to(device)).last_hidden_state
        if sizes["gradient"] == "hidden":
            hidden.backward(gradient.to(hidden.dtype))
        else:
            F.normalize(hidden[:, 0].float(), dim=-1).backward(gradient[:, 0])
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        facts["gradientNorm"] = norm

    def run(model):
        seconds = timed(sizes, device, lambda: step(model))
        synchronize(device)
        facts["gradientNorm"] = float(facts["gradientNorm"])
        return seconds

    variants = dict(eager=lambda: run(model))
    if "compile" in sizes["variants"]:
        compiled = torch.compile(model, dynamic=False)
        variants["compile"] = lambda: run(compiled)
    return lambda: each_variant(variants, facts)
