"""mteb itself on local files and ready vectors: the other side of cmteb_parity.py --against mteb.

A task of C-MTEB of the same type gives the class and its metadata; its data is replaced by the rows of ours, and the model only looks vectors up.
"""
import mteb
import numpy as np
import torch
from datasets import Dataset, DatasetDict, disable_progress_bars
from mteb.models.model_meta import ScoringFunction
from mteb.similarity_functions import cos_sim, pairwise_cos_sim
from mteb.types import PromptType

disable_progress_bars()
STANDS_FOR = {
    "sts": "LCQMC", "retrieval": "DuRetrieval", "reranking": "CMedQAv1-reranking", "classification": "TNews",
    "clustering": "CLSClusteringS2S", "pairClassification": "Ocnli",
}


class Lookup:
    """An encoder that knows its vectors. Only queries of retrieval and reranking have an instruction."""

    similarity = staticmethod(cos_sim)
    similarity_pairwise = staticmethod(pairwise_cos_sim)

    def __init__(self, plain, queries):
        self.plain, self.queries = plain, queries
        self.mteb_model_meta = mteb.get_model_meta("BAAI/bge-small-zh-v1.5").model_copy(update={"similarity_fn_name": ScoringFunction.COSINE})

    def encode(self, inputs, *, task_metadata, prompt_type=None, **_):
        texts = [text for batch in inputs for text in batch["text"]]
        of = self.queries if prompt_type == PromptType.query and self.queries else self.plain
        return torch.from_numpy(of(texts)) if task_metadata.type in ("Retrieval", "Reranking") else of(texts)


def numbers(*lists):
    """Labels as the numbers that mteb's datasets have: the order of code points."""
    order = {label: i for i, label in enumerate(sorted({label for labels in lists for label in labels}))}
    return [[order[label] for label in labels] for labels in lists]


def retrieval_split(corpus, queries, qrels, top_ranked=None):
    return dict(
        corpus=Dataset.from_list([{"id": i, "text": t} for i, t in corpus]),
        queries=Dataset.from_list([{"id": i, "text": t} for i, t in queries]),
        relevant_docs=qrels, top_ranked=top_ranked)


def data_of(kind, task, split, read):
    """What `task.dataset` of mteb holds for the files of ours."""
    if kind == "retrieval":
        qrels = {}
        for r in read(task / "qrels.jsonl"):
            qrels.setdefault(str(r["qid"]), {})[str(r["did"])] = r["score"]
        corpus = [(str(r["id"]), f"{r.get('title') or ''} {r['text']}".strip()) for r in read(task / "corpus.jsonl")]
        return {"default": {split: retrieval_split(corpus, [(str(r["id"]), r["text"]) for r in read(task / "queries.jsonl")], qrels)}}
    if kind == "reranking":
        corpus, queries, qrels, ranked = [], [], {}, {}
        for i, r in enumerate(r for r in read(task.with_suffix(".jsonl")) if r["positive"] and r["negative"]):
            qid = f"{split}_query{i}"
            ids = [f"apositive_{qid}_{j:05d}" for j in range(len(r["positive"]))]
            others = [f"negative_{qid}_{j:05d}" for j in range(len(r["negative"]))]
            corpus += zip(ids + others, r["positive"] + r["negative"])
            queries.append((qid, r["query"]))
            qrels[qid], ranked[qid] = {**{d: 1 for d in ids}, **{d: 0 for d in others}}, ids + others
        return {"default": {split: retrieval_split(corpus, queries, qrels, ranked)}}
    if kind == "classification":
        test = read(task.with_suffix(".test.jsonl"))
        beside = task.with_suffix(".jsonl")
        train = read(beside if beside.exists() else task.parents[2] / "train/classification" / beside.name)
        labels = numbers([str(r["label"]) for r in train], [str(r["label"]) for r in test])
        return DatasetDict({
            name: Dataset.from_dict({"text": [r["text"] for r in part], "label": y}) for name, part, y in zip(("train", split), (train, test), labels)})
    data = read(task.with_suffix(".jsonl"))
    if kind == "clustering":
        return DatasetDict({split: Dataset.from_dict({"sentences": [[r["text"] for r in data]], "labels": [[str(r["label"]) for r in data]]})})
    pair = {"sentence1": [r["text1"] for r in data], "sentence2": [r["text2"] for r in data]}
    if kind == "sts":
        return DatasetDict({split: Dataset.from_dict({**pair, "score": [float(r["label"]) for r in data]})})
    return DatasetDict({split: Dataset.from_dict({**pair, "labels": [int(r["label"]) for r in data]})})


def scores(kind, path, plain, queries, read):
    task = mteb.get_task(STANDS_FOR[kind])
    split = task.metadata.eval_splits[0]
    task.dataset, task.data_loaded = data_of(kind, path, split, read), True
    result = task.evaluate(Lookup(plain, queries), split, encode_kwargs={"batch_size": 1024})["default"]
    return {name: float(value) for name, value in result.items() if isinstance(value, (int, float, np.floating)) and name != "main_score"}


VERSION = f"mteb {mteb.__version__}"
