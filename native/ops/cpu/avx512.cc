// AVX-512 F, BW, DQ, VL: vectors of sixteen floats. Compiled with its own flags (binding.gyp); see vector.h for what may be included here.
#define BGE_ISA avx512
#include "vector.h"

#include "matmul.inl"

#include "double_product.inl"

#include "attention.inl"

#include "rows.inl"

namespace bge {

// constexpr: nothing of this file may run before the CPU has been looked at.
constexpr Kernels kernels_avx512 = {
    "avx512", avx512::kTileRows, avx512::kPanel, avx512::kBlockBytes,
    avx512::packPanels, avx512::packTransposedRows, avx512::gemm,
    avx512::kDoublePanel, avx512::doubleProduct,
    avx512::attentionScratch, avx512::attention, avx512::attentionBackward,
    avx512::rowKernels,
};

}  // namespace bge
