"""Scores of `bge eval` against Python, on the same float32 vectors.

  bge eval --model MODEL --data DATA --out OUT --cache CACHE --dialect mteb2 --sklearn-compat 1.9
  python benchmarks/cmteb_parity.py DATA OUT CACHE [--against packages|mteb] [--types sts,...] [--json FILE]

Reads the vectors from the cache (of one model and one maximal length) and computes every task of OUT: with numpy, scipy, scikit-learn and
pytrec_eval the way mteb 2 does (`packages`, the default; without pytrec_eval trec_eval's formulas are written out here), or with mteb itself
(cmteb_mteb.py). Prints each task with the main metric and the largest difference of any metric, and puts the table into FILE.
"""
import argparse
import hashlib
import heapq
import json
import math
import warnings
from pathlib import Path

import numpy as np
import scipy
import sklearn
from scipy.stats import pearsonr, spearmanr
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_score, recall_score, v_measure_score
from sklearn.metrics.pairwise import paired_cosine_distances, paired_euclidean_distances, paired_manhattan_distances

try:
    import pytrec_eval
except ImportError:
    pytrec_eval = None
try:
    import torch
except ImportError:
    torch = None

warnings.simplefilter("ignore")  # quotients of 0 / 0, which mteb's settings make 0
CUTOFFS = (1, 3, 5, 10, 20, 100, 1000)


class Vectors:
    """The vectors of one instruction: files of records (16 bytes of SHA-256, D float32, CRC-32) behind a header of 16 bytes."""

    def __init__(self, cache, instruction):
        self.rows = {}
        for folder in Path(cache).iterdir():
            about = json.loads((folder / "about.json").read_text())
            if about["instruction"] != instruction:
                continue
            d = about["dims"]
            record = np.dtype([("key", "V16"), ("vector", "<f4", (d,)), ("crc", "<u4")])
            for file in folder.glob("*.vec"):
                for row in np.frombuffer(file.read_bytes()[16:], dtype=record):
                    self.rows[row["key"].tobytes()] = row["vector"]

    def __call__(self, texts):
        return np.stack([self.rows[hashlib.sha256(text.encode()).digest()[:16]] for text in texts])


def rows(file):
    return [json.loads(line) for line in open(file, encoding="utf-8") if line.strip()]


