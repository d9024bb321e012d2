/* What a step of a bfloat16 model does between its matrix products, each in one pass: norms, rotations, attention over
 * pages, gates. Numbers are rounded to bfloat16 where the same steps in torch are, and computed in float.
 *
 * All matrices are dense and row after row; lengths and strides count elements. */

#include <math.h>
#include <stdint.h>

/* Of this file, so that nobody calls what another version of it has become. */
const char source_digest[] = SOURCE_DIGEST;

typedef uint16_t bf16;
typedef int64_t size;

enum {
    PAGE = 16,       /* tokens of a page: BLOCK in kv_cache.py */
    LANES = 16,      /* d, everywhere, is a multiple of it */
    GROUP = 32,      /* weights that share a scale: INT4_GROUP in linear.py */
    TILES = 2,
    PAIRS = GROUP / 4, /* steps of a group, of two pairs of inputs each */
    GROUP_BYTES = PAIRS * 2 * LANES + 4 * LANES,
    LINE = 64,       /* bytes of a cache line */
    AHEAD = 4096,    /* bytes after those at work that are asked for: the weights are read once, from far away */
    CHUNK = 128,     /* tokens whose scores are held at a time */
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

/* hidden += added (unless null); out = hidden / rms(hidden) * gain. All [rows, n], gain [n]. */
void add_norm(bf16 *out, bf16 *hidden, const bf16 *added, const bf16 *gain, size rows, size n, float eps) {
    #pragma omp parallel for if (rows * n >= WORTH)
    for (size row = 0; row < rows; row++) {
        bf16 *h = hidden + row * n, *o = out + row * n;
        const bf16 *a = added ? added + row * n : 0;
        float squares = 0;
        if (a) {
            #pragma omp simd
            for (size i = 0; i < n; i++) h[i] = narrow(wide(h[i]) + wide(a[i]));
        }
        #pragma omp simd reduction(+ : squares)
        for (size i = 0; i < n; i++) squares += wide(h[i]) * wide(h[i]);
        float scale = 1 / sqrtf(squares / n + eps);
        #pragma omp simd
        for (size i = 0; i < n; i++) o[i] = narrow(rounded(wide(h[i]) * scale) * wide(gain[i]));
    }
}

/* out = silu(gate) * up, where gate_up [rows, 2n] has both side by side; out is [rows, n]. */
void gated(bf16 *out, const bf16 *gate_up, size rows, size n) {
    #pragma omp parallel for if (rows * n >= WORTH / 4)
    for (size row = 0; row < rows; row++) {
        const bf16 *gate = gate_up + row * 2 * n, *up = gate + n;
        #pragma omp simd
        for (size i = 0; i < n; i++) {
            float g = wide(gate[i]);
            out[row * n + i] = narrow(rounded(g / (1 + exponential(-g))) * wide(up[i]));
        }
    }
}

/* Turns queries and keys of qkv [rows, heads + 2 kv_heads, d] in place, dimension i with i + pairs, by cos and sin
 * [rows, pairs]; then stores keys and values in the cache [2 kv_heads, capacity, d] at slots [rows]. */
void turn_and_store(bf16 *qkv, const bf16 *cos, const bf16 *sin, size rows, size heads, size kv_heads, size d,
                    size pairs, bf16 *cache, size capacity, const int64_t *slots) {
    #pragma omp parallel for if (rows * (heads + 2 * kv_heads) * d >= WORTH)
    for (size row = 0; row < rows; row++) {
        bf16 *first = qkv + row * (heads + 2 * kv_heads) * d;
        const bf16 *c = cos + row * pairs, *s = sin + row * pairs;
        for (size head = 0; head < heads + kv_heads; head++) {
            bf16 *low = first + head * d, *high = low + pairs;
            #pragma omp simd
            for (size i = 0; i < pairs; i++) {
                float x = wide(low[i]), y = wide(high[i]), cosine = wide(c[i]), sine = wide(s[i]);
                low[i] = narrow(rounded(x * cosine) + rounded(-y * sine));
                high[i] = narrow(rounded(y * cosine) + rounded(x * sine));
            }
        }
        for (size head = 0; head < 2 * kv_heads; head++) {
            const bf16 *from = first + (heads + head) * d;
            bf16 *to = cache + (head * capacity + slots[row]) * d;
            for (size i = 0; i < d; i++) to[i] = from[i];
        }
    }
}

/* Where a request's token lies in the cache, by the table of its pages. */
static inline size at(const int64_t *table, size token) { return table[token / PAGE] * PAGE + token % PAGE; }

/* Asks for the page of a token, [PAGE, d]. */
static inline void ahead(const bf16 *pages, const int64_t *table, size token, size d) {
    const char *page = (const char *)(pages + table[token / PAGE] * PAGE * d);
    for (size byte = 0; byte < PAGE * d * 2; byte += LINE) __builtin_prefetch(page + byte);
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

/* What one query of n * LANES numbers sees of its head's keys and values from token `from` to `to`, chunk by chunk with
 * a running maximum (Milakov and Gimelshein 2018). Inlined, so that n is a constant where it is a usual one. */
static inline __attribute__((always_inline)) void attend_one(
        bf16 *out, const bf16 *query, const bf16 *keys, const bf16 *values, const int64_t *table, size from, size to,
        size n, float scale) {
    lanes asked[n], sum[n];
    float scores[CHUNK], most = -INFINITY, total = 0;
    for (size i = 0; i < n; i++) asked[i] = widened(query + i * LANES) * scale, sum[i] = (lanes){0};
    for (size begin = from; begin < to; begin += CHUNK) {
        size count = to - begin < CHUNK ? to - begin : CHUNK;
        float before = most, weights = 0;
        for (size t = 0; t < count; t++) {
            if (t % PAGE == 0) {
                ahead(values, table, begin + t, n * LANES);
                if (t + PAGE < count) ahead(keys, table, begin + t + PAGE, n * LANES);
            }
            const bf16 *key = keys + at(table, begin + t) * n * LANES;
            lanes dot = {0};
            for (size i = 0; i < n; i++) dot += asked[i] * widened(key + i * LANES);
            scores[t] = total_of(dot);
            most = scores[t] > most ? scores[t] : most;
        }
        float shrink = exponential(before - most);
        #pragma omp simd reduction(+ : weights)
        for (size t = 0; t < count; t++) weights += scores[t] = exponential(scores[t] - most);
        total = total * shrink + weights;
        for (size i = 0; i < n; i++) sum[i] *= shrink;
        for (size t = 0; t < count; t++) {
            const bf16 *value = values + at(table, begin + t) * n * LANES;
            float weight = rounded(scores[t]);
            for (size i = 0; i < n; i++) sum[i] += weight * widened(value + i * LANES);
        }
    }
    for (size i = 0; i < n * LANES; i++) out[i] = narrow(sum[i / LANES][i % LANES] / total);
}

/* One query a request: out [requests, heads, d], of queries whose rows are `stride` apart. Request r sees the tokens up
 * to and with ends[r] - 1, the last `window` of them (0: all); its pages are tables [requests, pages] in order. */
void attend(bf16 *out, const bf16 *queries, size stride, const bf16 *cache, size capacity, const int64_t *tables,
            size pages, const int64_t *ends, size requests, size heads, size kv_heads, size d, size window,
            float scale) {
    #pragma omp parallel for collapse(2) if (requests * ends[0] * heads * d >= 2 * WORTH)
    for (size r = 0; r < requests; r++) {
        for (size head = 0; head < heads; head++) {
            size to = ends[r], from = window && to > window ? to - window : 0;
            bf16 *o = out + (r * heads + head) * d;
            const bf16 *q = queries + r * stride + head * d;
            const bf16 *keys = cache + head / (heads / kv_heads) * capacity * d;
            const bf16 *values = keys + kv_heads * capacity * d;
            const int64_t *table = tables + r * pages;
            switch (d) {
            case 64: attend_one(o, q, keys, values, table, from, to, 64 / LANES, scale); break;
            case 96: attend_one(o, q, keys, values, table, from, to, 96 / LANES, scale); break;
            case 128: attend_one(o, q, keys, values, table, from, to, 128 / LANES, scale); break;
            default: attend_one(o, q, keys, values, table, from, to, d / LANES, scale);
            }
        }
    }
}

#ifdef __x86_64__
#include <immintrin.h>

#define BF16_PRODUCTS target("avx512f,avx512bw,avx512vl,avx512bf16")

/* The two numbers at x, in every lane. */
static inline __attribute__((always_inline, BF16_PRODUCTS)) __m512bh pair(const bf16 *x) {
    int32_t both;
    __builtin_memcpy(&both, x, sizeof both);
    return (__m512bh)_mm512_set1_epi32(both);
}

/* out = x W for up to 8 of x's rows, W of n inputs in 4 bits: two tiles of LANES outputs at a time, group after group
 * of GROUP inputs. A group of a tile is PAIRS times 2 * LANES bytes: byte (output, k) of step p has input 2p + k in its
 * low half and input GROUP / 2 + 2p + k in its high one; then come LANES scales and LANES middles, in bfloat16. A
 * weight is (integer - 8) scale + middle; such integers are exact in bfloat16, so that only sums in float round.
 * Inlined, so that rows is a constant. */
static inline __attribute__((always_inline, BF16_PRODUCTS)) void four_bit_tiles(
        bf16 *out, size stride, const bf16 *x, const float *sums, const uint8_t *tiles, size rows, size n) {
    /* -8 to 7, twice: the permutation looks at five bits, of which the highest is another number's */
    const __m512i integers = _mm512_broadcast_i64x4(_mm256_setr_epi16(
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0,
        0x40c0, 0x40e0));
    __m512 total[TILES][rows];
    for (size k = 0; k < TILES; k++)
        for (size r = 0; r < rows; r++) total[k][r] = _mm512_setzero_ps();
    for (size g = 0; g < n / GROUP; g++) {
        __m512 sum[TILES][rows];
        for (size k = 0; k < TILES; k++)
            for (size r = 0; r < rows; r++) sum[k][r] = _mm512_setzero_ps();
        const uint8_t *group = tiles + g * TILES * GROUP_BYTES;
        for (size ahead = 0; ahead < TILES * GROUP_BYTES; ahead += LINE) __builtin_prefetch(group + AHEAD + ahead);
        #pragma GCC unroll 8
        for (size p = 0; p < PAIRS; p++) {
            __m512bh first[TILES], second[TILES];
            for (size k = 0; k < TILES; k++) {
                const void *bytes = group + k * GROUP_BYTES + p * 2 * LANES;
                __m512i both = _mm512_cvtepu8_epi16(_mm256_loadu_si256(bytes));
                first[k] = (__m512bh)_mm512_permutexvar_epi16(both, integers);
                second[k] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(both, 4), integers);
            }
            for (size r = 0; r < rows; r++) {
                const bf16 *own = x + r * n + g * GROUP + 2 * p;
                __m512bh early = pair(own), late = pair(own + GROUP / 2);
                for (size k = 0; k < TILES; k++) {
                    sum[k][r] = _mm512_dpbf16_ps(sum[k][r], first[k], early);
                    sum[k][r] = _mm512_dpbf16_ps(sum[k][r], second[k], late);
                }
            }
        }
        for (size k = 0; k < TILES; k++) {
            const bf16 *scales = (const bf16 *)(group + k * GROUP_BYTES + PAIRS * 2 * LANES);
            __m512 scale = (__m512)widened(scales), middle = (__m512)widened(scales + LANES);
            for (size r = 0; r < rows; r++) {
                __m512 all = _mm512_set1_ps(sums[r * (n / GROUP) + g]);
                total[k][r] = _mm512_fmadd_ps(sum[k][r], scale, _mm512_fmadd_ps(all, middle, total[k][r]));
            }
        }
    }
    for (size k = 0; k < TILES; k++)
        for (size r = 0; r < rows; r++)
            for (size o = 0; o < LANES; o++) out[r * stride + k * LANES + o] = narrow(total[k][r][o]);
}

/* out [rows, outputs] = x [rows, n] W^T; sums [rows, n / GROUP] is scratch. */
__attribute__((BF16_PRODUCTS)) void four_bits(
        bf16 *out, const bf16 *x, float *sums, const uint8_t *weight, size rows, size outputs, size n) {
    for (size at = 0; at < rows * (n / GROUP); at++) {
        lanes sum = widened(x + at * GROUP);
        for (size i = LANES; i < GROUP; i += LANES) sum += widened(x + at * GROUP + i);
        sums[at] = total_of(sum);
    }
    #pragma omp parallel for
    for (size tile = 0; tile < outputs / LANES; tile += TILES) {
        const uint8_t *own = weight + tile * (n / GROUP) * GROUP_BYTES;
        for (size row = 0; row < rows; row += 8) {
            bf16 *o = out + row * outputs + tile * LANES;
            const bf16 *from = x + row * n;
            const float *s = sums + row * (n / GROUP);
            switch (rows - row) {
            case 1: four_bit_tiles(o, outputs, from, s, own, 1, n); break;
            case 2: four_bit_tiles(o, outputs, from, s, own, 2, n); break;
            case 3: four_bit_tiles(o, outputs, from, s, own, 3, n); break;
            case 4: four_bit_tiles(o, outputs, from, s, own, 4, n); break;
            case 5: four_bit_tiles(o, outputs, from, s, own, 5, n); break;
            case 6: four_bit_tiles(o, outputs, from, s, own, 6, n); break;
            case 7: four_bit_tiles(o, outputs, from, s, own, 7, n); break;
            default: four_bit_tiles(o, outputs, from, s, own, 8, n);
            }
        }
    }
}
#endif
