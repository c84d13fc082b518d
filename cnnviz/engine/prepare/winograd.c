/* Convolutions of 3 x 3 by F(2 x 2, 3 x 3) of Winograd, channels last, in float32.

   A tile of 4 x 4 inputs d makes 2 x 2 outputs: A' [(G g G') (B' d B)] A, summed over input channels, with

       B' = 1  0 -1  0     A' = 1  1  1  0
            0  1  1  0          0  1 -1 -1
            0 -1  1  0
            0  1  0 -1

   16 products where the sum of products has 36 (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks",
   2016). The weights G g G' come transformed. For each of the 16 positions of a tile the sum over channels is a product
   of matrices, tiles by input channels by output channels. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Numbers of a vector, and tiles multiplied at a time: as many as there are registers for. */
#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 14 };
#else
enum { LANES = 8, ROWS = 6 };
#endif
enum {
    POSITIONS = 16,
    GROUP = 2 * LANES,
    AHEAD = 16,      /* channels from what is multiplied to the weights that are fetched */
    ABREAST = 2,     /* blocks of tiles that share weights while these are near */
    ROOM = 1 << 19,  /* bytes of transformed tiles at a time: a quarter of the cache of a core, or half of it */
};
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

ALWAYS lanes load(const float *from) { return *(const lanes *)from; }
ALWAYS void store(float *to, lanes values) { *(lanes *)to = values; }
ALWAYS int64_t least(int64_t one, int64_t other) { return one < other ? one : other; }
ALWAYS int64_t most(int64_t one, int64_t other) { return one > other ? one : other; }
ALWAYS int64_t over(int64_t count, int64_t by) { return (count + by - 1) / by; }

/* PyTorch's own: it shares work among the threads that PyTorch has. */
typedef int32_t Parallel(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *), void *);
static void share_out(Parallel *parallel, int64_t count, void (*work)(int64_t, int64_t, void *), void *given) {
    if (!parallel || parallel(0, count, 1, work, given)) work(0, count, given);
}

typedef struct {
    const float *image; /* [images, height, width, channels] */
    float *made;        /* [images, tall, across, kinds] */
    const float *other; /* of the same shape, is added; it may be what is made; null: there is none */
    const float *weights; /* [groups, POSITIONS, channels, GROUP]; beyond the kinds zero */
    const float *bias;  /* [kinds], or null */
    int64_t images, height, width, channels, kinds, tall, across;
    int64_t top, left;  /* padding */
    int64_t clips;      /* whether results are clipped to [low, high] */
    float low, high;
    int64_t threads;
} Convolution;

/* The work: blocks of ROWS tiles, so many at a time; a thread does one of `parts` shares of the output channels. */
typedef struct {
    const Convolution *of;
    const float *nothing; /* [channels] of zeros: what lies outside */
    int64_t down, beside, tiles; /* tiles of an image, and of all */
    int64_t stride; /* from a tile to the next, transformed */
    int64_t blocks, together, parts;
} Work;

typedef struct {
    int64_t image, y, x; /* of its first output */
} Tile;

ALWAYS Tile tile_at(const Work *work, int64_t number) {
    return (Tile){number / (work->down * work->beside), number / work->beside % work->down * 2,
                  number % work->beside * 2};
}

/* B' d B of a tile: for each position its channels, `apart` from one position to the next. */
static void transform(const Work *work, Tile tile, float *made, int64_t apart) {
    const Convolution *of = work->of;
    const float *seen[POSITIONS];
    for (int i = 0; i < POSITIONS; i++) {
        const int64_t y = tile.y - of->top + i / 4, x = tile.x - of->left + i % 4;
        const int inside = y >= 0 && y < of->height && x >= 0 && x < of->width;
        seen[i] = inside ? of->image + ((tile.image * of->height + y) * of->width + x) * of->channels : work->nothing;
    }
    for (int64_t c = 0; c < of->channels; c += LANES) {
        lanes half[POSITIONS];
        UNROLL for (int j = 0; j < 4; j++) {
            const lanes a = load(seen[j] + c), b = load(seen[4 + j] + c), d = load(seen[8 + j] + c);
            half[j] = a - d;
            half[4 + j] = b + d;
            half[8 + j] = d - b;
            half[12 + j] = b - load(seen[12 + j] + c);
        }
        float *to = made + c;
        UNROLL for (int i = 0; i < POSITIONS; i += 4, to += 4 * apart) {
            store(to, half[i] - half[i + 2]);
            store(to + apart, half[i + 1] + half[i + 2]);
            store(to + 2 * apart, half[i + 2] - half[i + 1]);
            store(to + 3 * apart, half[i + 1] - half[i + 3]);
        }
    }
}