def normalized(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def similarity(a, b):
    """mteb's pairwise_cos_sim. Its order of summation is torch's; without torch the values differ by rounding."""
    if torch is None:
        return (normalized(a) * normalized(b)).sum(1)
    a, b = (torch.nn.functional.normalize(torch.from_numpy(x), p=2, dim=1) for x in (a, b))
    return (a * b).sum(dim=-1).numpy()


def sts(task, vectors):
    data = rows(task.with_suffix(".jsonl"))
    a, b = vectors([r["text1"] for r in data]), vectors([r["text2"] for r in data])
    gold = [r["label"] for r in data]
    similarities = {
        "": similarity(a, b),
        "cosine_": 1 - paired_cosine_distances(a, b),
        "manhattan_": -paired_manhattan_distances(a, b),
        "euclidean_": -paired_euclidean_distances(a, b),
    }
    return {f"{name}{kind.__name__[:-1]}": kind(gold, values)[0] for name, values in similarities.items() for kind in (pearsonr, spearmanr)}


def pair_classification(task, vectors):
    data = rows(task.with_suffix(".jsonl"))
    a, b = vectors([r["text1"] for r in data]), vectors([r["text2"] for r in data])
    labels = np.array([int(r["label"]) for r in data])
    similarities = {
        "similarity": (similarity(a, b), True),
        "cosine": (1 - paired_cosine_distances(a, b), True),
        "manhattan": (paired_manhattan_distances(a, b), False),
        "euclidean": (paired_euclidean_distances(a, b), False),
        "dot": (np.array([np.dot(x, y) for x, y in zip(a, b)]), True),
    }
    scores = {}
    for name, (values, high) in similarities.items():
        order = sorted(range(len(values)), key=lambda i: values[i], reverse=high)
        ordered, total = labels[order], int(labels.sum())
        accuracy, best, found = 0.0, (0.0, 0.0, 0.0), 0
        negatives = len(labels) - total
        for i in range(len(labels) - 1):
            found += int(ordered[i] == 1)
            accuracy = max(accuracy, (found + negatives - (i + 1 - found)) / len(labels))
            if found:
                p, r = found / (i + 1), found / total
                if 2 * p * r / (p + r) > best[0]:
                    best = (2 * p * r / (p + r), p, r)
        ap = average_precision_score(labels, values * (1 if high else -1))
        for metric, value in zip(("accuracy", "f1", "precision", "recall", "ap"), (accuracy, *best, ap)):
            scores[f"{name}_{metric}"] = value
            scores[f"max_{metric}"] = max(scores.get(f"max_{metric}", 0), value)
    return scores


def ranking(run, qrels):
    """run: qid -> {did: score}. The means of trec_eval's measures, rounded as mteb rounds them, and mteb's own mrr."""
    sums = {}
    trec = trec_means(run, qrels) if pytrec_eval else {}
    for qid, scores in run.items():
        judged = qrels[qid]
        ranked = sorted(scores, key=lambda did: (scores[did], did.encode()), reverse=True)
        gains = [judged.get(did, 0) for did in ranked]
        ideal = sorted((g for g in judged.values() if g > 0), reverse=True)
        relevant = len([g for g in judged.values() if g >= 1])
        for k in CUTOFFS:
            hits = [i for i, g in enumerate(gains[:k]) if g >= 1]
            dcg = sum(g / math.log2(i + 2) for i, g in enumerate(gains[:k]) if g > 0)
            best = sum(g / math.log2(i + 2) for i, g in enumerate(ideal[:k]))
            values = {
                "ndcg": dcg / best if best else 0,
                "map": sum((j + 1) / (i + 1) for j, i in enumerate(hits)) / relevant if relevant else 0,
                "recall": len(hits) / relevant if relevant else 0,
                "precision": len(hits) / k,
                "hit_rate": float(bool(hits)),
                "mrr": 1 / (hits[0] + 1) if hits else 0,
            }
            for name, value in values.items():
                sums[f"{name}_at_{k}"] = sums.get(f"{name}_at_{k}", 0) + value
    return {**{name: total / len(run) if name.startswith("mrr") else round(total / len(run), 5) for name, total in sums.items()}, **trec}


def trec_means(run, qrels):
    measures = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P", "hit_rate": "success"}
    wanted = {f"{name}.{','.join(map(str, CUTOFFS))}" for name in measures.values()}
    scores = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    return {f"{ours}_at_{k}": round(sum(s[f"{theirs}_{k}"] for s in scores.values()) / len(scores), 5) for ours, theirs in measures.items() for k in CUTOFFS}


def top(scores, ids, size=1000):
    """mteb's heap: of equal scores the larger ids stay."""
    return {did: score for score, did in heapq.nlargest(size, zip(scores.tolist(), ids))}


def retrieval(task, vectors, queries_of):
    corpus, queries = rows(task / "corpus.jsonl"), rows(task / "queries.jsonl")
    qrels = {}
    for r in rows(task / "qrels.jsonl"):
        qrels.setdefault(str(r["qid"]), {})[str(r["did"])] = r["score"]
    ids = [str(r["id"]) for r in corpus]
    documents = normalized(vectors([f"{r.get('title') or ''} {r['text']}".strip() for r in corpus]))
    scores = normalized(queries_of([r["text"] for r in queries])) @ documents.T
    return ranking({str(q["id"]): top(scores[i], ids) for i, q in enumerate(queries)}, qrels)


def reranking(task, vectors, queries_of):
    kept = [r for r in rows(task.with_suffix(".jsonl")) if r["positive"] and r["negative"]]
    run, qrels, precisions = {}, {}, []
    for i, r in enumerate(kept):
        texts = r["positive"] + r["negative"]
        scores = normalized(vectors(texts)) @ normalized(queries_of([r["query"]]))[0]
        ids = [f"apositive_{i}_{j:05d}" for j in range(len(r["positive"]))] + [f"negative_{i}_{j:05d}" for j in range(len(r["negative"]))]
        run[str(i)], qrels[str(i)] = top(scores, ids), {did: 1 for did in ids[: len(r["positive"])]}
        precisions.append(average_precision_score([did.startswith("a") for did in ids], scores))
    return {**ranking(run, qrels), "map": float(np.mean(precisions))}


def classification(task, vectors):
    test = rows(task.with_suffix(".test.jsonl"))
    beside = task.with_suffix(".jsonl")
    train = rows(beside if beside.exists() else task.parents[2] / "train/classification" / beside.name)
    y, truth = [str(r["label"]) for r in train], [str(r["label"]) for r in test]
    x_test, order, experiments = vectors([r["text"] for r in test]), list(range(len(train))), []
    for _ in range(10):
        np.random.RandomState(42).shuffle(order)
        taken, chosen = {}, []
        for i in order:
            if taken.get(y[i], 0) < 32:
                taken[y[i]] = taken.get(y[i], 0) + 1
                chosen.append(i)
        model = LogisticRegression(max_iter=100, random_state=42).fit(vectors([train[i]["text"] for i in chosen]), [y[i] for i in chosen])
        p = model.predict(x_test)
        experiments.append({
            "accuracy": accuracy_score(truth, p),
            **{f"{n}{s}": f(truth, p, average=a, **({} if n == "f1" else {"zero_division": 0}))
               for n, f in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)) for s, a in (("", "macro"), ("_weighted", "weighted"))},
        })
    return {name: float(np.mean([e[name] for e in experiments])) for name in experiments[0]}


