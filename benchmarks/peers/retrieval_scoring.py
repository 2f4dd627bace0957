"""mteb's search and measures on ready vectors, for benchmarks/retrieval-scoring.ts: its own classes, with data loaders that cost nothing.

  python retrieval_scoring.py '{"folder": DIR, "documents": N, "queries": Q, "dims": D, "relevant": R, "threads": T}'
"""
import json
import resource
import sys
import time

import mteb
import numpy as np
import torch
from datasets import Dataset
from mteb._evaluators import retrieval_metrics
from mteb.models import search_wrappers
from mteb.models.search_wrappers import SearchEncoderWrapper
from mteb.similarity_functions import cos_sim

options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
Q, N, D = options["queries"], options["documents"], options["dims"]
documents = torch.from_numpy(np.fromfile(f"{options['folder']}/documents.f32", dtype="<f4").reshape(N, D))
queries = torch.from_numpy(np.fromfile(f"{options['folder']}/queries.f32", dtype="<f4").reshape(Q, D))
relevant = np.fromfile(f"{options['folder']}/relevant.i32", dtype="<i4").reshape(Q, options["relevant"])
qrels = {f"q{q}": {f"d{d}": 1 for d in row} for q, row in enumerate(relevant.tolist())}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Ready:
    """A model whose texts are row numbers."""

    mteb_model_meta = None
    similarity = staticmethod(cos_sim)

    def encode(self, inputs, *, prompt_type, **_):
        ids = inputs["id"]
        rows = torch.tensor([int(i[1:]) for i in ids])
        return (queries if prompt_type == mteb.types.PromptType.query else documents)[rows]


search_wrappers.create_dataloader = lambda dataset, **_: dataset
abstention = dict(seconds=0.0)
whole = retrieval_metrics.evaluate_abstention


def timed(*arguments):
    start = time.perf_counter()
    result = whole(*arguments)
    abstention["seconds"] += time.perf_counter() - start
    return result


retrieval_metrics.evaluate_abstention = timed
loaded = peak()
corpus = Dataset.from_dict({"id": [f"d{d}" for d in range(N)]})
asked = Dataset.from_dict({"id": [f"q{q}" for q in range(Q)]})
start = time.perf_counter()
search = SearchEncoderWrapper(Ready())
facts = dict(task_metadata=None, hf_split="test", hf_subset="default", encode_kwargs={})
search.index(corpus, **facts)
results = search.search(asked, top_k=1000, **facts)
searched = time.perf_counter()
scores = retrieval_metrics.calculate_retrieval_scores(results, qrels, [1, 3, 5, 10, 20, 100, 1000])
end = time.perf_counter()
values = {"map": scores.map, "ndcg": scores.ndcg, "recall": scores.recall, "precision": scores.precision, "hit_rate": scores.hit_rate, "mrr": scores.mrr}
print(json.dumps(dict(
    seconds=end - start, search=searched - start, measures=end - searched, abstention=abstention["seconds"], loadedBytes=loaded, peakBytes=peak(),
    versions=dict(mteb=mteb.__version__, torch=torch.__version__, threads=torch.get_num_threads()),
    scores={f"{name}_at_{key.split('@')[-1].split('_')[-1]}": value for name, part in values.items() for key, value in part.items()})))
