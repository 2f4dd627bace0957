// Contrastive objectives over whole batches (C-Pack eq. 2; recipe.md 3.2). The (B, M) score matrix never exists: row blocks stream through
// the workspace, forward and gradient in one pass (6 B M D flops).
#pragma once
#include <vector>

#include "../core/backend.h"

namespace bge {

struct ObjectiveOptions {
  float temperature = 0.02f;
  int32_t groupSize = 1;
  bool ownGroupOnly = false;
  float infoNceWeight = 1, klWeight = 0, m3Weight = 0;
  std::vector<int32_t> matryoshka;       // widths; empty: the full width only. Each: truncate, normalise, loss; averaged
  std::vector<float> teacher;            // (B, G) softmaxed, or empty
  std::vector<int32_t> passageIds, queryIds, positiveOffsets, positiveIds;  // see Contrastive; empty: not used
};

// dQ (B, D), dP (M, D) overwritten (data null: loss only). q, p: L2-normalised rows.
ContrastiveResult contrastiveObjective(Backend& backend, Matrix dQ, Matrix dP, Matrix q, Matrix p, const ObjectiveOptions& options);

}  // namespace bge
