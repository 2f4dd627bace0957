// std::condition_variable for binaries that others run. The headers of gcc 12 ask for the wait() of its own libstdc++ (GLIBCXX_3.4.30), which
// RHEL 9 and Amazon Linux 2023 do not have, though their glibc is new enough; the wait() of gcc 4.4 is in every libstdc++ and differs in being
// noexcept alone. test/pack.test.ts holds the addon to the floors that lib/loader.ts names.
#pragma once
#include <condition_variable>

#if defined(__GLIBCXX__) && defined(__GLIBC__) && defined(__x86_64__) && defined(_GLIBCXX_RELEASE) && _GLIBCXX_RELEASE >= 12
__asm__(".symver _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE, _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");
#endif
