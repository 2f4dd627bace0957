// The tensor cores of the emulated device: mma and ldmatrix, fragments as the PTX ISA lays them out. See emulator.h.
#include "runtime.h"

namespace bge::emulated {

namespace {

struct MmaIn {
  const float* d;
  const uint32_t *a, *b;
};

float fromBf16(uint32_t h) { return bgeEmulatedFromBf16(static_cast<uint16_t>(h)); }
float fromF16(uint32_t h) { return bgeEmulatedFromF16(static_cast<uint16_t>(h)); }
float fromTf32(uint32_t v) { return __uint_as_float(v & 0xffffe000u); }  // the hardware reads the upper 19 bits

// d (16, 8) += a (16, K) b (K, 8), summed in the order of k.
template <int K>
void multiply(const Lanes& lanes, const float (&a)[16][K], const float (&b)[K][8]) {
  float d[16][8];
  const auto each = [](auto f) {  // c_i of a lane: row = group (i < 2) or group + 8, column = 2 * inGroup + (i & 1)
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int i = 0; i < 4; ++i) f(lane, i, (lane >> 2) + (i < 2 ? 0 : 8), (lane & 3) * 2 + (i & 1));
    }
  };
  each([&](int lane, int i, int row, int column) { d[row][column] = static_cast<const MmaIn*>(lanes.in[lane])->d[i]; });
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < K; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  each([&](int lane, int i, int row, int column) { static_cast<float*>(lanes.out[lane])[i] = d[row][column]; });
}

template <float (*convert)(uint32_t)>
void performMma16(const Lanes& lanes) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& in = *static_cast<const MmaIn*>(lanes.in[lane]);
    const int group = lane >> 2, inGroup = lane & 3;
    for (int i = 0; i < 8; ++i) {  // a_i: row = group for i in {0, 1, 4, 5}, else group + 8; column = 2 * inGroup + (i & 1), + 8 for i >= 4
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, column = inGroup * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      a[row][column] = convert((in.a[i / 2] >> (i % 2 * 16)) & 0xffffu);
    }
    for (int i = 0; i < 4; ++i) {  // b_i: row = 2 * inGroup + (i & 1), + 8 for i >= 2; column = group
      b[inGroup * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = convert((in.b[i / 2] >> (i % 2 * 16)) & 0xffffu);
    }
  }
  multiply<16>(lanes, a, b);
}

void performMmaTf32(const Lanes& lanes) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& in = *static_cast<const MmaIn*>(lanes.in[lane]);
    const int group = lane >> 2, inGroup = lane & 3;
    for (int i = 0; i < 4; ++i) {  // a_i: row = group for i in {0, 2}, else group + 8; column = inGroup, + 4 for i >= 2
      a[i % 2 == 0 ? group : group + 8][inGroup + (i >= 2 ? 4 : 0)] = fromTf32(in.a[i]);
    }
    for (int i = 0; i < 2; ++i) b[inGroup + i * 4][group] = fromTf32(in.b[i]);  // b_i: row = inGroup + 4 i, column = group
  }
  multiply<8>(lanes, a, b);
}

struct LdmatrixIn {
  const void* row;
  int matrices;
  bool transposed;
};

}  // namespace

void mma16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Operand type) {
  const MmaIn in{d, a, b};
  float out[4];
  if (type == Operand::bf16)
    meet("mma.m16n8k16.bf16", kFullMask, true, &in, out, performMma16<fromBf16>);
  else
    meet("mma.m16n8k16.f16", kFullMask, true, &in, out, performMma16<fromF16>);
  std::memcpy(d, out, sizeof out);
}

void mmaTf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const MmaIn in{d, a, b};
  float out[4];
  meet("mma.m16n8k8.tf32", kFullMask, true, &in, out, performMmaTf32);
  std::memcpy(d, out, sizeof out);
}

// Lane 8 m + i gives the address of row i of 8x8 matrix m (16 bytes). Register m of lane l then holds elements (l / 4, 2 (l % 4)) and
// (l / 4, 2 (l % 4) + 1) of matrix m, low half first; transposed: (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4).
void ldmatrix(uint32_t* r, int matrices, bool transposed, const void* row) {
  if (self->lane < matrices * 8) checkShared(row, 16, 16, "ldmatrix");
  const LdmatrixIn in{row, matrices, transposed};
  const char* name =
      matrices == 4 ? (transposed ? "ldmatrix.x4.trans" : "ldmatrix.x4") : (transposed ? "ldmatrix.x2.trans" : "ldmatrix.x2");
  meet(name, kFullMask, true, &in, r, [](const Lanes& lanes) {
    const auto& first = *static_cast<const LdmatrixIn*>(lanes.in[0]);
    for (int m = 0; m < first.matrices; ++m) {
      uint16_t value[8][8];
      for (int i = 0; i < 8; ++i) std::memcpy(value[i], static_cast<const LdmatrixIn*>(lanes.in[m * 8 + i])->row, 16);
      for (int l = 0; l < kWarp; ++l) {
        const int i = l / 4, j = l % 4 * 2;
        const uint16_t lo = first.transposed ? value[j][i] : value[i][j], hi = first.transposed ? value[j + 1][i] : value[i][j + 1];
        static_cast<uint32_t*>(lanes.out[l])[m] = static_cast<uint32_t>(hi) << 16 | lo;
      }
    }
  });
}

}  // namespace bge::emulated
