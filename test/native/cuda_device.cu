// The CUDA device without Node: copies, memory, repeated sequences, products by our own kernels or by what BGE_CUBLASLT names (the tests:
// cublaslt_stand_in.cc). Exit code 1 when a check fails.
#include <cmath>

#include "check.h"
#include "core/cuda/cuda.h"

namespace bge {

namespace {

using Bytes = std::vector<unsigned char>;

void copies(CudaBackend& b) {
  const size_t mib = size_t{1} << 20;
  for (const size_t n :
       {size_t{1}, size_t{63}, size_t{64}, mib, 4 * mib - 1, 4 * mib, 4 * mib + 1, 13 * mib + 5}) {  // about the pinned halves
    Bytes host(n), back(n);
    for (size_t i = 0; i < n; ++i) host[i] = static_cast<unsigned char>(i * 7 + i / 251);
    void *p = b.allocate(n), *q = b.allocate(n);
    b.upload(p, host.data(), n);
    b.zero(q, n);
    b.copy(q, p, n);
    b.download(back.data(), q, n);
    EXPECT(back == host, std::to_string(n));
    if (n <= mib) {  // many without a wait in between
      for (unsigned char k = 0; k < 20; ++k) {
        b.upload(p, host.data(), n);
        b.copy(q, p, n);
        b.upload(p, Bytes(n, k).data(), n);
      }
      b.download(back.data(), q, n);
      EXPECT(back == host, std::to_string(n));
      b.download(back.data(), p, n);
      EXPECT(back == Bytes(n, 19), std::to_string(n));
    }
    b.release(p);
    b.release(q);
  }
  EXPECT(b.bytesAllocated() == 0);
  const std::string error = test::errorOf([&] { b.allocate(size_t{1} << 50); });
  EXPECT(test::has(error, "ERR_BGE_OOM: device cuda:0 has no room for 1125899906842624 more bytes"), error);
  void* p = b.allocate(100);
  EXPECT(b.bytesAllocated() >= 100 && b.bytesAllocated() <= 1024);
  b.release(p);
}

void sequences(CudaBackend& b) {
  auto* x = static_cast<float*>(b.allocate(400));
  const std::vector<float> ones(100, 1.0f);
  const Matrix m(x, 1, 100);
  int issued = 0;
  const auto issue = [&] {
    ++issued;
    b.add(m, m, 0.5f);
  };
  const auto first = [&] {
    float v = 0;
    b.download(&v, x, sizeof v);
    return v;
  };
  b.upload(x, ones.data(), 400);
  for (int i = 0; i < 5; ++i) b.repeat(42, issue);
  EXPECT(first() == 7.59375f);  // 1.5^5
  EXPECT(issued == 2);          // once to warm up, once to record
  for (int i = 0; i < 3; ++i) b.repeat(0, issue);
  EXPECT(issued == 5);
  const std::string error = test::errorOf([&] {
    for (int i = 0; i < 2; ++i) b.repeat(43, [&] { b.synchronize(); });
  });
  EXPECT(test::has(error, "ERR_BGE_INTERNAL: the device is waited for inside of a sequence"), error);
  b.upload(x, ones.data(), 400);
  for (uint64_t key = 100; key < 300; ++key) b.repeat(key, [&] { b.add(m, m, 0); });  // more than are kept
  issued = 0;
  b.repeat(42, issue);
  EXPECT(issued == 1 && first() == 1.5f);  // forgotten, so issued again
  b.release(x);
}

// linear and its backward in the shapes of a layer, odd row count, against plain sums of the bf16 operands.
void products(CudaBackend& b) {
  const int64_t R = 37, I = 24, O = 40;
  const auto random = [](int64_t n) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = toFloat(fromFloat<bf16>(test::anyNumber(1)));
    return v;
  };
  const auto upload = [&](const std::vector<float>& v) {
    auto* p = static_cast<float*>(b.allocate(v.size() * sizeof(float)));
    b.upload(p, v.data(), v.size() * sizeof(float));
    return p;
  };
  const auto read = [&](const float* p, int64_t n) {
    std::vector<float> v(static_cast<size_t>(n));
    b.download(v.data(), p, v.size() * sizeof(float));
    return v;
  };
  std::vector<float> hostX = random(R * I), hostW = random(O * I), hostBias = random(O), hostD = random(R * O);
  float *x = upload(hostX), *w = upload(hostW), *bias = upload(hostBias), *d = upload(hostD), *out = upload(random(R * O));
  auto* out16 = static_cast<bf16*>(b.allocate(static_cast<size_t>(R * O) * sizeof(bf16)));
  const auto worst = [](const std::vector<float>& got, int64_t rows, int64_t cols, const std::function<double(int64_t, int64_t)>& exact) {
    double most = 0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c)
        most = std::max(most, std::fabs(static_cast<double>(got[static_cast<size_t>(r * cols + c)]) - exact(r, c)));
    }
    return most;
  };
  const auto at = [](const std::vector<float>& v, int64_t i) { return static_cast<double>(v[static_cast<size_t>(i)]); };
  const auto linear = [&](int64_t r, int64_t o) {
    double sum = at(hostBias, o);
    for (int64_t i = 0; i < I; ++i) sum += at(hostX, r * I + i) * at(hostW, o * I + i);
    return sum;
  };
  const auto gelu = [&](int64_t r, int64_t o) { return 0.5 * linear(r, o) * (1 + std::erf(linear(r, o) / std::sqrt(2.0))); };
  for (int round = 0; round < 2; ++round) {  // the second from the cache of plans and weights
    b.linear({out, R, O}, {x, R, I}, {w, O, I, 5}, bias, Activation::none, nullptr);
    EXPECT(worst(read(out, R * O), R, O, linear) < 1e-4);
    b.linear({out, R, O}, {x, R, I}, {w, O, I, 5}, bias, Activation::gelu, nullptr);
    EXPECT(worst(read(out, R * O), R, O, gelu) < 1e-4);
    b.linear({out16, DType::bf16, R, O, O}, {x, R, I}, {w, O, I, 5}, bias, Activation::none, nullptr);
    b.convert({out, R, O}, {out16, DType::bf16, R, O, O});
    EXPECT(worst(read(out, R * O), R, O, linear) < 0.04);  // half a unit of bf16 below 16 is 2^-5
    float *dX = upload(std::vector<float>(static_cast<size_t>(R * I), 0.25f)),
          *dW = upload(std::vector<float>(static_cast<size_t>(O * I), 0.5f));
    b.linearBackwardInput({dX, R, I}, {d, R, O}, {w, O, I, 5}, true, nullptr);
    b.linearBackwardWeight(dW, nullptr, {d, R, O}, {x, R, I});
    EXPECT(worst(read(dX, R * I), R, I, [&](int64_t r, int64_t i) {
             double sum = 0.25;
             for (int64_t o = 0; o < O; ++o) sum += at(hostD, r * O + o) * at(hostW, o * I + i);
             return sum;
           }) < 1e-4);
    EXPECT(worst(read(dW, O * I), O, I, [&](int64_t o, int64_t i) {
             double sum = 0.5;
             for (int64_t r = 0; r < R; ++r) sum += at(hostD, r * O + o) * at(hostX, r * I + i);
             return sum;
           }) < 1e-4);
    b.release(dX);
    b.release(dW);
  }
  // The copy of a weight follows its version, not its values; a part of a weight shares the copy of the whole.
  for (float& v : hostW) v = -v;
  b.upload(w, hostW.data(), hostW.size() * sizeof(float));
  b.linear({out, R, O}, {x, R, I}, {w, O, I, 5}, nullptr, Activation::none, nullptr);
  const auto old = read(out, R * O);
  b.linear({out, R, O}, {x, R, I}, {w, O, I, 6}, nullptr, Activation::none, nullptr);
  auto now = read(out, R * O);
  for (float& v : now) v = -v;
  EXPECT(old == now);
  b.linear({out, R, 8}, {x, R, I}, {w, 8, I, 6}, nullptr, Activation::none, nullptr);
  EXPECT(read(out, R * 8)[0] == -old[0]);
  for (void* p : {static_cast<void*>(x), static_cast<void*>(w), static_cast<void*>(bias), static_cast<void*>(d), static_cast<void*>(out),
                  static_cast<void*>(out16)}) {
    b.release(p);
  }
  EXPECT(b.bytesAllocated() == b.workspace().capacity());  // copies went with their weights
}

}  // namespace

void test::device() {
  CudaBackend b(0);
  copies(b);
  sequences(b);
  products(b);
}

}  // namespace bge

int main() {
  try {
    bge::test::words();
    bge::test::device();
  } catch (const std::exception& e) {
    bge::test::expect(false, __FILE__, __LINE__, e.what());
  }
  std::printf("%d checks, %d failed\n", bge::test::count().checks, bge::test::count().failed);
  return bge::test::count().failed > 0;
}
