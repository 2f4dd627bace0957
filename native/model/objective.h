// Contrastive objectives over whole batches (C-Pack eq. 2; recipe.md 3.2). The (B, M) score matrix never exists: row blocks stream through
// the workspace, forward and gradient in one pass (6 B M D flops).
#pragma once
#include <limits>
#include <vector>

#include "../core/backend.h"

namespace bge {

struct ObjectiveOptions {
  float temperature = 0.02f;
  int32_t groupSize = 1;
  bool ownGroupOnly = false;
  // Both directions: the InfoNCE term is the mean of query to passage, over all M passages, and of passage to query, in which each of the B
  // positives looks for its own query among the B queries. Hard negatives are candidates of the first direction alone.
  bool symmetric = false;
  float infoNceWeight = 1, klWeight = 0, m3Weight = 0;
  std::vector<int32_t> matryoshka;       // widths; empty: the full width only. Each: truncate, normalise, loss; averaged
  std::vector<float> teacher;            // (B, G) softmaxed, or empty
  std::vector<int32_t> passageIds, queryIds, positiveOffsets, positiveIds;  // see Contrastive; empty: not used
  // See Contrastive. From passage to query a query is removed where it is known to belong to the passage (the same rules, the same pairs),
  // where its source is another, and where it beats the passage's own query by more than the margin.
  std::vector<int32_t> sourceIds;
  float falseNegativeMargin = std::numeric_limits<float>::infinity();
  bool falseNegativesInGroup = false;
};

// dQ (B, D), dP (M, D) overwritten (data null: loss only). q, p: L2-normalised rows. Counts are those of query to passage.
ContrastiveResult contrastiveObjective(Backend& backend, Matrix dQ, Matrix dP, Matrix q, Matrix p, const ObjectiveOptions& options);

}  // namespace bge
