/* What occlusion does with differences: numbers of float32, or of bfloat16 (its upper half) worked on in float32.

   A patch holds a part of a map for every window, channels last: [windows, height, width, channels]. Where no patch
   lies the difference is zero. With HALF defined, numbers are halves. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))

#ifdef HALF
typedef uint16_t number;
ALWAYS float wide(number half) {
    union { uint32_t bits; float value; } both = {(uint32_t)half << 16};
    return both.value;
}
/* To the nearest, ties to even; what is no number stays none. */
ALWAYS number rounded(float value) {
    union { float value; uint32_t bits; } both = {value};
    const uint32_t nearest = (both.bits + 0x7fff + ((both.bits >> 16) & 1)) >> 16;
    return value != value ? 0x7fc0 : nearest;
}
#else
typedef float number;
ALWAYS float wide(number value) { return value; }
ALWAYS number rounded(float value) { return value; }
#endif

ALWAYS float between(float value, float low, float high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}
/* What an activation makes of a change of what it is applied to. */
ALWAYS float activated(float moved, float before, float low, float high) {
    return between(before, low, high) - between(before - moved, low, high);
}
ALWAYS int64_t least(int64_t one, int64_t other) { return one < other ? one : other; }
ALWAYS int64_t most(int64_t one, int64_t other) { return one > other ? one : other; }

/* PyTorch's own: it shares work among the threads that PyTorch has. */
typedef int32_t Parallel(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *), void *);
static void shared_out(Parallel *parallel, int64_t begin, int64_t end, void (*work)(int64_t, int64_t, void *),
                       void *given) {
    if (!parallel || parallel(begin, end, 1, work, given)) work(begin, end, given);
}

typedef struct {
    const number *values; /* null: there is none */
    int64_t since;        /* the window that comes first in it */
    int64_t height, width;
    const int64_t *tops, *lefts; /* of each row and each column of windows, on the map */
} Patch;

/* What is made: for some of the windows their part of a map, and the activation that is applied to it. */
typedef struct {
    number *made;
    int64_t begin, end; /* the windows */
    int64_t cols;       /* columns of windows */
    int64_t height, width, channels;
    const int64_t *tops, *lefts;
    const float *before; /* [map height, map width, channels]: what it is applied to, clean; null: there is none */
    int64_t across;      /* width of the map */
    float low, high;
} Parts;

typedef struct {
    Patch patches[2]; /* which are added */
    int64_t channels, first; /* of both; the first of them in what is made */
} Piece;

typedef struct {
    Parts parts;
    const Piece *pieces;
    int64_t count;
    const float *scale; /* [channels], or null: 1 */
} Join;

/* Some positions: their number, and the distances from one to the next. */
typedef struct {
    int64_t count, channels, from, to;
} Run;

ALWAYS void change(number *made, int64_t count, const number *one, const number *other, const float *scale,
                   const float *before, float low, float high) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; i++) {
        float moved = wide(one[i]);
        if (other) moved += wide(other[i]);
        if (scale) moved *= scale[i];
        if (before) moved = activated(moved, before[i], low, high);
        made[i] = rounded(moved);
    }
}

ALWAYS void clipped(number *made, int64_t count, const float *moved, const float *before, float low, float high) {
    for (int64_t i = 0; i < count; i++)
        made[i] = rounded(before ? activated(moved[i], before[i], low, high) : moved[i]);
}

ALWAYS void greatest(float *best, int64_t count, const float *clean, const number *moved) {
    for (int64_t i = 0; i < count; i++) {
        const float value = moved ? clean[i] - wide(moved[i]) : clean[i];
        best[i] = value > best[i] || value != value ? value : best[i]; /* what is no number stays none */
    }
}

enum { BLOCK = 32 };

