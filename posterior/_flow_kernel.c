/*
 * Samples of a masked autoregressive flow, each hidden unit computed once: what flow.py does in NumPy, in one call; and of the
 * amplitudes given the rest, what amplitudes.py does.
 *
 * Samples are worked on in tiles of a few vectors, units x samples, small enough for the caches. Weights are (in, out) as
 * trained, units sorted by degree: the units of one degree see a range of those before. Sums of products stay in registers,
 * and activations follow at once. Compiled once for AVX-512 and once for AVX2, by including this file in itself.
 *
 * The exponential, the logarithm and the hyperbolic tangent are those of the Cephes library (S. Moshier), good to float32 rounding.
 */
#ifndef NAME

#include <stdlib.h>
#include <string.h>

#if !defined(__x86_64__) || !defined(__GNUC__) || defined(__clang__)
#error "written for GCC on x86-64: elsewhere sedcast samples with NumPy"
#endif

#include <immintrin.h>

#define MAX_LAYERS 8
#define MAX_OUTPUTS 4
/* Where hyperbolic functions (as in made.py), and the squares of what they take, would overflow. */
#define MAX_ANGLE 40.0f
#define MAX_SQUARED 1e18f

/* Layer l has bounds[l][d] units of degrees below d and biases bias[l] (block, out). The last one's outputs are n_outputs for each
 * dimension: shift, raw log scale and, unless that is all, raw skew and log tail weight, with a soft bound on each but
 * the first. The first layer's bias comes per galaxy, with the context's share, and it has n_indicators inputs before the
 * others. Of each block, weights has those that are not masked in the order in which they are used, in panels of at most
 * sedcast_flow_panel units. */
typedef struct {
    int dim, n_indicators, n_blocks, n_hidden, activation, n_outputs;
    float bound[MAX_OUTPUTS - 1];
    const int *order;
    const int *bounds[MAX_LAYERS];
    const float *bias[MAX_LAYERS + 1], *weights;
    long weights_per_block;
} Flow;

/* The ranges of amplitudes.py: of the burst fraction, and of the mass over the reference mass. */
typedef struct {
    float least_fraction, most_fraction, least_mass, most_mass;
} Ranges;

/* The nodes, and other numbers, of amplitudes.py and mass.py. */
#define N_COARSE 37
#define N_MIDDLE 41
#define N_FINE 96
#define N_MASS 64
#define MAX_LOGIT 18.0f
#define DEEP 18.0f
#define CERTAIN 7.0f
#define REACH 8.5f
#define DETECTED 6.0f
#define FAINT 0.05f
#define ROOT_2PI 2.50662827463f
#define TINY 1.17549435e-38f
#define IMPOSSIBLE 3e38f

#define MAX_LANES 48
/* Of layers whose units are not activated yet, and the number of silu among the activations. */
#define NOT_ACTIVE -1
#define SILU 3
#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define FN(name) JOIN(name, NAME)
#define LANES (VL * VT)
#define VF FN(vf)
#define VI FN(vi)
#define PICK(mask, a, b) ((VF)(((VI)(a) & (mask)) | ((VI)(b) & ~(mask))))
#define UP_TO_5(c) c(1) c(2) c(3) c(4) c(5)
#define UP_TO_7(c) UP_TO_5(c) c(6) c(7)

/* VL floats make a vector; a tile of RT units x VT vectors fills the registers. A reciprocal by Newton's method takes
 * a third of a division's time. */
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#define NAME avx512
#define VL 16
#define VT 3
#define RT 8
#define BELOW_RT UP_TO_7
#define MIN(a, b) ((VF)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define MAX(a, b) ((VF)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define GUESS(x) ((VF)_mm512_rcp14_ps((__m512)(x)))
#define SQRT(x) ((VF)_mm512_sqrt_ps((__m512)(x)))
#define ANY(mask) (_mm512_movepi32_mask((__m512i)(mask)) != 0)
#include "_flow_kernel.c"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define NAME avx2
#define VL 8
#define VT 2
#define RT 6
#define BELOW_RT UP_TO_5
#define MIN(a, b) ((VF)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define MAX(a, b) ((VF)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define GUESS(x) ((VF)_mm256_rcp_ps((__m256)(x)))
#define SQRT(x) ((VF)_mm256_sqrt_ps((__m256)(x)))
#define ANY(mask) (_mm256_movemask_ps((__m256)(mask)) != 0)
#include "_flow_kernel.c"
#pragma GCC pop_options

