// The multiprocessor of the emulated device: fibers, their schedule, barriers, warp operations, shared memory, cp.async. See emulator.h.
#include "runtime.h"

#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <stdexcept>
#include <vector>

namespace bge::emulated {

namespace {

constexpr size_t kStack = size_t{128} << 10, kPage = 4096, kGuard = 256;
constexpr int kBarriers = 16;

// -- context switch ----------------------------------------------------------------------------------------------------------------------

#if defined(__x86_64__)
struct Context {
  void* stackPointer = nullptr;
};
extern "C" void bgeEmulatedSwitch(void** save, void* load);
// Saves what a call must preserve, changes stacks, restores. (The floating-point control words are never changed here.)
asm(R"(
.text
.p2align 4
.local bgeEmulatedSwitch
.type bgeEmulatedSwitch,@function
bgeEmulatedSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size bgeEmulatedSwitch,.-bgeEmulatedSwitch
)");
void change(Context& from, Context& to) { bgeEmulatedSwitch(&from.stackPointer, to.stackPointer); }
void start(Context& c, char* stack, size_t bytes, void (*entry)()) {
  auto* top = reinterpret_cast<uint64_t*>(stack + bytes) - 2;
  *--top = 0;                                  // what entry would return to: it never does. A call leaves the stack 8 short of 16
  *--top = reinterpret_cast<uint64_t>(entry);  // popped by ret
  for (int i = 0; i < 6; ++i) *--top = 0;      // the saved registers
  c.stackPointer = top;
}
#else
struct Context {
  ucontext_t context;
};
void change(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
void start(Context& c, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&c.context);
  c.context.uc_stack.ss_sp = stack;
  c.context.uc_stack.ss_size = bytes;
  c.context.uc_link = nullptr;
  makecontext(&c.context, entry, 0);
}
#endif

struct Random {  // splitmix64
  uint64_t state = 0;
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int below(int n) { return static_cast<int>(next() % static_cast<uint64_t>(n)); }
};

// One of the set bits, at random.
int anyBit(uint32_t bits, Random& random) {
  for (int skip = random.below(__builtin_popcount(bits)); skip > 0; --skip) bits &= bits - 1;
  return __builtin_ctz(bits);
}

std::string text(const dim3& d) { return std::to_string(d.x) + "x" + std::to_string(d.y) + "x" + std::to_string(d.z); }
std::string text(const uint3& d) { return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")"; }

struct Meeting {  // lanes of one warp on their way into one warp operation
  bool active = false, wholeWarp = false;
  const char* operation = nullptr;
  uint32_t mask = 0, arrived = 0;
  void (*perform)(const Lanes&) = nullptr;
  Lanes lanes{};
};

struct Warp {
  uint32_t exist = 0, ready = 0, exited = 0;
  std::vector<Meeting> meetings;
};

struct Barrier {
  int arrived = 0, threads = 0, line = 0;
  const char* file = nullptr;
  std::vector<int> waiting;
};

struct StaticVariable {
  const void* key;
  size_t offset, bytes;
};

struct Thread : Running {
  int number = 0;
  Warp* warp = nullptr;
  Context context;
  const char* waitsFor = nullptr;  // null: runs
  int line = 0;
  struct Copy {
    void* to;
    const void* from;
    bool valid;
  };
  std::vector<Copy> copies;   // cp.async not done yet, oldest first
  std::deque<size_t> groups;  // copies in each committed group, oldest first
  size_t open = 0;            // copies since the last commit
};

Thread& current() { return *static_cast<Thread*>(self); }

// The multiprocessor: runs one block at a time.
struct Machine {
  std::vector<Thread> threads{static_cast<size_t>(kThreadsMost)};
  std::vector<Warp> warps{static_cast<size_t>(kThreadsMost / kWarp)};
  Barrier barriers[kBarriers];
  Context scheduler;
  char* stacks = nullptr;
  const Launch* launch = nullptr;
  int count = 0, exited = 0;
  std::string failure;
  Random random;
  bool shuffled = false;
  std::vector<unsigned char> sharedMemory = std::vector<unsigned char>(kSharedMost + 2 * kPage + 1024);
  std::vector<unsigned char> staticMemory = std::vector<unsigned char>(kStaticMost + 2 * kPage);
  std::vector<StaticVariable> statics;
  size_t staticUsed = 0;

