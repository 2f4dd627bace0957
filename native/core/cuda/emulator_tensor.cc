// The tensor cores of the emulated device: mma, ldmatrix and wgmma, fragments as the PTX ISA lays them out. See emulator.h.
#include "runtime.h"

#include <deque>
#include <vector>

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

// -- wgmma -------------------------------------------------------------------------------------------------------------------------------

namespace {

struct Operation {  // of one thread
  float (*d)[4];
  float start[8][4], product[8][4];
  bool follows;  // starts from the result of an earlier one in flight
  uint64_t descriptorA, descriptorB;
  bool registersA, transposedB;
  uint64_t operands;  // hash of what was read from shared memory
};
struct Warpgroup {  // what one thread has under way
  bool fenced = false;
  int count = 0;
  std::deque<Operation> operations;  // in flight, oldest first
  std::deque<size_t> groups;
  size_t open = 0;
  std::vector<uint32_t> unfenced;  // its copies since the last fence.proxy.async
};
std::vector<Warpgroup> warpgroups;
std::vector<unsigned char> unfenced(kSharedMost / 16 + 1);  // by 16 bytes of dynamic shared memory: written, and not fenced

int threadNumber() {
  const uint3& i = self->index;
  return static_cast<int>(i.x + grid.blockSize.x * (i.y + grid.blockSize.y * i.z));
}
Warpgroup& mine() { return warpgroups[static_cast<size_t>(threadNumber())]; }

// Element (mn, k) of a matrix of 16-bit values under the 128-byte swizzle. Units of 8 rows of 128 bytes, 1024 bytes, whose 16-byte chunks
// are permuted by the address itself: bits 4 .. 6 ^= bits 7 .. 9. K-major: a row of a unit is one mn, units of the next 8 mn are `stride`
// apart. MN-major: a row of a unit is 64 mn of one k, the next 64 mn are `leading` apart, the next 8 k `stride`.
uint16_t element(uint64_t descriptor, bool majorMn, int mn, int k) {
  const auto field = [descriptor](int bit) { return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4; };
  const uint32_t start = field(0), leading = field(16), stride = field(32);
  const auto m = static_cast<uint32_t>(mn), n = static_cast<uint32_t>(k);
  const uint32_t linear = majorMn ? start + m % 64 * 2 + m / 64 * leading + n % 8 * 128 + n / 8 * stride
                                  : start + n * 2 + m % 8 * 128 + m / 8 * stride;
  const uint32_t offset = (linear ^ (linear >> 3 & 0x70)) - kSharedStart;
  const auto* p = static_cast<const unsigned char*>(dynamicShared()) + static_cast<int32_t>(offset);
  checkShared(p, 2, 2, "wgmma");
  if (unfenced[offset / 16]) fail("wgmma reads shared memory that cp.async wrote without a fence.proxy.async behind its wait");
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}
void checkDescriptor(uint64_t descriptor) {
  if (descriptor >> 62 != 1) fail("wgmma: the emulator knows descriptors of the 128-byte swizzle only");
  if (descriptor >> 49 & 7) fail("wgmma: the emulator knows descriptors without a base offset only");
  if (descriptor << 4 & 0x380) fail("wgmma: a tile of the 128-byte swizzle must start at a multiple of 1024 bytes");
}

struct Operands {
  uint16_t a[16][16], b[16][64];
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  void read(const Operation& o) {
    const auto next = [this](uint16_t v) {
      hash = (hash ^ v) * 1099511628211u;
      return v;
    };
    const int warp = threadNumber() / kWarp % 4;
    for (int row = 0; row < 16 && !o.registersA; ++row) {
      for (int k = 0; k < 16; ++k) a[row][k] = next(element(o.descriptorA, false, warp * 16 + row, k));
    }
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 64; ++n) b[k][n] = next(element(o.descriptorB, o.transposedB, n, k));
    }
  }
};
struct WgmmaIn {
  const uint32_t* a;
  const Operation* operation;
};

void performWgmma(const Lanes& lanes) {
  const Operation& first = *static_cast<const WgmmaIn*>(lanes.in[0])->operation;
  Operands operands;
  operands.read(first);
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& in = *static_cast<const WgmmaIn*>(lanes.in[lane]);
    if (in.operation->descriptorA != first.descriptorA || in.operation->descriptorB != first.descriptorB)
      fail("wgmma: the lanes of a warp gave different descriptors");
    if (!in.a) continue;
    for (int i = 0; i < 8; ++i) {  // as a_i of mma.m16n8k16
      const int row = (lane >> 2) + (i < 2 || (i >= 4 && i < 6) ? 0 : 8), column = (lane & 3) * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      operands.a[row][column] = static_cast<uint16_t>(in.a[i / 2] >> (i % 2 * 16));
    }
  }
  float b[16][64], product[16][64] = {};
  for (int k = 0; k < 16; ++k) {
    for (int n = 0; n < 64; ++n) b[k][n] = fromBf16(operands.b[k][n]);
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      const float a = fromBf16(operands.a[row][k]);
      for (int n = 0; n < 64; ++n) product[row][n] += a * b[k][n];
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {  // d_i: column = 8 (i / 4) + 2 (lane % 4) + i % 2; row = lane / 4, + 8 where i % 4 >= 2
    auto& out = *static_cast<Operation*>(lanes.out[lane]);
    for (int i = 0; i < 32; ++i) {
      out.product[i / 4][i % 4] = product[(lane >> 2) + (i % 4 < 2 ? 0 : 8)][i / 4 * 8 + (lane & 3) * 2 + i % 2];
    }
    out.operands = operands.hash;
  }
}

