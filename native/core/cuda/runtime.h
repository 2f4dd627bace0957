// The CUDA runtime, or what stands for it where there is no GPU. Every .cu file includes this, kernel.h and cuda.h and nothing else of
// CUDA.
#pragma once
#if defined(BGE_CUDA_EMULATED)
#include "emulator.h"
#elif defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#error "a .cu file is compiled by nvcc, or by g++ with -x c++ -DBGE_CUDA_EMULATED"
#endif