/* Of the structures and arguments in this file: to be raised when they change. */
int sedcast_flow_version(void) {
    return 1;
}

/* Floats in a vector of this processor: 16, 8, or 0 if it can run neither variant. */
int sedcast_flow_vector(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 16;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 8 : 0;
}

/* Units in a panel of weights, for the variant of `vector` floats. */
int sedcast_flow_panel(int vector) {
    return vector == 16 ? panel_avx512 : panel_avx2;
}

/* share (n_rows, n_blocks, units of the first layer), indicators (n_indicators, n_rows, n), noise (n_rows, n, dim) -> theta like
 * noise, log_q (n_rows, n), both without their constants. Returns 0, or 1 without memory. */
int sedcast_flow_samples(const Flow *f, int vector, long n_rows, long n, const float *share, const float *indicators,
                         const float *noise, float *theta, float *log_q) {
    size_t rows = 2 * f->dim + f->n_indicators + MAX_OUTPUTS;
    for (int l = 0; l < f->n_hidden; l++) rows += f->bounds[l][f->dim];
    float *scratch = aligned_alloc(64, rows * MAX_LANES * sizeof(float));
    if (!scratch) return 1;
    for (long row = 0; row < n_rows; row++) {
        const float *s = share + row * f->n_blocks * f->bounds[0][f->dim], *z = noise + row * n * f->dim;
        if (vector == 16)
            sample_avx512(f, s, indicators + row * n, n_rows * n, z, n, theta + row * n * f->dim, log_q + row * n, scratch);
        else
            sample_avx2(f, s, indicators + row * n, n_rows * n, z, n, theta + row * n * f->dim, log_q + row * n, scratch);
    }
    free(scratch);
    return 0;
}

/* A dense network with silu between its layers: inputs (n, widths[0]) -> out (n, widths[n_layer]). `first` (n, widths[1]), if it is
 * not null, is added to what the first layer's product gives. Weights are in panels of at most sedcast_flow_panel units, layer
 * after layer, as are biases. Returns 0, or 1 without memory. */
int sedcast_network(int vector, int n_layer, const int *widths, const float *weights, const float *bias, long n,
                    const float *inputs, const float *first, float *out) {
    int most = 0;
    for (int l = 0; l <= n_layer; l++) most = widths[l] > most ? widths[l] : most;
    float *scratch = aligned_alloc(64, 2 * (size_t)most * MAX_LANES * sizeof(float));
    if (!scratch) return 1;
    if (vector == 16)
        network_avx512(n_layer, widths, weights, bias, n, inputs, first, out, scratch, scratch + (size_t)most * MAX_LANES);
    else
        network_avx2(n_layer, widths, weights, bias, n, inputs, first, out, scratch, scratch + (size_t)most * MAX_LANES);
    free(scratch);
    return 0;
}

/* plane (5, n) as amplitudes.py's; share (2, n) of the densities that lie below what is to be drawn, or null to evaluate them at
 * `logit` and `ln_mass` (n,), the logarithm of mass over reference mass; log_q (2, n) of both, NaN of a mass that cannot be. */
void sedcast_amplitudes(const Ranges *r, int vector, long n, const float *plane, const float *share, float *logit, float *ln_mass,
                        float *log_q) {
    if (vector == 16)
        amplitudes_avx512(r, n, plane, share, logit, ln_mass, log_q);
    else
        amplitudes_avx2(r, n, plane, share, logit, ln_mass, log_q);
}

#else /* one variant */

static const int FN(panel) = RT;
_Static_assert(LANES <= MAX_LANES, "a tile must fit the scratch memory");

typedef float FN(vf) __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int FN(vi) __attribute__((vector_size(4 * VL), aligned(4), may_alias));

