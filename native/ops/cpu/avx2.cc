// AVX2 and FMA: vectors of eight floats. Compiled with its own flags (binding.gyp); see vector.h for what may be included here.
#define BGE_ISA avx2
#include "vector.h"

#include "matmul.inl"

#include "double_product.inl"

#include "attention.inl"

#include "rows.inl"

namespace bge {

// constexpr: nothing of this file may run before the CPU has been looked at.
constexpr Kernels kernels_avx2 = {
    "avx2", avx2::kTileRows, avx2::kPanel, avx2::kBlockBytes,
    avx2::packPanels, avx2::packTransposedRows, avx2::gemm,
    avx2::kDoublePanel, avx2::doubleProduct,
    avx2::attentionScratch, avx2::attention, avx2::attentionBackward,
    avx2::rowKernels,
};

}  // namespace bge