void finish(Warpgroup& w) {  // the oldest operation
  const Operation o = w.operations.front();
  w.operations.pop_front();
  if (!poisoned(reinterpret_cast<const unsigned char*>(o.d), sizeof o.start)) fail("wgmma: an accumulator was written before the wait");
  if (self->lane == 0) {
    Operands now;
    now.read(o);
    if (now.hash != o.operands) fail("wgmma: an operand in shared memory changed before the wait");
  }
  float result[8][4];
  for (int i = 0; i < 32; ++i) result[i / 4][i % 4] = o.start[i / 4][i % 4] + o.product[i / 4][i % 4];
  for (Operation& later : w.operations) {
    if (later.d != o.d) continue;
    if (later.follows) std::memcpy(later.start, result, sizeof result);
    return;
  }
  std::memcpy(o.d, result, sizeof result);
}

void together(const char* operation) {
  const int none = 0;
  meet(operation, kFullMask, true, &none, nullptr, [](const Lanes&) {});
}

}  // namespace

uint32_t sharedAddress(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - static_cast<const unsigned char*>(dynamicShared())) + kSharedStart;
}

void startWgmma(int threads) {
  warpgroups.assign(static_cast<size_t>(threads), {});
  std::fill(unfenced.begin(), unfenced.end(), 0);
}
std::string wgmmaProblem() {
  for (size_t i = 0; i < warpgroups.size(); ++i) {
    if (!warpgroups[i].operations.empty()) return "a thread has exited while its wgmma is in flight";
    if (warpgroups[i].count != warpgroups[i / 128 * 128].count)
      return "divergence: the warps of a warpgroup have run different numbers of wgmma";
    if (warpgroups[i].count > 0 && warpgroups.size() % 128 != 0) return "wgmma needs whole warpgroups of 128 threads";
  }
  return {};
}

void landed(const void* shared) {
  const auto offset = static_cast<const unsigned char*>(shared) - static_cast<const unsigned char*>(dynamicShared());
  if (offset < 0 || offset >= static_cast<std::ptrdiff_t>(kSharedMost)) return;  // static shared memory
  const auto at = static_cast<uint32_t>(offset / 16);
  unfenced[at] = 1;
  mine().unfenced.push_back(at);
}
void fenceAsyncProxy() {
  for (uint32_t at : mine().unfenced) unfenced[at] = 0;
  mine().unfenced.clear();
}

void wgmmaFence() {
  together("wgmma.fence");
  mine().fenced = true;
}

void wgmma(float (&d)[8][4], const uint32_t* a, uint64_t descriptorA, uint64_t descriptorB, bool transposedB, bool accumulate) {
  Warpgroup& w = mine();
  if (!w.fenced) fail("wgmma without a wgmma.fence behind the last wait");
  if (!a) checkDescriptor(descriptorA);
  checkDescriptor(descriptorB);
  Operation o{d, {}, {}, false, descriptorA, descriptorB, a != nullptr, transposedB, 0};
  const WgmmaIn in{a, &o};
  meet(a ? "wgmma.mma_async (A in registers)" : "wgmma.mma_async", kFullMask, true, &in, &o, performWgmma);
  bool inFlight = false;
  for (const Operation& earlier : w.operations) inFlight = inFlight || earlier.d == d;
  o.follows = inFlight && accumulate;
  if (!inFlight && accumulate) std::memcpy(o.start, d, sizeof o.start);
  std::memset(d, kPoison, sizeof o.start);
  w.operations.push_back(o);
  ++w.open;
  ++w.count;
}

void wgmmaCommit() {
  together("wgmma.commit_group");
  mine().groups.push_back(std::exchange(mine().open, 0));
}

void wgmmaWait(int pending) {
  together("wgmma.wait_group");
  Warpgroup& w = mine();
  for (; static_cast<int>(w.groups.size()) > pending; w.groups.pop_front()) {
    for (size_t i = 0; i < w.groups.front(); ++i) finish(w);
  }
  w.fenced = false;
}

}  // namespace bge::emulated
