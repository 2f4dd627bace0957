"""Are the vectors of `bge embed` those of sentence-transformers on the same folder? Prints the largest difference and the smallest cosine.

bge embed --model DIR --input texts.jsonl --out vectors.npy
python scripts/compare-sentence-transformers.py --model DIR --input texts.jsonl --vectors vectors.npy [--instruction TEXT] [--json FILE]

--input: as bge embed reads it. Ends with status 1 when a value differs by more than --limit.
Needs sentence-transformers (5 or 6) and numpy.
"""
import argparse
import json
import sys

import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--input", required=True)
parser.add_argument("--vectors", required=True)
parser.add_argument("--instruction", default="", help="put before every text; 'zh' as in bge embed")
parser.add_argument("--limit", type=float, default=2e-6, help="largest absolute difference allowed; default 2e-6")
parser.add_argument("--json", help="also write the figures to this file")
args = parser.parse_args()

INSTRUCTIONS = {"zh": "为这个句子生成表示以用于检索相关文章：", "en": "Represent this sentence for searching relevant passages: "}
with open(args.input, encoding="utf-8") as f:
    lines = f.read().replace("\r\n", "\n").removesuffix("\n").split("\n")
if args.input.endswith(".jsonl"):
    rows = [json.loads(line) for line in lines if line.strip()]
    texts = [row if isinstance(row, str) else row["text"] for row in rows]
else:
    texts = lines
ours = np.load(args.vectors)
if ours.shape[0] != len(texts):
    sys.exit(f"{args.vectors} must hold {len(texts)} vectors, one per text of {args.input}, but holds {ours.shape[0]}")

import sentence_transformers  # noqa: E402  (slow: after the arguments have been checked)
import torch  # noqa: E402

model = sentence_transformers.SentenceTransformer(args.model, device="cpu")
theirs = model.encode(texts, prompt=INSTRUCTIONS.get(args.instruction, args.instruction), batch_size=32, convert_to_numpy=True)
if theirs.shape != ours.shape:
    sys.exit(f"sentence-transformers gave vectors of shape {theirs.shape}, but {args.vectors} holds {ours.shape}")
a, b = ours.astype(np.float64), theirs.astype(np.float64)
cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
difference = np.abs(a - b)
figures = dict(
    texts=len(texts), dims=int(ours.shape[1]), largestDifference=float(difference.max()), meanDifference=float(difference.mean()),
    smallestCosine=float(cosine.min()), sentenceTransformers=sentence_transformers.__version__, torch=torch.__version__)
print(json.dumps(figures, indent=2))
if args.json:
    with open(args.json, "w") as f:
        f.write(json.dumps(figures, indent=2) + "\n")
worst = int(difference.max(1).argmax())
if not difference.max() <= args.limit:
    sys.exit(f"the vectors differ by up to {difference.max():.3g}, more than {args.limit:g}; text {worst} is {texts[worst][:60]!r}")