/* What is null is known where this is called: a loop of its own for each case. */
ALWAYS void along(number *made, Run run, const number *one, const number *other, const float *scale, const float *before,
                  float low, float high) {
    for (int64_t i = 0; i < run.count; i++, made += run.to, one += run.from) {
        int64_t c = 0;
        for (; c + BLOCK <= run.channels; c += BLOCK)
            change(made + c, BLOCK, one + c, other ? other + c : 0, scale ? scale + c : 0, before ? before + c : 0,
                   low, high);
        change(made + c, run.channels - c, one + c, other ? other + c : 0, scale ? scale + c : 0,
               before ? before + c : 0, low, high);
        if (other) other += run.from;
        if (before) before += run.to;
    }
}

static void joined(number *made, Run run, const number *one, const number *other, const float *scale, const float *before,
                   float low, float high) {
    if (!one) {
        one = other;
        other = 0;
    }
    if (!one || (!other && !scale && !before)) {
        for (int64_t i = 0; i < run.count; i++, made += run.to)
            if (!one) memset(made, 0, run.channels * sizeof(number));
            else if (made != one + i * run.from) memcpy(made, one + i * run.from, run.channels * sizeof(number));
    }
    else if (other && scale && before) along(made, run, one, other, scale, before, low, high);
    else if (other && scale) along(made, run, one, other, scale, 0, 0, 0);
    else if (other && before) along(made, run, one, other, 0, before, low, high);
    else if (other) along(made, run, one, other, 0, 0, 0, 0);
    else if (scale && before) along(made, run, one, 0, scale, before, low, high);
    else if (scale) along(made, run, one, 0, scale, 0, 0, 0);
    else along(made, run, one, 0, 0, before, low, high);
}

/* Where a row of a window's part begins, and what the activation is applied to there. */
ALWAYS number *made_at(const Parts *parts, int64_t window, int64_t y) {
    return parts->made + ((window - parts->begin) * parts->height + y) * parts->width * parts->channels;
}
ALWAYS const float *before_at(const Parts *parts, int64_t window, int64_t y) {
    const int64_t top = parts->tops[window / parts->cols] + y, left = parts->lefts[window % parts->cols];
    return parts->before ? parts->before + (top * parts->across + left) * parts->channels : 0;
}

/* What a patch has of a row of the map from a position of it on, and from where to where: [from, to) of that. */
typedef struct {
    const number *line;
    int64_t from, to;
} Seen;

ALWAYS Seen seen_of(const Patch *patch, const Parts *parts, int64_t window, int64_t top, int64_t left, int64_t width,
                    int64_t channels) {
    const int64_t row = window / parts->cols, col = window % parts->cols;
    const int64_t y = patch->values ? top - patch->tops[row] : -1, shift = patch->lefts ? patch->lefts[col] - left : 0;
    if (y < 0 || y >= patch->height) return (Seen){0, 0, 0};
    return (Seen){patch->values + (((window - patch->since) * patch->height + y) * patch->width - shift) * channels,
                  most(shift, 0), least(shift + patch->width, width)};
}

/* One row of positions of one piece. */
static void join_row(const Join *join, const Piece *piece, int64_t window, int64_t y) {
    const Parts *parts = &join->parts;
    const int64_t top = parts->tops[window / parts->cols] + y, left = parts->lefts[window % parts->cols];
    const int64_t channels = piece->channels, all = parts->channels, first = piece->first;
    Seen lines[2];
    for (int k = 0; k < 2; k++) lines[k] = seen_of(&piece->patches[k], parts, window, top, left, parts->width, channels);
    number *made = made_at(parts, window, y) + first;
    const float *before = before_at(parts, window, y), *scale = join->scale ? join->scale + first : 0;
    if (before) before += first;
    for (int64_t x = 0, next; x < parts->width; x = next) {
        const number *seen[2] = {0, 0};
        next = parts->width;
        for (int k = 0; k < 2; k++) {
            if (!lines[k].line || x >= lines[k].to) continue;
            if (x < lines[k].from) next = least(next, lines[k].from);
            else {
                next = least(next, lines[k].to);
                seen[k] = lines[k].line + x * channels;
            }
        }
        Run run = {next - x, channels, channels, all};
        /* Positions that lie side by side in all that is read and written are one. */
        if (channels == all && !scale) run = (Run){1, run.count * channels, 0, 0};
        joined(made + x * all, run, seen[0], seen[1], scale, before ? before + x * all : 0, parts->low, parts->high);
    }
}

