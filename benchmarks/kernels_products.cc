// Linear layers and attention: what is measured in GFLOP/s.
#include "kernels.h"

namespace bge::bench {

namespace {

template <class Real> Real cdf(Real x) { return Real(0.5) * (1 + std::erf(x * static_cast<Real>(0.70710678118654752440))); }
template <class Real> Real geluGradient(Real x) {
  return cdf(x) + x * (std::exp(Real(-0.5) * (x * x)) * static_cast<Real>(0.39894228040143267794));
}

string shape(int64_t rows, int64_t in, int64_t out) { return to_string(rows) + " x " + to_string(in) + " -> " + to_string(out); }

// One head of one sequence in plain loops; q, k, v, dOut point at its first value, rows are `stride` apart, every result is (L, d).
template <class Real>
struct Head {
  vector<Real> out, dQ, dK, dV;
  Head(const float* q, const float* k, const float* v, const float* dOut, int64_t stride, int64_t L, int64_t d)
      : out(L * d), dQ(L * d), dK(L * d), dV(L * d) {
    const Real scale = 1 / std::sqrt(static_cast<Real>(d));
    vector<Real> s(L), p(L), dP(L);
    for (int64_t i = 0; i < L; ++i) {
      for (int64_t j = 0; j < L; ++j) s[j] = scale * dot<Real>(q + i * stride, 1, k + j * stride, 1, d);
      const Real high = *std::max_element(s.begin(), s.end());
      Real sum = 0, mean = 0;
      for (int64_t j = 0; j < L; ++j) sum += std::exp(s[j] - high);
      const Real lse = high + std::log(sum);  // what the contract keeps: its rounding is the plain backward's own error
      for (int64_t j = 0; j < L; ++j) {
        for (int64_t e = 0; e < d; ++e) out[i * d + e] += std::exp(s[j] - high) / sum * v[j * stride + e];
        p[j] = std::exp(s[j] - lse);
        mean += p[j] * (dP[j] = dot<Real>(dOut + i * stride, 1, v + j * stride, 1, d));
      }
      for (int64_t j = 0; j < L; ++j) {
        const Real dS = scale * (p[j] * (dP[j] - mean));
        for (int64_t e = 0; e < d; ++e) {
          dV[j * d + e] += p[j] * dOut[i * stride + e];
          dQ[i * d + e] += dS * k[j * stride + e];
          dK[j * d + e] += dS * q[i * stride + e];
        }
      }
    }
  }
};

}  // namespace

// x (R, I), W (O, I), y (R, O)
void linear(Bench& bench, const string& model, int64_t R, int64_t I, int64_t O, Activation activation) {
  const bool gelu = activation == Activation::gelu;
  const string name = model + (gelu ? " linear+bias+gelu " : " linear+bias ") + shape(R, I, O);
  if (!bench.wants(name)) return;
  Floats x(bench, R * I), w(bench, O * I, std::sqrt(3.0f / static_cast<float>(I))), bias(bench, O), y(bench, R * O), z(bench, R * O);
  Matrix Z(z.data, R, O);
  const auto run = [&] {
    bench.device.linear({y.data, R, O}, {x.data, R, I}, {w.data, O, I, 1}, bias.data, activation, gelu ? &Z : nullptr);
  };
  bench.measure(name, kValue, 2.0 * R * I * O, 0, nothing, run, [&](Checks& checks) {
    const auto out = y.download(), preActivation = z.download();
    bench.sample(R, O, [&](int64_t r, int64_t o) {
      const auto sum = [&](auto real) { return dotOf<decltype(real)>(bench, &x.host[r * I], 1, &w.host[o * I], 1, I) + bias.host[o]; };
      if (gelu) checks.compare("preActivation", preActivation[r * O + o], sum);
      checks.compare("out", out[r * O + o], [&](auto real) { return gelu ? sum(real) * cdf(sum(real)) : sum(real); });
    });
  });
}

// gelu: times the slope of the activation that made x
void linearBackwardInput(Bench& bench, const string& model, int64_t R, int64_t I, int64_t O, bool gelu) {
  const string name = model + (gelu ? " dX*gelu' " : " dX ") + shape(R, I, O);
  if (!bench.wants(name)) return;
  Floats dOut(bench, R * O), w(bench, O * I, std::sqrt(3.0f / static_cast<float>(I))), z(bench, R * I, 2), dX(bench, R * I);
  const Matrix Z(z.data, R, I);
  const auto run = [&] {
    bench.device.linearBackwardInput({dX.data, R, I}, {dOut.data, R, O}, {w.data, O, I, 1}, false, gelu ? &Z : nullptr);
  };
  bench.measure(name, kGradient, 2.0 * R * I * O, 0, nothing, run, [&](Checks& checks) {
    const auto got = dX.download();
    bench.sample(R, I, [&](int64_t r, int64_t i) {
      checks.compare("dX", got[r * I + i], [&](auto real) {
        using Real = decltype(real);
        const Real sum = dotOf<Real>(bench, &dOut.host[r * O], 1, &w.host[i], I, O);
        return gelu ? sum * geluGradient<Real>(z.host[r * I + i]) : sum;
      });
    });
  });
}

void linearBackwardWeight(Bench& bench, const string& model, int64_t R, int64_t I, int64_t O) {
  const string name = model + " dW+dBias " + shape(R, I, O);
  if (!bench.wants(name)) return;
  Floats dOut(bench, R * O), x(bench, R * I), dW(bench, O * I), dBias(bench, O);
  const auto run = [&] { bench.device.linearBackwardWeight(dW.data, dBias.data, {dOut.data, R, O}, {x.data, R, I}); };
  bench.measure(name, kGradient, 2.0 * R * I * O, 0, nothing, run, [&](Checks& checks) {
    const auto gotW = dW.download(), gotBias = dBias.download();
    const float one = 1;
    bench.sample(O, I, [&](int64_t o, int64_t i) {
      const auto weight = [&](auto real) { return dW.host[o * I + i] + dotOf<decltype(real)>(bench, &dOut.host[o], O, &x.host[i], I, R); };
      const auto bias = [&](auto real) { return dBias.host[o] + dot<decltype(real)>(&dOut.host[o], O, &one, 0, R); };
      checks.compare("dW", gotW[o * I + i], weight);
      checks.compare("dBias", gotBias[o], bias);
    });
  });
}

// N sequences of L tokens, H heads of width d, C = H d; q, k, v side by side as the fused projection leaves them.
void attention(Bench& bench, const string& model, int64_t N, int64_t L, int64_t H, bool backward) {
  const int64_t d = 64, C = H * d, T = N * L;
  const string name = model + (backward ? " attention backward " : " attention forward ") + to_string(N) + " x " + to_string(L) + " tokens";
  if (!bench.wants(name)) return;
  Floats q(bench, T * C, 3), k(bench, T * C, 3), v(bench, T * C), dOut(bench, T * C), out(bench, T * C), lse(bench, H * T);
  Floats dQ(bench, T * C), dK(bench, T * C), dV(bench, T * C);
  vector<int32_t> offsets(N + 1), positions(T);
  for (int64_t n = 0; n <= N; ++n) offsets[n] = static_cast<int32_t>(n * L);
  for (int64_t t = 0; t < T; ++t) positions[t] = static_cast<int32_t>(t % L);
  Array<int32_t> offset(bench, offsets), position(bench, positions);
  Array<uint32_t> stream(bench, vector<uint32_t>(N));
  const auto matrix = [&](const Floats& f) { return Matrix(f.data, T, C); };
  const Packed packed{static_cast<int32_t>(N), T, static_cast<int32_t>(L), offset.data, offset.host.data()};
  const Attention a{matrix(q), matrix(k), matrix(v), packed, packed, position.data, stream.data, static_cast<int32_t>(H), d, nullptr, {}};
  const auto runForward = [&] { bench.device.attention(matrix(out), lse.data, a); };
  const auto runBackward = [&] {
    bench.device.attentionBackward(matrix(dQ), matrix(dK), matrix(dV), matrix(dOut), matrix(out), lse.data, a);
  };
  runForward();
  const double flops = (backward ? 10.0 : 4.0) * N * L * L * C;  // five products, or two
  const auto check = [&](Checks& checks) {
    const int64_t at = bench.below(N) * L * C + bench.below(H) * d;
    const auto reference = [&](auto real) {
      return Head<decltype(real)>(&q.host[at], &k.host[at], &v.host[at], &dOut.host[at], C, L, d);
    };
    const auto exact = reference(0.0);
    const auto plain = reference(0.0f);
    const auto compare = [&](const char* output, const Floats& got, const vector<double>& e, const vector<float>& p) {
      const auto values = got.download();
      for (int64_t i = 0; i < L * d; ++i) checks.add(output, values[at + i / d * C + i % d], e[i], p[i]);
    };
    if (!backward) return compare("out", out, exact.out, plain.out);
    compare("dQ", dQ, exact.dQ, plain.dQ);
    compare("dK", dK, exact.dK, plain.dK);
    compare("dV", dV, exact.dV, plain.dV);
  };
  if (backward) bench.measure(name, kGradient, flops, 0, nothing, runBackward, check);
  else bench.measure(name, kValue, flops, 0, nothing, runForward, check);
}

}  // namespace bge::bench