static inline VF FN(reciprocal)(VF x) {
    VF guess = GUESS(x);
    guess *= 2.0f - x * guess;
    if (VL < 16) guess *= 2.0f - x * guess;
    return guess;
}

static inline VF FN(expv)(VF x) {
    // Between bounds whose exponentials and their reciprocals are normal numbers: others take a hundred times as long.
    VF most = (VF){0} + 80.0f;
    x = MAX(MIN(x, most), -most);
    VF t = x * 1.44269504088896341f + 12582912.0f;
    // Its lowest bits are the power of two.
    VI power = (VI)t << 23;
    t -= 12582912.0f;
    VF r = x - t * 0.693359375f + t * 2.12194440e-4f;
    VF p = (VF){0} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (VF)((VI)p + power);
}

static inline VF FN(tanhv)(VF x) {
    VI sign = (VI)x & (int)0x80000000;
    VF a = (VF)((VI)x ^ sign), z = x * x;
    VF far = 1.0f - 2.0f * FN(reciprocal)(FN(expv)(a + a) + 1.0f);
    VF p = (VF){0} - 5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    VF near = p * z * x + x;
    return PICK(a < 0.625f, near, (VF)((VI)far | sign));
}

/* Of positive normal numbers. */
static inline VF FN(logv)(VF x) {
    VI n = ((VI)x - 0x3F3504F3) >> 23;
    VF m = (VF)((VI)x - (n << 23)) - 1.0f, e = __builtin_convertvector(n, VF), z = m * m;
    VF p = (VF){0} + 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    return m + (p * m * z - e * 2.12194440e-4f - 0.5f * z) + e * 0.693359375f;
}

/* sinh(skew + tail asinh(z)); adds to `log_slope` that of this transform. */
static inline VF FN(bend)(VF z, VF skew, VF log_tail, VF *log_slope) {
    VI sign = (VI)z & (int)0x80000000;
    VF most = (VF){0} + MAX_ANGLE, a = (VF)((VI)z ^ sign);
    a = MIN(a, (VF){0} + MAX_SQUARED);
    VF below = 1.0f + a * a;
    VF angle = skew + FN(expv)(log_tail) * (VF)((VI)FN(logv)(a + SQRT(below)) ^ sign);
    VF e = FN(expv)(MAX(MIN(angle, most), -most));
    VF y = 0.5f * (e - FN(reciprocal)(e));
    *log_slope += log_tail + 0.5f * FN(logv)((1.0f + y * y) / below);
    return y;
}

#define EACH(expression) \
    for (long i = 0; i < n; i += VL) { \
        VF y = *(VF *)(h + i); \
        *(VF *)(h + i) = expression; \
    } \
    break;
static void FN(activate)(float *h, long n, int kind) {
    VF zero = (VF){0};
    switch (kind) {
        case 0: EACH(MAX(y, zero))
        case 1: EACH(FN(tanhv)(y))
        case 2: EACH(PICK(y < zero, FN(expv)(y) - 1.0f, y))
        default: EACH(y * FN(reciprocal)(1.0f + FN(expv)(-y)))
    }
}
#undef EACH

/* out[r] = bias[r] + sum_k w[k][r] h[k] for `rows` <= RT units and LANES samples; returns the end of w. */
static inline __attribute__((always_inline)) const float *FN(tile)(const float *w, const float *h, int depth, const float *bias,
                                                                   float *out, int rows) {
    VF acc[RT][VT];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VT; v++) acc[r][v] = (VF){0} + bias[r];
    for (int k = 0; k < depth; k++, w += rows) {
        VF x[VT];
        for (int v = 0; v < VT; v++) x[v] = *(const VF *)(h + k * LANES + VL * v);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VT; v++) acc[r][v] += w[r] * x[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VT; v++) *(VF *)(out + r * LANES + VL * v) = acc[r][v];
    return w;
}

#define CASE(n) \
    case n: w = FN(tile)(w, h, depth, bias + m, out + m * LANES, n); break;
