"""What the Python sides of encode.ts, train.ts and topk.ts share: the report's form, peak memory, a BertModel with our weights."""
import json
import re
import sys
import time

options = json.loads(sys.argv[-1])


def skip(reason):
    print(json.dumps({"skipped": reason}), flush=True)
    sys.exit(0)


def status(name):
    with open("/proc/self/status") as f:
        return int(re.search(rf"^{name}:\s*(\d+) kB", f.read(), re.M)[1]) * 1024


def reset_peak():
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def timed(repeats, run):
    """{seconds, peakBytes} of `repeats` runs."""
    reset_peak()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "peakBytes": status("VmHWM")}


def report(versions, loaded, workloads, **more):
    print(json.dumps({"versions": versions, "loadedBytes": loaded, "workloads": workloads, **more}), flush=True)


def bert(dtype=None):
    """Hugging Face's BertModel with SDPA on the weights of the run, in eval mode."""
    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options["threads"])
    c = options["config"]
    config = BertConfig(
        attn_implementation="sdpa", vocab_size=c["vocab"], hidden_size=c["hidden"], num_hidden_layers=c["layers"], num_attention_heads=c["heads"],
        intermediate_size=c["intermediate"], max_position_embeddings=c["maxPositions"], type_vocab_size=c["typeVocab"], layer_norm_eps=c["layerNormEps"],
        hidden_dropout_prob=c["hiddenDropout"], attention_probs_dropout_prob=c["attentionDropout"])
    model = BertModel(config, add_pooling_layer=False)
    missing = model.load_state_dict(load_file(options["weights"]), strict=False)
    assert not missing.unexpected_keys and all("." not in k or k.endswith("_ids") for k in missing.missing_keys), missing
    model.eval()
    return model if dtype is None else model.to(dtype)
