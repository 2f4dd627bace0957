// A tensor is a view: it owns nothing and knows no device. Shapes are written (rows, columns) in comments
// with the letters of docs/architecture.md: N sequences, T packed tokens, R selected rows, C hidden width, F feed-forward width,
// V vocabulary, D embedding width, H heads, B queries, M passages, G group size.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace bge {

enum class DType : int32_t { f32, i32, u32, i64, u64, u8, f64, bf16, f16 };

constexpr int64_t sizeOf(DType t) {
  return t == DType::u8 ? 1 : t == DType::bf16 || t == DType::f16 ? 2 : t == DType::f32 || t == DType::i32 || t == DType::u32 ? 4 : 8;
}

// Carries the stable code that becomes Error.code in JavaScript (lib/errors.ts lists them).
struct Error : std::runtime_error {
  std::string code;
  Error(std::string c, const std::string& message) : std::runtime_error(message), code(std::move(c)) {}
};

// A two-dimensional view of floating-point numbers: `rows` rows of `cols` values, consecutive rows `stride` values apart (stride >= cols).
// Vectors are (1, n). Const-ness is by convention: outputs come first in every call, inputs after.
// `type` is f32 on the CPU; on CUDA hidden states and their gradients are bf16 (Backend::activation()).
struct Matrix {
  void* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  DType type = DType::f32;
  Matrix() = default;
  Matrix(float* d, int64_t r, int64_t c) : data(d), rows(r), cols(c), stride(c) {}
  Matrix(float* d, int64_t r, int64_t c, int64_t s) : data(d), rows(r), cols(c), stride(s) {}
  Matrix(void* d, DType t, int64_t r, int64_t c, int64_t s) : data(d), rows(r), cols(c), stride(s), type(t) {}
  template <class T> T* as() const { return static_cast<T*>(data); }
  float* row(int64_t i) const { return as<float>() + i * stride; }  // of an f32 matrix
  Matrix slice(int64_t first, int64_t count) const { return {at(first * stride), type, count, cols, stride}; }  // rows [first, first+count)
  Matrix columns(int64_t first, int64_t count) const { return {at(first), type, rows, count, stride}; }         // columns [first, first+count)

 private:
  void* at(int64_t values) const { return static_cast<char*>(data) + values * sizeOf(type); }
};

}  // namespace bge
