"""PyTorch's losses, heads, training steps of the three stages, optimizer and top-k."""
import math

import torch
import torch.nn.functional as F
from peers_encoder import sentence_transformer
from peers_support import autocast, bert, each_variant, memory_peak, padded, tf32, texts_of, timed
from torch import nn


def pairs_of(batch, width, temperature, device):
    """As pairsOf in infonce.ts."""
    q, u = (F.normalize(torch.randn(batch, width, device=device), dim=-1) for _ in range(2))
    cosine = min(0.95, temperature * (math.log(batch) + 1 / (2 * width * temperature**2)))
    return q, F.normalize(cosine * q + math.sqrt(1 - cosine**2) * u, dim=-1)


def infonce(sizes, device):
    B, t = sizes["batch"], sizes["temperature"]
    q, p = (x.requires_grad_() for x in pairs_of(B, sizes["width"], t, device))
    labels = torch.arange(B, device=device)
    rows = torch.linspace(0, B - 1, min(sizes["sample"], B), device=device).long()
    facts, reference = {}, []

    def naive(bf16):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            logits = q @ p.T / t
            loss = F.cross_entropy(logits, labels)
        loss.backward()
        return loss

    def cached():
        from sentence_transformers.losses import CachedMultipleNegativesRankingLoss
        from sentence_transformers.util import dot_score

        # Rows are normalised already, so its cos_sim is left out; the loss stage alone does not use the model.
        loss = CachedMultipleNegativesRankingLoss(nn.Sequential(nn.Identity()), scale=1 / t, similarity_fct=dot_score, mini_batch_size=sizes["cachedRows"])
        return lambda: loss.calculate_loss([[q], [p]], with_backward=True)

    def exact():
        """Sampled rows of dQ, and of dP where the batch is small, in float64."""
        with torch.no_grad():
            q64, p64 = q.double(), p.double()
            weights = torch.softmax(q64[rows] @ p64.T / t, dim=-1)
            weights[torch.arange(len(rows), device=device), rows] -= 1
            d_q, d_p = weights @ p64 / (t * B), None
            if sizes["columns"]:
                d_p = torch.zeros(len(rows), sizes["width"], dtype=torch.float64, device=device)
                for start in range(0, B, 4096):
                    part = q64[start:start + 4096]
                    scores = part @ p64.T / t
                    w = torch.exp(scores[:, rows] - torch.logsumexp(scores, dim=-1)[:, None])
                    w -= (torch.arange(start, start + len(part), device=device)[:, None] == rows).double()
                    d_p += w.T @ part / (t * B)
            return d_q, d_p

    def error():
        if not reference:
            reference.append(exact())
        return max(
            float((found[rows].double() - want).norm() / want.norm())
            for found, want in zip((q.grad, p.grad), reference[0]) if want is not None)

    def run(name, work, allow_tf32):
        def clear():
            q.grad, p.grad = None, None

        def measure():
            with tf32(allow_tf32):
                clear()
                facts[f"{name} lossBytes"] = memory_peak(device, work)
                clear()
                seconds = timed(sizes, device, work, before=clear)
                facts[f"{name} gradientError"] = error()
                clear()
                return seconds

        return measure

    variants = dict(
        bf16=run("bf16", lambda: naive(True), False), tf32=run("tf32", lambda: naive(False), True), fp32=run("fp32", lambda: naive(False), False))
    chosen = {name: variants[name] for name in sizes["variants"] if name in variants}
    if "cached" in sizes["variants"]:
        chosen["cached"] = run("cached", cached(), True)
    return lambda: each_variant(chosen, facts)


class Head(nn.Module):
    """BERT's MLM head; the vocabulary matrix is the word table."""

    def __init__(self, config, table):
        super().__init__()
        self.dense = nn.Linear(config["hidden"], config["hidden"])
        self.norm = nn.LayerNorm(config["hidden"], 1e-12)
        self.bias = nn.Parameter(torch.zeros(config["vocab"]))
        self.table = table

    def forward(self, hidden, labels):
        logits = F.linear(self.norm(F.gelu(self.dense(hidden))), self.table, self.bias)
        return F.cross_entropy(logits, labels)


def mlm(sizes, device):
    config, rows = sizes["config"], sizes["rows"]
    table = nn.Parameter(0.02 * torch.randn(config["vocab"], config["hidden"], device=device))
    head = Head(config, table).to(device)
    hidden = torch.randn(rows, config["hidden"], device=device).to(torch.bfloat16).requires_grad_()
    labels = torch.randint(0, config["vocab"], (rows,), device=device)
    facts = {}

    def clear():
        hidden.grad = None
        for parameter in head.parameters():
            parameter.grad = None

    def run(name, head):
        def work():
            with autocast(device):
                loss = head(hidden, labels)
            loss.backward()

        clear()
        facts[f"{name} workspaceBytes"] = memory_peak(device, work)
        return timed(sizes, device, work, before=clear)

    compiled = torch.compile(head, dynamic=False)
    return lambda: each_variant(dict(eager=lambda: run("eager", head), compile=lambda: run("compile", compiled)), facts)


