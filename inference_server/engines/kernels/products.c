/* Products with weights of 4 bits, and the last one of a step, whose sums stay in float. */

#include "numbers.h"

#ifdef __x86_64__
enum {
    GROUP = 32,        /* weights that share a scale: INT4_GROUP in linear.py */
    TILES = 2,
    BLOCK = 8,         /* rows whose sums are in registers at a time */
    PAIRS = GROUP / 4, /* steps of a group, of two pairs of inputs each */
    GROUP_BYTES = PAIRS * 2 * LANES + 4 * LANES,
    AHEAD = 4096,      /* bytes after those at work that are asked for: the weights are read once, from far away */
};

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
    __m512 total[TILES][BLOCK];
    for (size k = 0; k < TILES; k++)
        for (size r = 0; r < rows; r++) total[k][r] = _mm512_setzero_ps();
    for (size g = 0; g < n / GROUP; g++) {
        __m512 sum[TILES][BLOCK];
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

enum {
    WIDE = 4, /* tiles, and */
    HIGH = 6, /* rows whose sums in float are in registers at a time */
};

/* out = x W for `rows` of x's rows, at most HIGH, and WIDE tiles of LANES outputs, in float. The weights are n / 2 times
 * 2 * WIDE * LANES numbers: of each output the inputs 2p and 2p + 1. Inlined, so that rows is a constant; arrays have
 * constant sizes, for those of others are kept in memory. */
static inline __attribute__((always_inline, BF16_PRODUCTS)) void tiles_in_float(
        float *out, size stride, const bf16 *x, const bf16 *tiles, size rows, size n) {
    __m512 total[WIDE][HIGH];
    for (size k = 0; k < WIDE; k++)
        for (size r = 0; r < rows; r++) total[k][r] = _mm512_setzero_ps();
    for (size p = 0; p < n / 2; p++) {
        __m512bh weight[WIDE];
        for (size k = 0; k < WIDE; k++) {
            const bf16 *own = tiles + (p * WIDE + k) * 2 * LANES;
            __builtin_prefetch((const char *)own + AHEAD);
            weight[k] = (__m512bh)_mm512_loadu_si512(own);
        }
        #pragma GCC unroll 8
        for (size r = 0; r < rows; r++) {
            __m512bh both = pair(x + r * n + 2 * p);
            for (size k = 0; k < WIDE; k++) total[k][r] = _mm512_dpbf16_ps(total[k][r], weight[k], both);
        }
    }
    for (size k = 0; k < WIDE; k++)
        for (size r = 0; r < rows; r++) _mm512_storeu_ps(out + r * stride + k * LANES, total[k][r]);
}

/* out [rows, outputs] = x [rows, n] W^T. */
__attribute__((BF16_PRODUCTS)) void in_float(
        float *out, const bf16 *x, const bf16 *weight, size rows, size outputs, size n) {
    #pragma omp parallel for
    for (size tile = 0; tile < outputs / LANES; tile += WIDE) {
        const bf16 *own = weight + tile * LANES * n;
        for (size row = 0; row < rows; row += HIGH) {
            float *o = out + row * outputs + tile * LANES;
            const bf16 *from = x + row * n;
            switch (rows - row) {
            case 1: tiles_in_float(o, outputs, from, own, 1, n); break;
            case 2: tiles_in_float(o, outputs, from, own, 2, n); break;
            case 3: tiles_in_float(o, outputs, from, own, 3, n); break;
            case 4: tiles_in_float(o, outputs, from, own, 4, n); break;
            case 5: tiles_in_float(o, outputs, from, own, 5, n); break;
            default: tiles_in_float(o, outputs, from, own, HIGH, n);
            }
        }
    }
}
#endif
