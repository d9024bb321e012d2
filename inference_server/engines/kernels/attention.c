/* Attention over the pages of the cache, which are read where they lie. */

#include "numbers.h"

enum {
    PAGE = 16,   /* tokens of a page: BLOCK in kv_cache.py */
    CHUNK = 128, /* tokens whose scores a single query holds at a time */
    WIDEST = 32, /* lanes of the widest head */
};

/* Where a request's token lies in the cache, by the table of its pages. */
static inline size at(const int64_t *table, size token) { return table[token / PAGE] * PAGE + token % PAGE; }

/* Asks for the page of a token, [PAGE, d]. */
static inline void ahead(const bf16 *pages, const int64_t *table, size token, size d) {
    const char *page = (const char *)(pages + table[token / PAGE] * PAGE * d);
    for (size byte = 0; byte < PAGE * d * 2; byte += LINE) __builtin_prefetch(page + byte);
}

/* What one query of n * LANES numbers sees of its head's keys and values from token `from` to `to`, chunk by chunk with
 * a running maximum (Milakov and Gimelshein 2018). Inlined, so that n is a constant where it is a usual one. */
static inline __attribute__((always_inline)) void attend_one(
        bf16 *out, const bf16 *query, const bf16 *keys, const bf16 *values, const int64_t *table, size from, size to,
        size n, float scale) {
    lanes asked[WIDEST], sum[WIDEST];
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
/* Many queries of a request: each has a lane of its own, so that scores, maxima and sums need no other lane and keys are
 * read as they lie in the cache. */
enum {
    ROWS = 64, /* queries that look at the same keys */
    ACROSS = ROWS / LANES,
    KEYS = 64, /* keys whose scores are held at a time */
    DOWN = 4,  /* sums of a row that registers hold at a time */
};

/* One head of keys and values of one request, and the queries that look at them: of each token the `share` heads, the
 * first token of which sees `end` tokens, each other one more than the one before it. */
struct view {
    bf16 *out;
    const bf16 *queries, *keys, *values;
    const int64_t *table;
    size out_stride, stride, share, end, d, window;
    float scale;
};

/* What is known of a row: it sees tokens from `from` up to `to` - 1; the largest score so far, the sum of all weights,
 * and by how much older sums are to be shrunk. */
struct rows {
    int32_t from[ROWS], to[ROWS];
    float most[ROWS], total[ROWS], shrink[ROWS];
};

/* sum[k] = sum[k] * shrink (null: 0) + the products of each row's pairs with those at with[k], `step` numbers apart. */
static inline __attribute__((always_inline, BF16_PRODUCTS)) void add_pairs(
        float sum[DOWN][ROWS], const float *shrink, const uint32_t rows[][ROWS], const bf16 *const with[DOWN],
        size step, size pairs) {
    __m512 own[DOWN][ACROSS];
    for (size k = 0; k < DOWN; k++)
        for (size v = 0; v < ACROSS; v++)
            own[k][v] = shrink ? _mm512_mul_ps(_mm512_loadu_ps(sum[k] + v * LANES), _mm512_loadu_ps(shrink + v * LANES))
                               : _mm512_setzero_ps();
    for (size p = 0; p < pairs; p++) {
        __m512bh row[ACROSS];
        for (size v = 0; v < ACROSS; v++) row[v] = (__m512bh)_mm512_loadu_si512(rows[p] + v * LANES);
        for (size k = 0; k < DOWN; k++) {
            __m512bh other = pair(with[k] + p * step);
            for (size v = 0; v < ACROSS; v++) own[k][v] = _mm512_dpbf16_ps(own[k][v], row[v], other);
        }
    }
    for (size k = 0; k < DOWN; k++)
        for (size v = 0; v < ACROSS; v++) _mm512_storeu_ps(sum[k] + v * LANES, own[k][v]);
}

static __attribute__((BF16_PRODUCTS)) void score(
        float scores[][ROWS], const uint32_t asked[][ROWS], const struct view *of, size begin, size count) {
    for (size t = 0; t < count; t += DOWN) {
        const bf16 *key[DOWN];
        for (size k = 0; k < DOWN; k++)
            key[k] = of->keys + at(of->table, begin + (t + k < count ? t + k : count - 1)) * of->d;
        add_pairs(scores + t, 0, asked, key, 2, of->d / 2);
    }
}

/* Scores become weights, in pairs: e^(score - most) of the tokens that a row sees, and practically 0 of the others. */
static __attribute__((BF16_PRODUCTS)) void weigh(
        uint32_t weights[][ROWS], float scores[][ROWS], struct rows *rows, size begin, size count, float scale) {
    float before[ROWS];
    for (size row = 0; row < ROWS; row++) before[row] = rows->most[row];
    for (size t = 0; t < count; t++)
        for (size row = 0; row < ROWS; row++) {
            int32_t token = begin + t;
            float own = token >= rows->from[row] && token < rows->to[row] ? scores[t][row] * scale : -INFINITY;
            scores[t][row] = own;
            rows->most[row] = own > rows->most[row] ? own : rows->most[row];
        }
    for (size row = 0; row < ROWS; row++) {
        rows->shrink[row] = exponential(before[row] - rows->most[row]);
        rows->total[row] *= rows->shrink[row];
    }
    for (size t = 0; t < count; t++)
        for (size row = 0; row < ROWS; row++) {
            float weight = exponential(scores[t][row] - rows->most[row]);
            rows->total[row] += weight;
            uint32_t bits = narrow(weight);
            weights[t / 2][row] = t % 2 ? weights[t / 2][row] | bits << 16 : bits;
        }
}

static __attribute__((BF16_PRODUCTS)) void add_values(
        float sum[][ROWS], const uint32_t weights[][ROWS], const float *shrink, const struct view *of, size begin,
        size count) {
    bf16 pairs[KEYS / 2][of->d][2];
    for (size t = 0; t < count; t += 2) {
        const bf16 *value = of->values + at(of->table, begin + t) * of->d;
        const bf16 *next = t + 1 < count ? of->values + at(of->table, begin + t + 1) * of->d : value;
        for (size i = 0; i < of->d; i++) pairs[t / 2][i][0] = value[i], pairs[t / 2][i][1] = next[i];
    }
    for (size i = 0; i < of->d; i += DOWN) {
        const bf16 *own[DOWN];
        for (size k = 0; k < DOWN; k++) own[k] = pairs[0][i + k];
        add_pairs(sum + i, shrink, weights, own, 2 * of->d, (count + 1) / 2);
    }
}

/* What `count` queries see, from number `first` on, where number i is head i % share of token i / share. */
static __attribute__((BF16_PRODUCTS)) void attend_rows(const struct view *of, size first, size count) {
    uint32_t asked[of->d / 2][ROWS], weights[KEYS / 2][ROWS];
    float scores[KEYS][ROWS], sum[of->d][ROWS];
    struct rows rows;
    for (size row = 0; row < ROWS; row++) {
        size number = first + (row < count ? row : count - 1), token = number / of->share, to = of->end + token;
        const bf16 *query = of->queries + token * of->stride + number % of->share * of->d;
        for (size p = 0; p < of->d / 2; p++) asked[p][row] = query[2 * p] | (uint32_t)query[2 * p + 1] << 16;
        rows.from[row] = of->window && to > of->window ? to - of->window : 0, rows.to[row] = to;
        rows.most[row] = -1e30f, rows.total[row] = 0; /* no infinity, of which differences are no numbers */
    }
    for (size i = 0; i < of->d; i++)
        for (size row = 0; row < ROWS; row++) sum[i][row] = 0;
    for (size begin = rows.from[0], to = rows.to[ROWS - 1]; begin < to; begin += KEYS) {
        size seen = to - begin < KEYS ? to - begin : KEYS;
        score(scores, asked, of, begin, seen);
        weigh(weights, scores, &rows, begin, seen, of->scale);
        add_values(sum, weights, rows.shrink, of, begin, seen);
    }
    for (size row = 0; row < count; row++) {
        bf16 *out = of->out + (first + row) / of->share * of->out_stride + (first + row) % of->share * of->d;
        for (size i = 0; i < of->d; i++) out[i] = narrow(sum[i][row] / rows.total[row]);
    }
}

/* As `attend`, of counts [requests] queries each, one after the other: out [tokens, heads, d]. The first of request r
 * sees ends[r] tokens. */
void attend_many(bf16 *out, const bf16 *queries, size stride, const bf16 *cache, size capacity, const int64_t *tables,
                 size pages, const int64_t *ends, const int64_t *counts, size requests, size heads, size kv_heads,
                 size d, size window, float scale) {
    size share = heads / kv_heads, start = 0;
    for (size r = 0; r < requests; start += counts[r++]) {
        size rows = counts[r] * share;
        #pragma omp parallel for collapse(2) schedule(dynamic)
        for (size first = 0; first < rows; first += ROWS) {
            for (size head = 0; head < kv_heads; head++) {
                size own = head * share * d;
                struct view of = {
                    .out = out + start * heads * d + own, .out_stride = heads * d,
                    .queries = queries + start * stride + own, .stride = stride, .share = share,
                    .keys = cache + head * capacity * d, .values = cache + (kv_heads + head) * capacity * d,
                    .table = tables + r * pages, .end = ends[r], .d = d, .window = window, .scale = scale,
                };
                attend_rows(&of, first, rows - first < ROWS ? rows - first : ROWS);
            }
        }
    }
}
#endif