static const float *FN(hidden)(const float *w, const float *h, int depth, const float *bias, float *out, int units, int kind) {
    int m = 0;
    for (; m + RT <= units; m += RT) w = FN(tile)(w, h, depth, bias + m, out + m * LANES, RT);
    switch (units - m) { BELOW_RT(CASE) }
    if (kind != NOT_ACTIVE) FN(activate)(out, (long)units * LANES, kind);
    return w;
}
#undef CASE

/* Solve block b for its inputs x, before which the indicators stand, from its outputs `values`, and add its log scales to
 * `total`. */
static void FN(invert)(const Flow *f, int b, const float *share, const float *values, float *x, float **h, float *out, VF *total) {
    int dim = f->dim, last = f->n_hidden;
    const float *w = f->weights + b * f->weights_per_block;
    for (int d = 0; d < dim; d++) {
        for (int l = 0; l < last; l++) {
            int low = f->bounds[l][d], units = f->bounds[l][d + 1] - low, width = f->bounds[l][dim];
            int depth = l ? f->bounds[l - 1][d + 1] : f->n_indicators + d;
            const float *bias = (l ? f->bias[l] : share) + (long)b * width + low;
            w = FN(hidden)(w, l ? h[l - 1] : x - f->n_indicators * LANES, depth, bias, h[l] + low * LANES, units, f->activation);
        }
        const float *bias = f->bias[last] + ((long)b * dim + d) * f->n_outputs, *top = h[last - 1];
        int depth = f->bounds[last - 1][d + 1];
        w = f->n_outputs == 2 ? FN(tile)(w, top, depth, bias, out, 2) : FN(tile)(w, top, depth, bias, out, MAX_OUTPUTS);
        for (int v = 0; v < VT; v++) {
            VF z = *(VF *)(values + d * LANES + VL * v), output[MAX_OUTPUTS];
            for (int k = 0; k < f->n_outputs; k++) output[k] = *(VF *)(out + k * LANES + VL * v);
            for (int k = 1; k < f->n_outputs; k++) output[k] = f->bound[k - 1] * FN(tanhv)(output[k] / f->bound[k - 1]);
            if (f->n_outputs > 2) z = FN(bend)(z, output[2], output[3], total + v);
            total[v] += output[1];
            *(VF *)(x + d * LANES + VL * v) = z * FN(expv)(output[1]) + output[0];
        }
    }
}

/* Of one galaxy; an indicator's n values are `stride` after those of the one before. */
static void FN(sample)(const Flow *f, const float *share, const float *indicators, long stride, const float *noise, long n,
                       float *theta, float *log_q, float *scratch) {
    int dim = f->dim;
    float *values = scratch, *x = values + (dim + f->n_indicators) * LANES, *out = x + dim * LANES, *h[MAX_LAYERS];
    h[0] = out + MAX_OUTPUTS * LANES;
    for (int l = 1; l < f->n_hidden; l++) h[l] = h[l - 1] + f->bounds[l - 1][dim] * LANES;
    for (long first = 0; first < n; first += LANES) {
        int m = n - first < LANES ? n - first : LANES;
        VF total[VT] = {0};
        for (int k = 0; k < f->n_indicators; k++)
            for (int s = 0; s < LANES; s++)
                x[(k - f->n_indicators) * LANES + s] = s < m ? indicators[k * stride + first + s] : 0.0f;
        for (int d = 0; d < dim; d++) {
            for (int s = 0; s < LANES; s++) values[d * LANES + s] = s < m ? noise[(first + s) * dim + d] : 0.0f;
            for (int v = 0; v < VT; v++) {
                VF z = *(VF *)(values + d * LANES + VL * v);
                total[v] += 0.5f * z * z;
            }
        }
        for (int b = f->n_blocks - 1; b >= 0; b--) {
            FN(invert)(f, b, share, values, x, h, out, total);
            for (int d = 0; d < dim; d++)
                memcpy(values + f->order[b * dim + d] * LANES, x + d * LANES, LANES * sizeof(float));
        }
        for (int s = 0; s < m; s++) {
            for (int d = 0; d < dim; d++) theta[(first + s) * dim + d] = values[d * LANES + s];
            log_q[first + s] = -total[s / VL][s % VL];
        }
    }
}

