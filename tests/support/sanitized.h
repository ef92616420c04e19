/* Whether this program is built with a sanitizer: such builds run several times slower, so tests take fewer cases there. */
#ifndef QN_TEST_SANITIZED_H
#define QN_TEST_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QN_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define QN_SANITIZED 1
#endif
#endif
#ifndef QN_SANITIZED
#define QN_SANITIZED 0
#endif

#endif
