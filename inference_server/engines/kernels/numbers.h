/* bfloat16 numbers, alone, in lanes and in pairs. Results are rounded to bfloat16 where the same steps in torch are, and
 * computed in float. All matrices are dense and row after row; lengths and strides count elements. */

#pragma once

#include <math.h>
#include <stdint.h>

typedef uint16_t bf16;
typedef int64_t size;

enum {
    LANES = 16,      /* numbers in a register; heads are a multiple of it */
    LINE = 64,       /* bytes of a cache line */
    WORTH = 1 << 15, /* elements from which on a second thread is worth waking (at::internal::GRAIN_SIZE) */
};

static inline float wide(bf16 x) {
    union { uint32_t bits; float value; } both = {(uint32_t)x << 16};
    return both.value;
}

/* To the nearest, ties to even; not-a-number stays one. */
static inline bf16 narrow(float x) {
    union { float value; uint32_t bits; } both = {x};
    uint32_t rounded = (both.bits + 0x7fff + ((both.bits >> 16) & 1)) >> 16;
    return (both.bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
}

static inline float rounded(float x) { return wide(narrow(x)); }

/* e^x, not below e^-87: 2^n times the Taylor series of e^r, |r| <= ln(2)/2. Compilers turn it into vectors, and expf
 * not. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 89.0f ? 89.0f : x; /* 2^128, infinity, from 88.4 on */
    float n = rintf(x * 1.44269504f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln(2) in two parts (Cody and Waite) */
    float e = 1 + r * (1 + r * (1.0f / 2 + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
    union { int32_t bits; float value; } power = {((int32_t)n + 127) << 23};
    return e * power.value;
}

/* LANES numbers at a time, which compilers put into the widest registers there are. */
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef bf16 halves __attribute__((vector_size(2 * LANES), aligned(2)));

static inline lanes widened(const bf16 *x) {
    return (lanes)(__builtin_convertvector(*(const halves *)x, words) << 16);
}

static inline float total_of(lanes x) {
    x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return x[0] + x[1];
}

#ifdef __x86_64__
#include <immintrin.h>

/* For functions that are called only where the processor has them. */
#define BF16_PRODUCTS target("avx512f,avx512bw,avx512vl,avx512bf16")

/* The two numbers at x, in every lane. */
static inline __attribute__((always_inline, BF16_PRODUCTS)) __m512bh pair(const bf16 *x) {
    int32_t both;
    __builtin_memcpy(&both, x, sizeof both);
    return (__m512bh)_mm512_set1_epi32(both);
}
#endif