def clustering(task, vectors):
    data = rows(task.with_suffix(".jsonl"))
    labels = [str(r["label"]) for r in data]
    model = MiniBatchKMeans(n_clusters=len(set(labels)), batch_size=500, n_init="auto", random_state=42)
    return {"v_measure": v_measure_score(labels, model.fit(vectors([r["text"] for r in data])).labels_)}


FOLDERS = {"sts": "sts", "retrieval": "retrieval", "reranking": "reranking", "classification": "classification", "clustering": "clustering", "pairClassification": "pairclass"}
TYPES = {"sts": sts, "retrieval": retrieval, "reranking": reranking, "classification": classification, "clustering": clustering, "pairClassification": pair_classification}


def expectation(against):
    """A function (kind, path, plain vectors, query vectors) -> scores, and what it stands on."""
    packages = f"scikit-learn {sklearn.__version__}, scipy {scipy.__version__}, numpy {np.__version__}"
    if against == "mteb":
        import cmteb_mteb

        return lambda *of: cmteb_mteb.scores(*of, rows), f"{cmteb_mteb.VERSION}, {packages}"
    trec = "pytrec_eval" if pytrec_eval else "trec_eval's formulas"
    return lambda kind, path, plain, queries: TYPES[kind](path, plain, *([queries] if queries else [])), f"{packages}, {trec}"


def distance(ours, theirs):
    """Of two scores; NaN, which is null in our files, equals NaN alone."""
    if ours is None or math.isnan(theirs):
        return 0.0 if ours is None and math.isnan(theirs) else math.inf
    return abs(ours - theirs)


def main():
    parser = argparse.ArgumentParser()
    for name in ("data", "out", "cache"):
        parser.add_argument(name)
    parser.add_argument("--against", choices=["packages", "mteb"], default="packages")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--types", default=",".join(FOLDERS))
    options = parser.parse_args()
    summary = json.loads((Path(options.out) / "summary.json").read_text())
    plain, table = Vectors(options.cache, ""), []
    scores_of, packages = expectation(options.against)
    print(f"{packages}\n{'task':34}{'metrics':>8}  {'main metric':18}{'bge':>10}{'Python':>10}{'difference':>12}{'largest':>10}")
    for result in summary["tasks"]:
        kind = result["type"]
        if "error" in result or kind not in options.types.split(","):
            continue
        queries = Vectors(options.cache, result["instruction"]) if kind in ("retrieval", "reranking") else None
        expected = scores_of(kind, Path(options.data) / FOLDERS[kind] / result["task_name"], plain, queries)
        differences = {name: distance(result["scores"][name], value) for name, value in expected.items() if name in result["scores"]}
        name = max(differences, key=differences.get)
        main_metric = result["main_metric"]
        row = dict(
            task=f"{kind}/{result['task_name']}", metrics=len(differences), mainMetric=main_metric, bge=result["main_score"], python=expected[main_metric],
            difference=differences[main_metric], largest=differences[name], largestOf=name, above1e5=sorted(m for m, d in differences.items() if d > 1e-5),
            onlyPython=sorted(set(expected) - set(differences)), sklearn=result["sklearn"])
        table.append(row)
        print(f"{row['task']:34}{row['metrics']:>8}  {main_metric:18}{row['bge']:>10.6f}{row['python']:>10.6f}{row['difference']:>12.1e}{row['largest']:>10.1e} {name}")
    worst = max(table, key=lambda row: row["largest"])
    print(f"largest difference of any metric: {worst['largest']:.1e}, {worst['largestOf']} of {worst['task']}")
    print(f"largest difference of a main metric: {max(row['difference'] for row in table):.1e}")
    if options.json:
        file = json.loads(options.json.read_text()) if options.json.exists() else {}
        key = f"{options.against}: {packages}; --sklearn-compat {table[0]['sklearn']}"
        file[key] = list({**{row["task"]: row for row in file.get(key, [])}, **{row["task"]: row for row in table}}.values())
        options.json.write_text(json.dumps(file, indent=1) + "\n")


if __name__ == "__main__":
    main()
