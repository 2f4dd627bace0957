#pragma once
namespace bge {
struct RowKernels {};
}  // namespace bge