/* Some tiles by a group of output channels. */
ALWAYS void multiply(const int rows, const float *tiles, int64_t stride, const float *weights, int64_t channels,
                     float *sums) {
    lanes sum[ROWS][2];
    UNROLL for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = (lanes){0};
    for (int64_t c = 0; c < channels; c++, weights += GROUP) {
        const lanes one = load(weights), two = load(weights + LANES);
        __builtin_prefetch(weights + AHEAD * GROUP);
        __builtin_prefetch(weights + AHEAD * GROUP + LANES);
        UNROLL for (int i = 0; i < rows; i++) {
            const float value = tiles[i * stride + c];
            sum[i][0] += value * one;
            sum[i][1] += value * two;
        }
    }
    UNROLL for (int i = 0; i < rows; i++) {
        store(sums + i * GROUP, sum[i][0]);
        store(sums + i * GROUP + LANES, sum[i][1]);
    }
}

ALWAYS lanes clipped(const Convolution *of, lanes value) {
    if (of->clips)
        for (int i = 0; i < LANES; i++) {
            const float low = value[i] < of->low ? of->low : value[i];
            value[i] = low > of->high ? of->high : low;
        }
    return value;
}

/* A' m A of a tile for a vector of output channels, bias, addition and clipping. */
static void finish(const Work *work, Tile tile, const float *sums, int64_t kind) {
    const Convolution *of = work->of;
    const lanes bias = of->bias ? load(of->bias + kind) : (lanes){0};
    lanes half[8];
    UNROLL for (int j = 0; j < 4; j++) {
        const lanes a = load(sums + j * ROWS * GROUP), b = load(sums + (4 + j) * ROWS * GROUP);
        const lanes c = load(sums + (8 + j) * ROWS * GROUP), d = load(sums + (12 + j) * ROWS * GROUP);
        half[j] = a + b + c;
        half[4 + j] = b - c - d;
    }
    for (int64_t i = 0; i < least(2, of->tall - tile.y); i++) {
        const lanes *row = half + 4 * i;
        const lanes pair[2] = {row[0] + row[1] + row[2] + bias, row[1] - row[2] - row[3] + bias};
        int64_t at = ((tile.image * of->tall + tile.y + i) * of->across + tile.x) * of->kinds + kind;
        for (int64_t j = 0; j < least(2, of->across - tile.x); j++, at += of->kinds) {
            lanes value = pair[j];
            if (of->other) value += load(of->other + at);
            store(of->made + at, clipped(of, value));
        }
    }
}

/* A group of output channels of some blocks of tiles. */
static void group_of_blocks(const Work *work, int64_t block, int64_t count, int64_t group, const float *tiles,
                            float *sums) {
    const Convolution *of = work->of;
    const float *weights = of->weights + group * POSITIONS * of->channels * GROUP;
    for (int i = 0; i < POSITIONS; i++, weights += of->channels * GROUP)
        for (int64_t k = 0; k < count; k++) {
            const float *from = tiles + (k * POSITIONS + i) * ROWS * work->stride;
            float *to = sums + (k * POSITIONS + i) * ROWS * GROUP;
            if (work->tiles - (block + k) * ROWS > ROWS / 2)
                multiply(ROWS, from, work->stride, weights, of->channels, to);
            else multiply(ROWS / 2, from, work->stride, weights, of->channels, to);
        }
    const int64_t kind = group * GROUP, first = block * ROWS;
    for (int64_t i = 0; i < least(count * ROWS, work->tiles - first); i++) {
        const Tile tile = tile_at(work, first + i);
        const float *sum = sums + (i / ROWS * POSITIONS * ROWS + i % ROWS) * GROUP;
        finish(work, tile, sum, kind);
        if (kind + LANES < of->kinds) finish(work, tile, sum + LANES, kind + LANES);
    }
}

