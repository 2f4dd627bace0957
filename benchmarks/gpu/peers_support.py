"""What the sections of peers.py share: timing, weights, random batches."""
import contextlib
import math
import time

import torch
import transformers
from transformers import BertConfig, BertModel

transformers.logging.set_verbosity_error()


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def timed(sizes, device, work, events=False, before=None):
    """Seconds of every run. events: CUDA events around one run, the L2 cache overwritten before it; else the host's clock."""
    events = events and device == "cuda"
    flush = torch.empty(256 << 20, dtype=torch.int8, device=device) if events else None
    seconds, spent, i = [], 0.0, -sizes["warmups"]
    while i < sizes["repeat"] and (i < min(3, sizes["repeat"]) or spent < sizes["budget"]):
        if before is not None:
            before()
        if events:
            flush.fill_(i % 100 + 1)
            torch.cuda._sleep(1_000_000)  # half a millisecond, in which the host gets ahead: no launch in the time that is measured
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            synchronize(device)
            s = start.elapsed_time(end) / 1e3
        else:
            synchronize(device)
            at = time.perf_counter()
            work()
            synchronize(device)
            s = time.perf_counter() - at
        if i >= 0:
            seconds.append(s)
            spent += s
        i += 1
    return seconds


def each_variant(variants, facts=None):
    """Runs every variant; one that fails is named with its error and the others go on."""
    answer = dict(seconds={}, facts=facts if facts is not None else {}, errors={})
    for name, run in variants.items():
        try:
            answer["seconds"][name] = run()
        except Exception as error:  # noqa: BLE001
            answer["errors"][name] = f"{type(error).__name__}: {error}"[:500]
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return answer


def bert(config, device, dtype=torch.float32, training=False):
    model = BertModel(bert_config(config), add_pooling_layer=False)
    return model.to(device=device, dtype=dtype).train(training)


def bert_config(c):
    return BertConfig(
        attn_implementation="sdpa", vocab_size=c["vocab"], hidden_size=c["hidden"], num_hidden_layers=c["layers"], num_attention_heads=c["heads"],
        intermediate_size=c["intermediate"], max_position_embeddings=c["maxPositions"], type_vocab_size=c["typeVocab"],
        layer_norm_eps=c["layerNormEps"], hidden_dropout_prob=c["hiddenDropout"], attention_probs_dropout_prob=c["attentionDropout"])


def lengths_of(lengths):
    """The same multiset of lengths as lengthsOf in encoder.ts, in a random order of its own."""
    n = lengths["texts"]
    u = (torch.randperm(n, generator=torch.Generator().manual_seed(3)).double() + 0.5) / n
    if "tokens" in lengths:
        return [lengths["tokens"]] * n
    if "from" in lengths:
        return [math.floor(lengths["from"] + x * (lengths["to"] - lengths["from"]) + 0.5) for x in u.tolist()]
    normal = torch.special.ndtri(u).tolist()
    return [min(lengths["longest"], max(3, math.floor(lengths["median"] * math.exp(0.8 * x) + 0.5))) for x in normal]


def texts_of(lengths, vocabulary):
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(105, vocabulary, (length,), generator=generator) for length in lengths]


def padded(texts):
    """ids and mask (n, longest), on the host."""
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    lengths = torch.tensor([len(t) for t in texts])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def autocast(device):
    return torch.autocast(device, dtype=torch.bfloat16)


@contextlib.contextmanager
def tf32(on):
    old = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = old


def memory_peak(device, work):
    """Bytes that `work` holds at most beyond what is held now."""
    if device != "cuda":
        work()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
