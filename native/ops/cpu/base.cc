// Any CPU: vectors of four floats (SSE2, NEON). Compiled with its own flags (binding.gyp); see vector.h for what may be included here.
#define BGE_ISA base
#include "vector.h"

#include "matmul.inl"

#include "double_product.inl"

#include "attention.inl"

#include "rows.inl"

namespace bge {

// constexpr: nothing of this file may run before the CPU has been looked at.
constexpr Kernels kernels_base = {
    "base", base::kTileRows, base::kPanel, base::kBlockBytes,
    base::packPanels, base::packTransposedRows, base::gemm,
    base::kDoublePanel, base::doubleProduct,
    base::attentionScratch, base::attention, base::attentionBackward,
    base::rowKernels,
};

}  // namespace bge
