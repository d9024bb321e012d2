/* What a layer does between its products, each in one pass: norms, gates, rotations. */

#include "numbers.h"

/* Of all these files, so that nobody calls what another version of them has become. */
const char source_digest[] = SOURCE_DIGEST;

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