  unsigned char* shared() {
    auto p = reinterpret_cast<uintptr_t>(sharedMemory.data()) + kPage;
    return reinterpret_cast<unsigned char*>((p + 1023) / 1024 * 1024);
  }
  unsigned char* fixed() {
    auto p = reinterpret_cast<uintptr_t>(staticMemory.data());
    return reinterpret_cast<unsigned char*>((p + 1023) / 1024 * 1024);
  }
  void makeStacks();
  void run(const Launch& l);
  void runBlock();
  void release(Barrier& b);
  std::string deadlock() const;
};

Machine& machine() {
  static auto* m = new Machine;  // never destroyed: a device may outlive static destructors
  return *m;
}

void threadMain();

void Machine::makeStacks() {
  if (stacks) return;
  const size_t each = kStack + kPage;
  void* p = mmap(nullptr, each * kThreadsMost, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::runtime_error("the emulated CUDA device found no room for the stacks of its threads");
  stacks = static_cast<char*>(p);
  for (int i = 0; i < kThreadsMost; ++i) mprotect(stacks + static_cast<size_t>(i) * each, kPage, PROT_NONE);
}

void Machine::release(Barrier& b) {
  for (int i : b.waiting) {
    Thread& t = threads[static_cast<size_t>(i)];
    t.waitsFor = nullptr;
    t.warp->ready |= 1u << t.lane;
  }
  b.waiting.clear();
  b.arrived = 0;
}

std::string Machine::deadlock() const {
  std::map<std::string, int> where;
  for (int i = 0; i < count; ++i) {
    const Thread& t = threads[static_cast<size_t>(i)];
    if (t.waitsFor) ++where[std::string(t.waitsFor) + (t.line ? ":" + std::to_string(t.line) : "")];
  }
  std::string s = "divergence: no thread can go on; " + std::to_string(exited) + " of " + std::to_string(count) + " threads have exited";
  for (const auto& [place, n] : where) s += ", " + std::to_string(n) + " wait at " + place;
  return s;
}

void Machine::runBlock() {
  const dim3 size = launch->blockSize;
  count = static_cast<int>(size.x * size.y * size.z);
  exited = 0;
  const int warpCount = (count + kWarp - 1) / kWarp;
  for (int w = 0; w < warpCount; ++w) {
    Warp& warp = warps[static_cast<size_t>(w)];
    const int lanes = std::min(kWarp, count - w * kWarp);
    warp.exist = warp.ready = lanes == kWarp ? kFullMask : (1u << lanes) - 1;
    warp.exited = 0;
    for (Meeting& m : warp.meetings) m.active = false;
  }
  for (int i = 0; i < count; ++i) {
    Thread& t = threads[static_cast<size_t>(i)];
    const auto n = static_cast<unsigned int>(i);
    t.index = {n % size.x, n / size.x % size.y, n / (size.x * size.y)};
    t.number = i;
    t.lane = i % kWarp;
    t.warp = &warps[static_cast<size_t>(i / kWarp)];
    t.waitsFor = nullptr;
    t.copies.clear();
    t.groups.clear();
    t.open = 0;
    start(t.context, stacks + static_cast<size_t>(i) * (kStack + kPage) + kPage, kStack, threadMain);
  }
  for (Barrier& b : barriers) {
    b.waiting.clear();
    b.arrived = 0;
  }
  startWgmma(count);
  std::memset(shared() - kGuard, kPoison, launch->sharedBytes + 2 * kGuard);
  std::memset(fixed(), kPoison, std::max<size_t>(staticUsed, 1));
  statics.clear();
  staticUsed = 0;

  int w = 0;
  while (exited < count) {
    // Next warp: the lowest that can run, or any.
    int candidates = 0;
    for (int i = 0; i < warpCount; ++i) candidates += warps[static_cast<size_t>(i)].ready != 0;
    if (candidates == 0) {
      failure = deadlock();
      return;
    }
    if (shuffled) {
      int skip = random.below(candidates);
      for (w = 0; warps[static_cast<size_t>(w)].ready == 0 || skip-- > 0; ++w) {
      }
    } else {
      for (w = 0; warps[static_cast<size_t>(w)].ready == 0; ++w) {
      }
    }
    Warp& warp = warps[static_cast<size_t>(w)];
    for (uint32_t pass = warp.ready; pass;) {
      const int lane = shuffled ? anyBit(pass, random) : __builtin_ctz(pass);
      pass &= ~(1u << lane);
      warp.ready &= ~(1u << lane);
      Thread& t = threads[static_cast<size_t>(w * kWarp + lane)];
      self = &t;
      change(scheduler, t.context);
      if (!failure.empty()) return;
    }
  }
  failure = wgmmaProblem();
  if (!poisoned(shared() - kGuard, kGuard) || !poisoned(shared() + launch->sharedBytes, kGuard)) {
    failure = "the kernel wrote outside of its " + std::to_string(launch->sharedBytes) + " bytes of dynamic shared memory";
  }
  for (const StaticVariable& v : statics) {
    if (!poisoned(fixed() + v.offset + v.bytes, 64))
      failure = "the kernel wrote behind the end of a static shared array of " + std::to_string(v.bytes) + " bytes";
  }
}

void Machine::run(const Launch& l) {
  makeStacks();
  launch = &l;
  failure.clear();
  const char* seed = std::getenv("BGE_CUDA_EMULATED_ORDER");
  shuffled = seed && *seed && std::strcmp(seed, "0") != 0;
  random.state = shuffled ? std::strtoull(seed, nullptr, 10) : 0;
  grid.gridSize = l.gridSize;
  grid.blockSize = l.blockSize;
  const uint64_t blocks = uint64_t{l.gridSize.x} * l.gridSize.y * l.gridSize.z;
  std::vector<uint64_t> order;
  if (shuffled) {
    for (uint64_t i = 0; i < blocks; ++i) order.push_back(i);
    for (uint64_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
  }
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t b = shuffled ? order[i] : i;
    const uint64_t row = b / l.gridSize.x;
    grid.blockIndex = {static_cast<unsigned int>(b % l.gridSize.x), static_cast<unsigned int>(row % l.gridSize.y),
                       static_cast<unsigned int>(row / l.gridSize.y)};
    runBlock();
    if (!failure.empty()) {
      throw std::runtime_error("kernel " + l.kernel + ", block " + text(grid.blockIndex) + " of " + text(l.gridSize) + ", " +
                               text(l.blockSize) + " threads: " + failure);
    }
  }
}

void toScheduler() { change(current().context, machine().scheduler); }

void threadMain() {
  Machine& m = machine();
  m.launch->thread();
  Thread& t = current();
  Warp& w = *t.warp;
  w.exited |= 1u << t.lane;
  ++m.exited;
  for (Meeting& p : w.meetings) {
    if (!p.active || !(p.mask & (1u << t.lane))) continue;
    if (p.wholeWarp) fail(std::string("a lane of the warp has exited while others are in ") + p.operation);
    if (p.arrived != (p.mask & w.exist & ~w.exited)) continue;
    p.active = false;
    p.perform(p.lanes);
    w.ready |= p.arrived;
  }
  toScheduler();
  std::abort();  // an exited thread is never resumed
}

}  // namespace

Running* self = nullptr;
Grid grid;

void run(const Launch& launch) { machine().run(launch); }

bool poisoned(const unsigned char* p, size_t bytes) {
  return std::all_of(p, p + bytes, [](unsigned char c) { return c == kPoison; });
}

void fail(const std::string& message) {
  machine().failure = "thread " + text(self->index) + ": " + message;
  toScheduler();
  std::abort();
}

void syncNamed(int barrier, int expected, const char* file, int line) {
  Machine& m = machine();
  if (barrier < 0 || barrier >= kBarriers) fail("barrier " + std::to_string(barrier) + " is outside of 0 .. 15");
  if (expected % kWarp != 0 && expected != m.count)
    fail("a named barrier counts whole warps, but was given " + std::to_string(expected) + " threads");
  Barrier& b = m.barriers[barrier];
  if (b.arrived > 0 && (b.threads != expected || b.line != line || std::strcmp(b.file, file) != 0)) {
    fail("divergence: " + std::to_string(b.arrived) + " threads wait at barrier " + std::to_string(barrier) + " in " + b.file + ":" +
         std::to_string(b.line) + ", this one at " + file + ":" + std::to_string(line));
  }
  b.threads = expected;
  b.file = file;
  b.line = line;
  if (++b.arrived == expected) {
    m.release(b);
    return;
  }
  Thread& t = current();
  b.waiting.push_back(t.number);
  t.waitsFor = file;
  t.line = line;
  toScheduler();
}

void syncThreads(const char* file, int line) { syncNamed(0, machine().count, file, line); }

void meet(const char* operation, uint32_t mask, bool wholeWarp, const void* in, void* out, void (*perform)(const Lanes&)) {
  Thread& t = current();
  Warp& w = *t.warp;
  const uint32_t bit = 1u << t.lane;
  if (!(mask & bit)) fail(std::string(operation) + ": the calling lane " + std::to_string(t.lane) + " is not in its own mask");
  if (wholeWarp && (w.exist & ~w.exited) != kFullMask)
    fail(std::string(operation) + " needs all 32 lanes, but some have exited or do not exist");
  Meeting* m = nullptr;
  for (Meeting& p : w.meetings) {
    if (!p.active || !(p.mask & mask)) continue;
    if (p.mask != mask || std::strcmp(p.operation, operation) != 0 || (p.arrived & bit)) {
      fail(std::string("divergence: lane ") + std::to_string(t.lane) + " is in " + operation + " while other lanes of its warp wait in " +
           p.operation);
    }
    m = &p;
  }
  if (!m) {
    for (Meeting& p : w.meetings) {
      if (!p.active) m = &p;
    }
    if (!m) m = &w.meetings.emplace_back();
    *m = Meeting{true, wholeWarp, operation, mask, 0, perform, {}};
  }
  m->arrived |= bit;
  m->lanes.in[t.lane] = in;
  m->lanes.out[t.lane] = out;
  if (m->arrived == (mask & w.exist & ~w.exited)) {
    m->active = false;
    perform(m->lanes);
    for (uint32_t rest = m->arrived & ~bit; rest; rest &= rest - 1) (&t)[__builtin_ctz(rest) - t.lane].waitsFor = nullptr;
    w.ready |= m->arrived & ~bit;
    return;
  }
  t.waitsFor = operation;
  t.line = 0;
  toScheduler();
}

// -- shared memory -----------------------------------------------------------------------------------------------------------------------

void* dynamicShared() { return machine().shared(); }

void* staticShared(const void* key, size_t bytes, size_t alignment) {
  Machine& m = machine();
  for (const StaticVariable& v : m.statics) {
    if (v.key == key) return m.fixed() + v.offset;
  }
  const size_t offset = (m.staticUsed + alignment - 1) / alignment * alignment;
  if (offset + bytes > kStaticMost) fail("static shared memory exceeds 48 KiB");
  m.statics.push_back({key, offset, bytes});
  std::memset(m.fixed() + offset, kPoison, bytes + 64);
  m.staticUsed = offset + bytes + 64;  // 64: the guard
  return m.fixed() + offset;
}

void checkShared(const void* p, size_t bytes, size_t alignment, const char* what) {
  Machine& m = machine();
  const auto a = reinterpret_cast<uintptr_t>(p);
  if (a % alignment != 0) fail(std::string(what) + ": the shared address is not " + std::to_string(alignment) + "-byte aligned");
  const auto inside = [&](const unsigned char* first, size_t size) {
    const auto f = reinterpret_cast<uintptr_t>(first);
    return a >= f && a + bytes <= f + size;
  };
  if (inside(m.shared(), m.launch->sharedBytes)) return;
  for (const StaticVariable& v : m.statics) {
    if (inside(m.fixed() + v.offset, v.bytes)) return;
  }
  const auto offset = reinterpret_cast<const unsigned char*>(p) - m.shared();
  fail(std::string(what) + ": the address is outside of shared memory (offset " + std::to_string(offset) + " of " +
       std::to_string(m.launch->sharedBytes) + " bytes)");
}

void copyAsync(void* shared, const void* global, bool valid) {
  checkShared(shared, 16, 16, "cp.async");
  if (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0) fail("cp.async: the global address is not 16-byte aligned");
  std::memset(shared, kPoison, 16);  // undefined from here to the wait
  current().copies.push_back({shared, global, valid});
  ++current().open;
}

void commitAsync() { current().groups.push_back(std::exchange(current().open, 0)); }

void waitAsync(int pending) {
  Thread& t = current();
  size_t done = 0;
  while (static_cast<int>(t.groups.size()) > pending) {
    for (size_t i = 0; i < t.groups.front(); ++i, ++done) {
      const Thread::Copy& c = t.copies[done];
      if (c.valid)
        std::memcpy(c.to, c.from, 16);
      else
        std::memset(c.to, 0, 16);
      landed(c.to);
    }
    t.groups.pop_front();
  }
  t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace bge::emulated
