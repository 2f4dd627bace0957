// Computations of the host that no device is needed for.
#pragma once
#include <napi.h>

namespace bge {

// multiplyFloat64(c, a, b, { m, n, k, transposeA, transposeB, threads, isa }) -> Promise<undefined>; the arrays are not copied.
Napi::Value multiplyFloat64(const Napi::CallbackInfo& info);

}  // namespace bge