static void FN(network)(int n_layer, const int *widths, const float *weights, const float *bias, long n, const float *inputs,
                        const float *first, float *out, float *one, float *other) {
    int last = widths[n_layer];
    for (long start = 0; start < n; start += LANES) {
        int m = n - start < LANES ? n - start : LANES;
        const float *w = weights, *b = bias;
        float *from = one, *to = other;
        for (int k = 0; k < widths[0]; k++)
            for (int s = 0; s < LANES; s++) from[k * LANES + s] = s < m ? inputs[(start + s) * widths[0] + k] : 0.0f;
        for (int l = 0; l < n_layer; l++) {
            int width = widths[l + 1];
            w = FN(hidden)(w, from, widths[l], b, to, width, NOT_ACTIVE);
            if (!l && first)
                for (int s = 0; s < m; s++)
                    for (int r = 0; r < width; r++) to[r * LANES + s] += first[(start + s) * width + r];
            if (l + 1 < n_layer) FN(activate)(to, (long)width * LANES, SILU);
            b += width;
            float *spare = from;
            from = to;
            to = spare;
        }
        for (int s = 0; s < m; s++)
            for (int r = 0; r < last; r++) out[(start + s) * last + r] = from[r * LANES + s];
    }
}

/* As amplitudes.py's _tail and _cut. */
static inline VF FN(tail)(VF x) {
    return 2.0f * FN(reciprocal)(x + SQRT(x * x + 2.54647908947f));
}

static inline VF FN(cut)(VF x) {
    x = MAX(x, (VF){0});
    return FN(expv)(-0.5f * x * x) * FN(tail)(x);
}

/* The model's signal-to-noise ratio at the reference mass, the matched filter's, and what it leaves of the data in the plane. */
static inline VF FN(filter)(const Ranges *r, const VF *plane, VF u, VF rest, VF *signal, VF *off) {
    float width = r->most_fraction - r->least_fraction;
    VF f = r->least_fraction + width * u, g = (1.0f - r->most_fraction) + width * rest;
    VF m1 = g * plane[0] + f * plane[1], m2 = f * plane[2];
    *signal = SQRT(MAX(m1 * m1 + m2 * m2, (VF){0} + TINY));
    VF inverse = FN(reciprocal)(*signal);
    *off = (m1 * plane[4] - m2 * plane[3]) * inverse;
    return (m1 * plane[3] + m2 * plane[4]) * inverse;
}

static inline VF FN(log_height)(const Ranges *r, const VF *plane, VF logit) {
    VF e = FN(expv)(-logit), u = FN(reciprocal)(1.0f + e), rest = u * e, signal, off, tiny = (VF){0} + TINY, one = (VF){0} + 1.0f;
    VF peak = FN(filter)(r, plane, u, rest, &signal, &off), low = signal * r->least_mass, high = signal * r->most_mass;
    // Most often the galaxy is detected, and its mass well within the range. A lane's bits do not depend on the others.
    VI uncertain = (high < peak + CERTAIN) | (peak < low + CERTAIN);
    VF certain = 0.5f * (FN(logv)(u * rest * (u * rest) * (ROOT_2PI * ROOT_2PI) / (1.0f + peak * peak)) - off * off);
    if (!ANY(uncertain)) return certain;
    VF best = MIN(MAX(peak, low), high), beyond = peak - best;
    beyond = MAX(beyond, -beyond);
    VF inside = ROOT_2PI - FN(cut)(high - peak) - FN(cut)(peak - low);
    VF width = MAX(PICK(beyond > 0.0f, FN(tail)(beyond), inside), tiny);
    VF of_peak = FN(logv)(width) - 0.5f * (FN(logv)(1.0f + best * best) + off * off + beyond * beyond);
    VF reach = MIN(high, FN(reciprocal)(MAX(one, -peak))) / low, faint = FN(logv)(MAX(reach, one));
    VF of_faint = FN(logv)(MAX(faint, tiny)) - 0.5f * (plane[3] * plane[3] + plane[4] * plane[4]);
    // None is too faint to see, if the least of them can be seen.
    of_faint = PICK(reach > 1.0f, of_faint, (VF){0} - IMPOSSIBLE);
    VF most = MAX(of_peak, of_faint), least = MIN(of_peak, of_faint);
    return PICK(uncertain, FN(logv)(MAX(u * rest, tiny)) + most + FN(logv)(1.0f + FN(expv)(least - most)), certain);
}