class EnhancedDecoder(nn.Module):
    """One layer: queries from [CLS] + position, keys and values from the clean text, a mask of its own for each position."""

    def __init__(self, config, embeddings):
        super().__init__()
        H, drop = config["hidden"], config["hiddenDropout"]
        self.heads, self.embeddings, self.p = config["heads"], embeddings, config["attentionDropout"]
        self.q, self.k, self.v, self.o = (nn.Linear(H, H) for _ in range(4))
        self.up, self.down = nn.Linear(H, config["intermediate"]), nn.Linear(config["intermediate"], H)
        self.norm1, self.norm2, self.drop = nn.LayerNorm(H, 1e-12), nn.LayerNorm(H, 1e-12), nn.Dropout(drop)

    def forward(self, cls, ids, visible):
        n, length = ids.shape
        query = self.embeddings(inputs_embeds=cls[:, None].expand(-1, length, -1))
        context = torch.cat([cls[:, None].to(query.dtype), self.embeddings(input_ids=ids)[:, 1:]], dim=1)

        def split(x):
            return x.view(n, length, self.heads, -1).transpose(1, 2)

        out = F.scaled_dot_product_attention(
            split(self.q(query)), split(self.k(context)), split(self.v(context)), attn_mask=visible[:, None],
            dropout_p=self.p if self.training else 0.0)
        hidden = self.norm1(query + self.drop(self.o(out.transpose(1, 2).reshape(n, length, -1))))
        return self.norm2(hidden + self.drop(self.down(F.gelu(self.up(hidden)))))


def retromae(sizes, device):
    """Stage 1; logits of the encoder's masked tokens only, and of every decoder token but the first and the last."""
    config, n, length = sizes["config"], sizes["texts"], sizes["tokens"]
    encoder = bert(config, device, training=True)
    head = Head(config, encoder.embeddings.word_embeddings.weight).to(device)
    decoder = EnhancedDecoder(config, encoder.embeddings).to(device)
    ids = torch.stack(texts_of([length] * n, config["vocab"])).to(device)
    masked = torch.zeros(n, length, dtype=torch.bool, device=device)
    for row in masked:
        row[1 + torch.randperm(length - 2, device=device)[: max(1, round(length * sizes["maskRatio"]))]] = True
    corrupted = ids.masked_fill(masked, 103)
    visible = torch.rand(n, length, length, device=device) >= sizes["decoderMaskRatio"]
    visible[:, :, 0] = True
    visible[:, torch.arange(1, length), torch.arange(1, length)] = False
    modules = nn.ModuleList([encoder, head, decoder])
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    facts = {}

    def step():
        with autocast(device):
            hidden = encoder(input_ids=corrupted).last_hidden_state
            encoder_loss = head(hidden[masked], ids[masked])
            decoded = decoder(hidden[:, 0], ids, visible)[:, 1:-1].reshape(-1, config["hidden"])
            decoder_loss = head(decoded, ids[:, 1:-1].reshape(-1))
        (encoder_loss + decoder_loss).backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        facts["losses"] = [encoder_loss.detach(), decoder_loss.detach()]

    def eager():
        seconds = timed(sizes, device, step)
        facts["losses"] = [float(x) for x in facts["losses"]]
        return seconds

    return lambda: each_variant(dict(eager=eager), facts)


def gradcache(sizes, device):
    """sentence-transformers' CachedMultipleNegativesRankingLoss under bf16 autocast, clipping, fused AdamW."""
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss

    config, pairs = sizes["config"], sizes["pairs"]
    model = sentence_transformer(config, device, training=True).train()
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / sizes["temperature"], mini_batch_size=sizes["cachedTexts"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids, mask = (x.to(device) for x in padded(texts_of([sizes["tokens"]] * (2 * pairs), config["vocab"])))
    facts = {}

    def step(count):
        parts = [slice(0, count), slice(pairs, pairs + count)]
        with autocast(device):
            value = loss([dict(input_ids=ids[part], attention_mask=mask[part]) for part in parts], None)
            value.backward()  # the second forward pass is in there
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        facts["loss"] = float(value)

    def run():
        step(min(pairs, 2 * sizes["cachedTexts"]))
        return timed(sizes, device, lambda: step(pairs))

    return lambda: each_variant({"sentence-transformers cached": run}, facts)


def finetune(sizes, device):
    """Stage 3: queries, and groups of a positive and hard negatives, each padded to its own length, scores of all with all in fp32."""
    config, n, group = sizes["config"], sizes["queries"], sizes["groupSize"]
    model = bert(config, device, training=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    queries, passages = (
        torch.stack(texts_of([length] * count, config["vocab"])).to(device)
        for length, count in ((sizes["queryTokens"], n), (sizes["passageTokens"], n * group)))
    labels = group * torch.arange(n, device=device)
    facts = {}

    def step():
        with autocast(device):
            q, p = (model(input_ids=ids).last_hidden_state[:, 0] for ids in (queries, passages))
        q, p = (F.normalize(x.float(), dim=-1) for x in (q, p))
        loss = F.cross_entropy(q @ p.T / sizes["temperature"], labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        facts["loss"] = loss.detach()

    def eager():
        seconds = timed(sizes, device, step)
        facts["loss"] = float(facts["loss"])
        return seconds

    return lambda: each_variant(dict(eager=eager), facts)


def adamw(sizes, device):
    model = bert(sizes["config"], device, training=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    gradients = [1e-2 * torch.randn_like(parameter) for parameter in model.parameters()]

    def before():
        for parameter, gradient in zip(model.parameters(), gradients):
            parameter.grad = gradient

    def step():
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return lambda: each_variant({"fused + clip": lambda: timed(sizes, device, step, before=before)})


def topk(sizes, device):
    """The product of a block of queries with everything, then torch.topk; indices and scores on the host."""
    q, p = torch.randn(sizes["queries"], sizes["width"], device=device), torch.randn(sizes["passages"], sizes["width"], device=device)

    def search():
        for start in range(0, len(q), sizes["peerRows"]):
            scores, indices = torch.topk(q[start:start + sizes["peerRows"]] @ p.T, sizes["k"], dim=-1)
            scores.cpu(), indices.cpu()

    def run(allow_tf32):
        with tf32(allow_tf32), torch.inference_mode():
            return timed(sizes, device, search)

    return lambda: each_variant(dict(fp32=lambda: run(False), tf32=lambda: run(True)))