static void join_windows(int64_t begin, int64_t end, void *given) {
    const Join *join = given;
    for (int64_t window = begin; window < end; window++)
        for (int64_t y = 0; y < join->parts.height; y++)
            for (int64_t i = 0; i < join->count; i++) join_row(join, join->pieces + i, window, y);
}

void join(Join *given, Parallel *parallel) {
    shared_out(parallel, given->parts.begin, given->parts.end, join_windows, given);
}

/* A kernel that slides over each channel by itself. */
typedef struct {
    Parts parts;
    Patch patch;
    int64_t kernel[2], stride[2], padding[2];
    const float *weights; /* [blocks of channels, kernel, BLOCK], of a convolution */
    const float *clean;   /* [map height, map width, channels] of what it slides over, and */
    const float *largest; /* the same of the result, of a pooling */
    int64_t size[2];      /* of the first of these */
} Slide;

enum { LANES = 16, BESIDE = 4 };
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* A block of channels of what a window's kernel sees, with zeros around it: [tall, across], two vectors each. */
static void look(const Slide *slide, int64_t window, int64_t channel, lanes *seen, int64_t tall, int64_t across) {
    const Parts *parts = &slide->parts;
    const int64_t top = parts->tops[window / parts->cols] * slide->stride[0] - slide->padding[0];
    const int64_t left = parts->lefts[window % parts->cols] * slide->stride[1] - slide->padding[1];
    const int64_t count = least(parts->channels - channel, BLOCK);
    for (int64_t y = 0; y < tall; y++, seen += 2 * across) {
        const Seen row = seen_of(&slide->patch, parts, window, top + y, left, across, parts->channels);
        const int64_t from = row.line ? most(least(row.from, across), 0) : across, to = row.line ? most(row.to, from) : across;
        memset(seen, 0, from * 2 * sizeof(lanes));
        memset(seen + 2 * to, 0, (across - to) * 2 * sizeof(lanes));
        for (int64_t x = from; x < to; x++) {
            const number *source = row.line + x * parts->channels + channel;
            float *target = (float *)(seen + 2 * x);
            if (count == BLOCK)
                for (int c = 0; c < BLOCK; c++) target[c] = wide(source[c]);
            else
                for (int c = 0; c < BLOCK; c++) target[c] = c < count ? wide(source[c]) : 0;
        }
    }
}

/* Results side by side, of a block of channels; those beyond the part are thrown away. */
ALWAYS void multiply(const Slide *slide, const lanes *seen, int64_t across, const lanes *weights, lanes *sum) {
    lanes a0 = {0}, a1 = {0}, b0 = {0}, b1 = {0}, c0 = {0}, c1 = {0}, d0 = {0}, d1 = {0};
    const int64_t step = 2 * slide->stride[1];
    for (int64_t r = 0; r < slide->kernel[0]; r++, seen += 2 * across) {
        const lanes *at = seen;
        for (int64_t k = 0; k < slide->kernel[1]; k++, weights += 2, at += 2) {
            const lanes w0 = weights[0], w1 = weights[1];
            a0 += at[0] * w0;
            a1 += at[1] * w1;
            b0 += at[step] * w0;
            b1 += at[step + 1] * w1;
            c0 += at[2 * step] * w0;
            c1 += at[2 * step + 1] * w1;
            d0 += at[3 * step] * w0;
            d1 += at[3 * step + 1] * w1;
        }
    }
    sum[0] = a0, sum[1] = a1, sum[2] = b0, sum[3] = b1, sum[4] = c0, sum[5] = c1, sum[6] = d0, sum[7] = d1;
}