/* What TabulatedDensity does, for n_node heights: where the share of the density below is `share`, or, without it, at x. */
static VF FN(tabulated)(const VF *heights, int n_node, VF low, VF step, const VF *share, VF *x) {
    VF total = {0}, before = {0}, left = heights[n_node - 2], right = heights[n_node - 1], part;
    VI done = {0}, cell = (VI){0} + (n_node - 2);
    for (int j = 0; j + 1 < n_node; j++) total += 0.5f * (heights[j] + heights[j + 1]);
    if (share) {
        VF wanted = *share * total, sum = {0};
        for (int j = 0; j + 1 < n_node; j++) {
            VF next = sum + 0.5f * (heights[j] + heights[j + 1]);
            VI hit = (next >= wanted) & ~done;
            left = PICK(hit, heights[j], left);
            right = PICK(hit, heights[j + 1], right);
            before = PICK(hit, sum, before);
            cell = (cell & ~hit) | (((VI){0} + j) & hit);
            done |= hit;
            sum = next;
        }
        // Rounding may leave the last cell unfound.
        before = PICK(done, before, total - 0.5f * (left + right));
        VF area = MIN(MAX(wanted - before, (VF){0}), 0.5f * (left + right));
        VF root = SQRT(MAX(left * left + 2.0f * (right - left) * area, (VF){0}));
        part = MIN(2.0f * area / MAX(left + root, (VF){0} + TINY), (VF){0} + 1.0f);
        *x = low + step * (__builtin_convertvector(cell, VF) + part);
    } else {
        // Rounding may put what was drawn at an end a little beyond it.
        VF position = (*x - low) / step, last = (VF){0} + (float)(n_node - 1), slack = MAX((VF){0} + 0.05f, 3e-6f / step);
        done = (position >= -slack) & (position <= last + slack);
        position = PICK(done, MIN(MAX(position, (VF){0}), last), (VF){0});
        cell = __builtin_convertvector(MIN(position, last - 1.0f), VI);
        for (int j = 0; j + 1 < n_node; j++) {
            VI hit = cell == j;
            left = PICK(hit, heights[j], left);
            right = PICK(hit, heights[j + 1], right);
        }
        part = position - __builtin_convertvector(cell, VF);
    }
    VF log_density = FN(logv)(MAX(left + part * (right - left), (VF){0} + TINY)) - FN(logv)(total * step);
    return share ? log_density : PICK(done, log_density, (VF){0} - __builtin_inff());
}

/* Narrows low … high, which hold `best`, to where the density counts, a step on either side included. */
static void FN(narrow)(const Ranges *r, const VF *plane, VF best, int n_node, VF *low, VF *high) {
    VF at[N_MIDDLE + 1], heights[N_MIDDLE + 1], highest = (VF){0} - 3e38f, step = (*high - *low) / (float)(n_node - 1);
    VF least = *high, most = *low;
    for (int j = 0; j <= n_node; j++) {
        at[j] = best;
        if (j < n_node) at[j] = *low + step * (float)j;
        heights[j] = FN(log_height)(r, plane, at[j]);
        highest = MAX(highest, heights[j]);
    }
    for (int j = 0; j <= n_node; j++) {
        VI counts = heights[j] > highest - DEEP;
        least = PICK(counts, MIN(least, at[j]), least);
        most = PICK(counts, MAX(most, at[j]), most);
    }
    *low = MAX(least - step, *low);
    *high = MIN(most + step, *high);
}

