"""The Python sides of topk.ts: options.side faiss (IndexFlatIP) or torch (product and topk, 4,096 passages at a time, merged)."""
import hashlib

from peers_cpu import options, report, skip, status, timed

try:
    import numpy as np
    if options["side"] == "faiss":
        import faiss
        faiss.omp_set_num_threads(options["threads"])
        version = {"faiss": faiss.__version__}
    else:
        import torch
        torch.set_num_threads(options["threads"])
        version = {"torch": torch.__version__}
except ImportError as error:
    skip(str(error))


def floats(name, rows):
    return np.fromfile(name, np.float32).reshape(rows, options["dims"])


q, p, k = floats(options["queriesFile"], options["queries"]), floats(options["passagesFile"], options["passages"]), options["k"]
found = {}
if options["side"] == "faiss":
    index = faiss.IndexFlatIP(options["dims"])
    index.add(p)
    del p

    def search():
        found["indices"] = index.search(q, k)[1]
else:
    Q, P, chunk = torch.from_numpy(q), torch.from_numpy(p), 4096

    def search():
        best = torch.empty(len(Q), 0)
        at = torch.empty(len(Q), 0, dtype=torch.int64)
        for first in range(0, len(P), chunk):
            scores = Q @ P[first:first + chunk].T
            s, i = torch.topk(scores, min(k, scores.shape[1]), dim=1)
            best, at = torch.cat((best, s), 1), torch.cat((at, i + first), 1)
            best, order = torch.topk(best, min(k, best.shape[1]), dim=1)
            at = at.gather(1, order)
        found["indices"] = at.numpy()

search()
loaded = status("VmRSS")
times = timed(options["repeats"], search)
indices = np.ascontiguousarray(found["indices"], np.int32)
report(version, loaded, {"search": times}, first=indices[0].tolist(), sha256=hashlib.sha256(indices.tobytes()).hexdigest())