static void convolve_windows(int64_t begin, int64_t end, void *given) {
    const Slide *slide = given;
    const Parts *parts = &slide->parts;
    const int64_t taps = slide->kernel[0] * slide->kernel[1], width = (parts->width + BESIDE - 1) / BESIDE * BESIDE;
    const int64_t tall = (parts->height - 1) * slide->stride[0] + slide->kernel[0];
    const int64_t across = (width - 1) * slide->stride[1] + slide->kernel[1];
    lanes *seen = aligned_alloc(4 * LANES, tall * across * 2 * sizeof(lanes)), sum[BESIDE * 2];
    if (!seen) abort(); /* as C++ would; it is some kilobytes */
    for (int64_t window = begin; window < end; window++) {
        for (int64_t channel = 0; channel < parts->channels; channel += BLOCK) {
            const int64_t count = least(parts->channels - channel, BLOCK);
            const lanes *weights = (const lanes *)(slide->weights + channel * taps);
            look(slide, window, channel, seen, tall, across);
            for (int64_t y = 0; y < parts->height; y++) {
                number *made = made_at(parts, window, y) + channel;
                const float *before = before_at(parts, window, y);
                if (before) before += channel;
                const lanes *row = seen + y * slide->stride[0] * across * 2;
                for (int64_t x = 0; x < parts->width; x += BESIDE) {
                    multiply(slide, row + x * slide->stride[1] * 2, across, weights, sum);
                    for (int64_t i = 0; i < least(BESIDE, parts->width - x); i++) {
                        number *to = made + (x + i) * parts->channels;
                        const float *at = before ? before + (x + i) * parts->channels : 0;
                        const float *moved = (const float *)(sum + 2 * i);
                        if (count < BLOCK) clipped(to, count, moved, at, parts->low, parts->high);
                        else if (at) clipped(to, BLOCK, moved, at, parts->low, parts->high);
                        else clipped(to, BLOCK, moved, 0, 0, 0);
                    }
                }
            }
        }
    }
    free(seen);
}

void convolve(Slide *given, Parallel *parallel) {
    shared_out(parallel, given->parts.begin, given->parts.end, convolve_windows, given);
}

/* The largest of what is seen, less than it is in the clean map. */
static void pool_position(const Slide *slide, int64_t window, int64_t y, int64_t x, number *made) {
    const Parts *parts = &slide->parts;
    const int64_t channels = parts->channels, row = parts->tops[window / parts->cols] + y;
    const int64_t col = parts->lefts[window % parts->cols] + x;
    const int64_t top = row * slide->stride[0] - slide->padding[0], left = col * slide->stride[1] - slide->padding[1];
    const float *largest = slide->largest + (row * parts->across + col) * channels;
    for (int64_t channel = 0; channel < channels; channel += BLOCK) {
        const int64_t count = least(channels - channel, BLOCK);
        float best[BLOCK];
        for (int64_t c = 0; c < BLOCK; c++) best[c] = -INFINITY;
        for (int64_t v = most(top, 0); v < least(top + slide->kernel[0], slide->size[0]); v++) {
            const Seen line = seen_of(&slide->patch, parts, window, v, 0, slide->size[1], channels);
            for (int64_t u = most(left, 0); u < least(left + slide->kernel[1], slide->size[1]); u++) {
                const float *clean = slide->clean + (v * slide->size[1] + u) * channels + channel;
                const int there = line.line && u >= line.from && u < line.to;
                const number *moved = there ? line.line + u * channels + channel : 0;
                if (count == BLOCK) greatest(best, BLOCK, clean, moved);
                else greatest(best, count, clean, moved);
            }
        }
        for (int64_t c = 0; c < count; c++) made[channel + c] = rounded(largest[channel + c] - best[c]);
    }
}

static void pool_windows(int64_t begin, int64_t end, void *given) {
    const Slide *slide = given;
    for (int64_t window = begin; window < end; window++)
        for (int64_t y = 0; y < slide->parts.height; y++)
            for (int64_t x = 0; x < slide->parts.width; x++)
                pool_position(slide, window, y, x, made_at(&slide->parts, window, y) + x * slide->parts.channels);
}

void pool(Slide *given, Parallel *parallel) {
    shared_out(parallel, given->parts.begin, given->parts.end, pool_windows, given);
}