static VF FN(fraction)(const Ranges *r, const VF *plane, const VF *share, VF *logit) {
    VF fine[N_FINE], zero = {0}, tiny = zero + TINY, high = zero + MAX_LOGIT, low = -high, highest = zero - 3e38f;
    VF burst = MAX(plane[4] / MAX(plane[2], tiny), zero);
    VF history = MAX((plane[3] - burst * plane[1]) / MAX(plane[0], tiny), zero);
    VF f = burst / MAX(history + burst, tiny);
    f = (f - r->least_fraction) / (r->most_fraction - r->least_fraction);
    f = MIN(MAX(f, zero + 1e-30f), zero + 1.0f);
    VF best = MIN(MAX(FN(logv)(f) - FN(logv)(MAX(1.0f - f, zero + 1e-30f)), low), high);
    FN(narrow)(r, plane, best, N_COARSE, &low, &high);
    FN(narrow)(r, plane, best, N_MIDDLE, &low, &high);
    VF step = (high - low) / (float)(N_FINE - 1);
    for (int j = 0; j < N_FINE; j++) {
        fine[j] = FN(log_height)(r, plane, low + step * (float)j);
        highest = MAX(highest, fine[j]);
    }
    for (int j = 0; j < N_FINE; j++) fine[j] = FN(expv)(fine[j] - highest);
    return FN(tabulated)(fine, N_FINE, low, step, share, logit);
}

/* The window is kept relative to the likeliest mass, near which it may be narrow. */
static VF FN(mass)(const Ranges *r, const VF *plane, VF logit, const VF *share, VF *ln_mass) {
    VF e = FN(expv)(-logit), u = FN(reciprocal)(1.0f + e), signal, off, one = (VF){0} + 1.0f, heights[N_MASS];
    VF peak = FN(filter)(r, plane, u, u * e, &signal, &off), low = signal * r->least_mass, high = signal * r->most_mass;
    VF best = MIN(MAX(peak, low), high), beyond = peak - best, ln_best = FN(logv)(best / signal);
    VF beyond_either = MAX(beyond, -beyond);
    VF reach = REACH * REACH / (beyond_either + SQRT(beyond * beyond + REACH * REACH));
    VF faintest = MAX(best - reach, FAINT * MIN(best, one));
    faintest = PICK(best * (peak - 0.5f * best) > 0.5f * DETECTED * DETECTED, faintest, low);
    VF lower = FN(logv)(MAX(low, faintest) / best);
    VF step = (FN(logv)(MIN(high / best, 1.0f + reach / best)) - lower) / (float)(N_MASS - 1);
    for (int j = 0; j < N_MASS; j++) {
        VF off_best = best * (FN(expv)(lower + step * (float)j) - 1.0f);
        heights[j] = FN(expv)(off_best * (beyond - 0.5f * off_best));
    }
    VF x = *ln_mass - ln_best, log_density = FN(tabulated)(heights, N_MASS, lower, step, share, &x);
    if (share) *ln_mass = x + ln_best;
    // What is not a number compares as false.
    return PICK(step > 0.0f, log_density, (VF){0} + __builtin_nanf(""));
}

static void FN(amplitudes)(const Ranges *r, long n, const float *plane, const float *share, float *logit, float *ln_mass,
                           float *log_q) {
    for (long first = 0; first < n; first += VL) {
        int m = n - first < VL ? n - first : VL;
        // The plane, shares, logit, logarithm of the mass.
        VF in[9] = {0};
        for (int k = 0; k < 5; k++) memcpy(in + k, plane + k * n + first, m * sizeof(float));
        for (int k = 0; k < 2 && share; k++) memcpy(in + 5 + k, share + k * n + first, m * sizeof(float));
        if (!share) {
            memcpy(in + 7, logit + first, m * sizeof(float));
            memcpy(in + 8, ln_mass + first, m * sizeof(float));
        }
        VF of_fraction = FN(fraction)(r, in, share ? in + 5 : 0, in + 7);
        VF of_mass = FN(mass)(r, in, in[7], share ? in + 6 : 0, in + 8);
        if (share) {
            memcpy(logit + first, in + 7, m * sizeof(float));
            memcpy(ln_mass + first, in + 8, m * sizeof(float));
        }
        memcpy(log_q + first, &of_fraction, m * sizeof(float));
        memcpy(log_q + n + first, &of_mass, m * sizeof(float));
    }
}

#undef NAME
#undef VL
#undef VT
#undef RT
#undef BELOW_RT
#undef MIN
#undef MAX
#undef GUESS
#undef SQRT
#undef ANY

#endif
