"""The Python sides of encode.ts, one a process. options.side: eager | compile | sentence-transformers | onnxruntime."""
import json
import os
import platform
import tempfile

from peers_cpu import bert, options, report, skip, status, timed

with open(options["workloads"]) as f:
    workloads = json.load(f)
with open(options["check"]) as f:
    check_rows = json.load(f)[0]["ids"]


def batches(rows, size, order):
    rows = sorted(rows, key=len, reverse=True) if order == "sorted" else rows
    return [rows[i:i + size] for i in range(0, len(rows), size)]


def padded_numpy(rows):
    import numpy as np

    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, :len(row)] = row
        mask[n, :len(row)] = 1
    return ids, mask


def torch_side():
    """vectors(rows) of one batch. Rows of one length go without a mask: PyTorch's best case."""
    try:
        import torch
        import transformers
    except ImportError as error:
        skip(str(error))
    model = bert(torch.bfloat16 if options["dtype"] == "bf16" else None)
    if options["side"] == "compile":
        import torch._inductor.config

        torch._inductor.config.freezing = True
        torch._inductor.config.cpp_wrapper = False
        torch._dynamo.config.cache_size_limit = 64
        model = torch.compile(model, dynamic=False)

    def vectors(rows):
        ids, mask = map(torch.from_numpy, padded_numpy(rows))
        with torch.inference_mode() if options["side"] != "compile" else torch.no_grad():
            mask = None if bool(mask.all()) else mask
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            return torch.nn.functional.normalize(hidden[:, 0].float(), dim=-1).numpy()

    return vectors, {"torch": torch.__version__, "transformers": transformers.__version__}


def onnxruntime_side():
    try:
        import numpy as np
        import onnxruntime
    except ImportError as error:
        skip(str(error))
    if not options.get("onnx"):
        skip(options["onnxMissing"])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = options["threads"], 1
    session = onnxruntime.InferenceSession(os.path.join(options["onnx"], options["graph"]), settings, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def vectors(rows):
        ids, mask = padded_numpy(rows)
        feeds = dict(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids))
        hidden = session.run(["last_hidden_state"], {name: feeds[name] for name in names})[0]
        return hidden[:, 0] / np.linalg.norm(hidden[:, 0], axis=1, keepdims=True)

    return vectors, {"onnxruntime": onnxruntime.__version__}


def sentence_transformer():
    """The package's own pipeline, tokenisation included, over a folder made on the spot: the word "w123" is token 123."""
    try:
        import sentence_transformers
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Normalize, Pooling, Transformer
        from transformers import BertTokenizer
    except ImportError as error:
        skip(str(error))
    vocabulary = options["config"]["vocab"]
    with tempfile.TemporaryDirectory() as folder:
        special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
        with open(f"{folder}/vocab.txt", "w") as f:
            f.write("\n".join(special.get(i, f"w{i}") for i in range(vocabulary)) + "\n")
        BertTokenizer(f"{folder}/vocab.txt").save_pretrained(folder)
        bert().save_pretrained(folder)
        word = Transformer(folder, max_seq_length=options["config"]["maxPositions"])
        model = SentenceTransformer(modules=[word, Pooling(options["config"]["hidden"], "cls"), Normalize()], device="cpu")
    if options["dtype"] == "bf16":
        model = model.to(torch.bfloat16)
    texts = {}

    def vectors(rows):
        words = [texts.setdefault(id(row), " ".join(f"w{i}" for i in row[1:-1])) for row in rows]
        return model.encode(words, batch_size=32, show_progress_bar=False, convert_to_tensor=True).float().numpy()

    return vectors, {"sentence-transformers": sentence_transformers.__version__}


def main():
    side = {"onnxruntime": onnxruntime_side, "sentence-transformers": sentence_transformer}.get(options["side"], torch_side)
    vectors, versions = side()
    check = [float(x) for row in check_rows for x in vectors([row])[0]] if options["side"] != "compile" else None
    loaded = status("VmRSS")
    results = {}
    for w in workloads:
        if options["side"] == "compile" and len({len(row) for row in w["ids"]}) > 1:
            continue  # every length would be compiled anew
        whole = options["side"] == "sentence-transformers"  # it sorts and batches by itself
        if whole and w["order"] == "input" and w["name"].startswith("mixed"):
            continue

        def run(rows):
            for batch in [rows] if whole else batches(rows, w["batchTexts"], w["order"]):
                vectors(batch)

        for _ in range(w["warmUps"]):
            run(w["ids"][:256])
        results[w["name"]] = timed(w["repeats"], lambda: run(w["ids"]))
    report({"python": platform.python_version(), **versions}, loaded, results, check=check)


main()
