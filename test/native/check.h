// The little that the native tests need of a test framework.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace bge::test {

struct Count {
  int checks = 0, failed = 0;
};
inline Count& count() {
  static Count c;
  return c;
}

inline void expect(bool good, const char* file, int line, const char* what, const std::string& more = "") {
  ++count().checks;
  if (good) return;
  ++count().failed;
  std::printf("%s:%d: %s %s\n", file, line, what, more.c_str());
}
#define EXPECT(condition, ...) ::bge::test::expect(condition, __FILE__, __LINE__, #condition, ##__VA_ARGS__)

// "CODE: sentence" of the Error that f throws, or "".
inline std::string errorOf(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.code + ": " + e.what();
  }
  return "";
}
inline bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

inline float anyNumber(float scale = 2) { return scale * static_cast<float>(std::rand() % 2001 - 1000) / 1000.0f; }

void words();   // cuda_words.cu
void device();  // cuda_device.cu

}  // namespace bge::test