/* Some blocks of tiles, transformed: [blocks, POSITIONS, ROWS, stride]. */
static void transform_blocks(const Work *work, int64_t block, int64_t last, float *made) {
    const int64_t apart = ROWS * work->stride;
    for (int64_t row = 0; row < (last - block) * ROWS; row++) {
        const int64_t number = block * ROWS + row;
        float *to = made + row / ROWS * POSITIONS * apart + row % ROWS * work->stride;
        if (number < work->tiles) transform(work, tile_at(work, number), to, apart);
        else /* is multiplied with the others, and nobody reads the result */
            for (int i = 0; i < POSITIONS; i++) memset(to + i * apart, 0, work->of->channels * sizeof(float));
    }
}

static void do_shares(int64_t begin, int64_t end, void *given) {
    const Work *work = given;
    const int64_t groups = over(work->of->kinds, GROUP), size = POSITIONS * ROWS * work->stride;
    float *tiles = aligned_alloc(64, work->together * size * sizeof(float));
    float *sums = aligned_alloc(64, ABREAST * POSITIONS * ROWS * GROUP * sizeof(float));
    if (!tiles || !sums) abort(); /* as C++ would; it is little more than ROOM */
    for (int64_t share = begin; share < end; share++) {
        const int64_t first = share / work->parts * work->together, part = share % work->parts;
        const int64_t last = least(first + work->together, work->blocks);
        if (!part || share == begin) transform_blocks(work, first, last, tiles);
        for (int64_t group = groups * part / work->parts; group < groups * (part + 1) / work->parts; group++)
            for (int64_t block = first; block < last; block += ABREAST)
                group_of_blocks(work, block, least(ABREAST, last - block), group, tiles + (block - first) * size, sums);
    }
    free(tiles);
    free(sums);
}

void convolve(const Convolution *of, Parallel *parallel) {
    Work work = {of, calloc(of->channels, sizeof(float)), over(of->tall, 2), over(of->across, 2)};
    if (!work.nothing) abort();
    work.tiles = of->images * work.down * work.beside;
    work.blocks = over(work.tiles, ROWS);
    work.stride = of->channels + 16; /* rows of a power of two would lie in the same places of the cache */
    const int64_t fitting = ROOM / (POSITIONS * ROWS * work.stride * sizeof(float));
    work.together = least(over(work.blocks, of->threads), most(fitting, 1));
    const int64_t units = over(work.blocks, work.together);
    work.parts = least(over(of->threads, units), over(of->kinds, GROUP));
    share_out(parallel, units * work.parts, do_shares, &work);
    free((void *)work.nothing);
}

typedef struct {
    const float *plain; /* [kinds, channels, 3, 3] */
    float *made;        /* [groups, POSITIONS, channels, GROUP] */
    int64_t kinds, channels;
} Weights;

/* G g, of three rows of numbers that lie `apart`; G' = 1 1/2  1/2 0 / 0 1/2 -1/2 0 / 0 1/2 1/2 1. */
ALWAYS void spread(const float *three, int apart, float *four, int further) {
    for (int k = 0; k < GROUP; k++) {
        const double first = three[k], middle = three[apart + k], last = three[2 * apart + k];
        four[k] = (float)first;
        four[further + k] = (float)((first + last + middle) / 2);
        four[2 * further + k] = (float)((first + last - middle) / 2);
        four[3 * further + k] = (float)last;
    }
}

static void transform_weights(int64_t begin, int64_t end, void *given) {
    const Weights *of = given;
    const int64_t position = of->channels * GROUP;
    for (int64_t group = begin; group < end; group++) {
        const float *plain = of->plain + group * GROUP * of->channels * 9;
        float *made = of->made + group * POSITIONS * position, kernel[9 * GROUP] = {0}, half[12 * GROUP];
        const int64_t count = least(GROUP, of->kinds - group * GROUP);
        for (int64_t c = 0; c < of->channels; c++, plain += 9, made += GROUP) {
            for (int64_t k = 0; k < count; k++)
                for (int i = 0; i < 9; i++) kernel[i * GROUP + k] = plain[k * of->channels * 9 + i];
            for (int y = 0; y < 3; y++) spread(kernel + 3 * y * GROUP, GROUP, half + 4 * y * GROUP, GROUP);
            for (int x = 0; x < 4; x++) spread(half + x * GROUP, 4 * GROUP, made + x * position, 4 * position);
        }
    }
}

void order(Weights *of, Parallel *parallel) {
    share_out(parallel, over(of->kinds, GROUP), transform_weights, of);
}

/* Of how many output channels a group of weights is; 0 where the processor is none that this is written for. */
int64_t group_size(void) {
#if defined(__AVX2__) && defined(__FMA__)
    return GROUP;
#else
    return 0;
#endif
}
