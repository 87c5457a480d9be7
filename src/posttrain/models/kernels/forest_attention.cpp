// Attention over a forest of prefixes in bfloat16, forward and backward, for x86 CPUs with AVX512-BF16.
//
// What attention.py computes, a few query rows at a time, so that scores of paths up to some thousand tokens stay in the second-level
// cache: products in bfloat16 with float32 sums, softmax in float32, its exponentials and gradients rounded to bfloat16 before the next
// product.
//
// A tree of the forest is worked on in its own columns: one a token, every node beginning at a multiple of 16 and filled up with zeros.
// So a path is a few runs of whole vectors, and keys and values are packed once a tree. Work is cut by (key-value head, tree), and where
// that is too little for the threads, by parts of a tree. Every part adds up its own gradients of keys and values, and they are summed in
// a fixed order: gradients depend on the number of threads, nothing on their timing.

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t BLOCK_ROWS = 96;       // query rows (heads of a group x tokens) worked on together
constexpr int64_t BLOCK_SCORES = 1 << 16;  // aim for rows x columns of a block: 256 KB of float32; 16 rows are taken on any path
constexpr int64_t MAX_PART_BYTES = 256 << 20;  // of all parts' sums

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

struct Tensor {  // element (head, token, i) at data[head * head_stride + token * token_stride + i]
    uint16_t* data;
    int64_t head_stride, token_stride;
    uint16_t* row(int64_t head, int64_t token) const { return data + head * head_stride + token * token_stride; }
};

struct Node {
    int64_t first, last, parent, column;
};

struct Tree {
    int64_t first_node, last_node, column, columns;
    double work;
};

struct Span {  // keys of one node on a path: `length` tokens from tree column `column`, at `local` in the block's scores; the first one's
    int64_t column, length, local, position;  // place on the path
};

struct Block {
    int64_t head, token, rows, position;  // first query row, their number, its place on the path
    int64_t columns;                      // of its scores
    std::vector<Span> spans;
};

struct Problem {
    int64_t heads, kv_heads, width, window;
    std::vector<Node> nodes;
    std::vector<Tree> trees;
    int64_t columns = 0;
    int64_t group() const { return heads / kv_heads; }
};

Problem read_problem(const int64_t* sizes, const int64_t* rows, int64_t count) {
    Problem problem{sizes[0], sizes[1], sizes[2], sizes[3], {}, {}};
    std::vector<int64_t> before(count);
    for (int64_t i = 0; i < count; i++) {
        const int64_t first = rows[4 * i], last = rows[4 * i + 1], parent = rows[4 * i + 2];
        if (parent < 0) problem.trees.push_back({i, i, problem.columns, 0, 0.0});
        Tree& tree = problem.trees.back();
        problem.nodes.push_back({first, last, parent, tree.columns});
        before[i] = parent < 0 ? 0 : before[parent] + problem.nodes[parent].last - problem.nodes[parent].first;
        tree.last_node = i + 1;
        tree.columns += round_up(last - first, LANES);
        tree.work += double(last - first) * double(before[i] + (last - first) / 2 + 1);
        problem.columns = tree.column + tree.columns;
    }
    return problem;
}

// Query blocks of a tree. Each sees its ancestors' tokens and those of its own node up to its last row.
std::vector<Block> cut_blocks(const Problem& problem, const Tree& tree, int64_t kv_head) {
    std::vector<Block> blocks;
    for (int64_t n = tree.first_node; n < tree.last_node; n++) {
        std::vector<int64_t> chain;
        for (int64_t i = n; i >= 0; i = problem.nodes[i].parent) chain.push_back(i);
        std::reverse(chain.begin(), chain.end());
        int64_t past = 0;
        for (size_t i = 0; i + 1 < chain.size(); i++) past += problem.nodes[chain[i]].last - problem.nodes[chain[i]].first;
        const Node& node = problem.nodes[n];
        int64_t rows = 0;
        for (int64_t token = node.first; token < node.last; token += rows) {
            int64_t seen = past + token - node.first + 1;
            if (problem.window) seen = std::min(seen, problem.window + BLOCK_ROWS);
            rows = std::min(BLOCK_ROWS, std::max<int64_t>(BLOCK_SCORES / round_up(seen, LANES), LANES)) / problem.group();
            rows = std::min(std::max<int64_t>(rows, 1), node.last - token);
            Block block{kv_head * problem.group(), token, rows, past + token - node.first, 0, {}};
            int64_t position = 0;
            for (int64_t i : chain) {
                const int64_t length = i == n ? token + rows - node.first : problem.nodes[i].last - problem.nodes[i].first;
                int64_t skipped = 0;
                if (problem.window) skipped = std::max<int64_t>(0, block.position - problem.window + 1 - position) / LANES * LANES;
                if (skipped < length) {
                    block.spans.push_back({problem.nodes[i].column + skipped, length - skipped, block.columns, position + skipped});
                    block.columns += round_up(length - skipped, LANES);
                }
                position += length;
            }
            blocks.push_back(std::move(block));
        }
    }
    return blocks;
}

// C [rows, 16 vectors] (+)= A B over `pairs` pairs of bfloat16: a pair of A is at a[row * row_stride + pair * pair_stride], pair p of
// column j of B at b[p * b_stride + j].
template <int ROWS, int VECTORS>
void multiply_tile(int64_t pairs, const uint32_t* a, int64_t row_stride, int64_t pair_stride, const uint32_t* b, int64_t b_stride, float* c,
                   int64_t c_stride, bool add) {
    __m512 sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sum[r][v] = add ? _mm512_loadu_ps(c + r * c_stride + v * LANES) : _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh column[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) column[v] = (__m512bh)_mm512_loadu_si512(b + p * b_stride + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const __m512bh row = (__m512bh)_mm512_set1_epi32(int(a[r * row_stride + p * pair_stride]));
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], row, column[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(c + r * c_stride + v * LANES, sum[r][v]);
}

using Tile = void (*)(int64_t, const uint32_t*, int64_t, int64_t, const uint32_t*, int64_t, float*, int64_t, bool);
constexpr int TILE_ROWS = 6, TILE_VECTORS = 4;

template <int R>
constexpr Tile tile_of(int vectors) {
    constexpr Tile tiles[] = {multiply_tile<R, 1>, multiply_tile<R, 2>, multiply_tile<R, 3>, multiply_tile<R, 4>};
    return tiles[vectors - 1];
}

Tile choose_tile(int64_t rows, int64_t vectors) {
    switch (rows) {
        case 1: return tile_of<1>(int(vectors));
        case 2: return tile_of<2>(int(vectors));
        case 3: return tile_of<3>(int(vectors));
        case 4: return tile_of<4>(int(vectors));
        case 5: return tile_of<5>(int(vectors));
        default: return tile_of<6>(int(vectors));
    }
}

void multiply(int64_t rows, int64_t columns, int64_t pairs, const uint32_t* a, int64_t row_stride, int64_t pair_stride, const uint32_t* b,
              int64_t b_stride, float* c, int64_t c_stride, bool add) {
    for (int64_t j = 0; j < columns; j += TILE_VECTORS * LANES) {
        const int64_t vectors = std::min<int64_t>(TILE_VECTORS, (columns - j) / LANES);
        for (int64_t r = 0; r < rows; r += TILE_ROWS) {
            const Tile tile = choose_tile(std::min<int64_t>(TILE_ROWS, rows - r), vectors);
            tile(pairs, a + r * row_stride, row_stride, pair_stride, b + j, b_stride, c + r * c_stride + j, c_stride, add);
        }
    }
}

__m512i widen(__m256i halves) { return _mm512_cvtepu16_epi32(halves); }
__m256i narrow(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }
__m512i pair_up(__m256i low, __m256i high) { return _mm512_or_si512(widen(low), _mm512_slli_epi32(widen(high), 16)); }
__m256i load_halves(const uint16_t* from) { return _mm256_loadu_si256((const __m256i*)from); }

// Rows two by two: out[row / 2][i] = (row i, next row i); a missing last row counts as zeros. `rows_of(r)` is row r, or null for zeros.
template <class Rows>
void pack_pairs(int64_t rows, int64_t width, Rows rows_of, uint32_t* out) {
    for (int64_t r = 0; r < rows; r += 2) {
        const uint16_t *low = rows_of(r), *high = r + 1 < rows ? rows_of(r + 1) : nullptr;
        for (int64_t i = 0; i < width; i += LANES) {
            const __m256i zero = _mm256_setzero_si256();
            _mm512_storeu_si512(out + r / 2 * width + i, pair_up(low ? load_halves(low + i) : zero, high ? load_halves(high + i) : zero));
        }
    }
}

// out[pair][column] = (element 2 pair, element 2 pair + 1) of the token in that column; zeros where there is none.
template <class Rows>
void pack_transposed(int64_t columns, int64_t width, Rows rows_of, uint32_t* out) {
    for (int64_t c = 0; c < columns; c++) {
        const uint16_t* row = rows_of(c);
        for (int64_t p = 0; p < width / 2; p++) {
            uint32_t pair = 0;
            if (row) std::memcpy(&pair, row + 2 * p, sizeof pair);
            out[p * columns + c] = pair;
        }
    }
}

__m512 exponential(__m512 x) {  // of x <= 0, or not a number; 2^f by its series up to f^6, |f| <= 1/2
    const __m512 t = _mm512_max_ps(_mm512_set1_ps(-150.0f), _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)));  // gives the second where it is NaN
    const __m512 whole = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(t, whole);
    __m512 sum = _mm512_set1_ps(1.5403530e-4f);
    for (float factor : {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f})
        sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(factor));
    return _mm512_scalef_ps(sum, whole);
}

// Calls `visit(column in the block's scores, mask)` for every vector of a block; the mask holds the keys that path position `position` sees.
template <class Visit>
void for_each_vector(const Block& block, int64_t position, int64_t window, Visit visit) {
    for (const Span& span : block.spans) {
        const int64_t end = std::min(span.length, position + 1 - span.position);
        const int64_t begin = window ? std::max<int64_t>(0, position - window + 1 - span.position) : 0;
        for (int64_t i = 0; i < span.length; i += LANES) {
            const int64_t high = std::clamp<int64_t>(end - i, 0, LANES), low = std::clamp<int64_t>(begin - i, 0, LANES);
            visit(span.local + i, __mmask16(((1u << high) - 1) & ~((1u << low) - 1)));
        }
    }
}

float largest_score(const Block& block, int64_t position, int64_t window, const float* scores) {
    __m512 largest = _mm512_set1_ps(-INFINITY);
    for_each_vector(block, position, window, [&](int64_t column, __mmask16 seen) {
        largest = _mm512_mask_max_ps(largest, seen, largest, _mm512_loadu_ps(scores + column));
    });
    return _mm512_reduce_max_ps(largest);
}

// Buffers of one thread, grown as needed and used again.
template <class T>
struct Buffer {
    std::unique_ptr<T[]> data;
    int64_t size = 0;
    T* at_least(int64_t wanted) {
        if (wanted > size) {
            data.reset();
            size = 0;
            data.reset(new T[wanted + wanted / 4]);
            size = wanted + wanted / 4;
        }
        return data.get();
    }
};

// Token rows of a tree by its columns.
struct TreeRows {
    std::vector<int64_t> tokens;  // of each column, -1 for filling
    TreeRows(const Problem& problem, const Tree& tree) : tokens(tree.columns, -1) {
        for (int64_t n = tree.first_node; n < tree.last_node; n++)
            for (int64_t t = problem.nodes[n].first; t < problem.nodes[n].last; t++)
                tokens[problem.nodes[n].column + t - problem.nodes[n].first] = t;
    }
    auto of(const Tensor& tensor, int64_t head) const {
        return [this, tensor, head](int64_t column) { return tokens[column] < 0 ? nullptr : tensor.row(head, tokens[column]); };
    }
};

auto query_rows(const Block& block, const Tensor& tensor) {  // rows of a block: tokens of its first head, of its second, ...
    return [&block, tensor](int64_t r) -> const uint16_t* { return tensor.row(block.head + r / block.rows, block.token + r % block.rows); };
}

template <class Rows>
const uint32_t* copy_rows(int64_t rows, int64_t width, Rows rows_of, Buffer<uint16_t>& into) {
    uint16_t* out = into.at_least(rows * width);
    for (int64_t r = 0; r < rows; r++) std::memcpy(out + r * width, rows_of(r), width * sizeof *out);
    return (const uint32_t*)out;
}

void write_rows(const Problem& problem, const Block& block, const float* values, const float* factors, const Tensor& out) {
    for (int64_t r = 0; r < problem.group() * block.rows; r++) {
        uint16_t* row = out.row(block.head + r / block.rows, block.token + r % block.rows);
        const __m512 factor = _mm512_set1_ps(factors ? factors[r] : 1.0f);
        for (int64_t i = 0; i < problem.width; i += LANES)
            _mm256_storeu_si256((__m256i*)(row + i), narrow(_mm512_mul_ps(_mm512_loadu_ps(values + r * problem.width + i), factor)));
    }
}

struct Task {
    int64_t kv_head, tree, part;
    double work;
};

std::vector<Task> plan_tasks(const Problem& problem, int64_t parts) {
    std::vector<Task> tasks;
    for (int64_t t = 0; t < int64_t(problem.trees.size()); t++)
        for (int64_t h = 0; h < problem.kv_heads; h++)
            for (int64_t p = 0; p < parts; p++) tasks.push_back({h, t, p, problem.trees[t].work / double(parts)});
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.work > b.work; });
    return tasks;
}

int64_t choose_parts(const Problem& problem, int64_t threads) {
    const int64_t tasks = problem.kv_heads * int64_t(problem.trees.size()), bytes = 8 * problem.kv_heads * problem.columns * problem.width;
    int64_t blocks = 1;
    for (const Tree& tree : problem.trees) blocks = std::max(blocks, tree.columns * problem.group() / BLOCK_ROWS);
    return std::max<int64_t>(1, std::min({(2 * threads + tasks - 1) / tasks, blocks, MAX_PART_BYTES / bytes}));
}

// Runs `work(number, buffers)` for the numbers below `count`, in any order; false when one of them found no memory.
template <class Buffers, class Work>
bool run_parallel(int64_t count, int64_t threads, Work work) {
    std::atomic<bool> failed{false};
#pragma omp parallel num_threads(threads)
    {
        Buffers buffers;
#pragma omp for schedule(dynamic, 1)
        for (int64_t number = 0; number < count; number++) {
            if (failed) continue;
            try {
                work(number, buffers);
            } catch (const std::bad_alloc&) {
                failed = true;
            }
        }
    }
    return !failed;
}

struct ForwardBuffers {
    Buffer<uint16_t> query, weights;
    Buffer<uint32_t> keys, values;
    Buffer<float> scores, mixed, factors;
};

struct Inputs {
    Tensor q, k, v;
    float scale;
};

void forward_block(const Problem& problem, const Tree& tree, const Block& block, const Inputs& in, const Tensor& out,
                   const uint32_t* turned_keys, const uint32_t* paired_values, ForwardBuffers& buffers) {
    const int64_t rows = problem.group() * block.rows, width = problem.width;
    const uint32_t* query = copy_rows(rows, width, query_rows(block, in.q), buffers.query);
    float* scores = buffers.scores.at_least(rows * block.columns);
    uint16_t* weights = buffers.weights.at_least(rows * block.columns);
    float *mixed = buffers.mixed.at_least(rows * width), *factors = buffers.factors.at_least(rows);
    for (const Span& span : block.spans)
        multiply(rows, round_up(span.length, LANES), width / 2, query, width / 2, 1, turned_keys + span.column, tree.columns,
                 scores + span.local, block.columns, false);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t position = block.position + r % block.rows;
        const float* row = scores + r * block.columns;
        const __m512 largest = _mm512_set1_ps(largest_score(block, position, problem.window, row));
        __m512 total = _mm512_setzero_ps();
        for_each_vector(block, position, problem.window, [&](int64_t column, __mmask16 seen) {
            const __m512 score = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + column), largest), _mm512_set1_ps(in.scale));
            const __m512 weight = _mm512_maskz_mov_ps(seen, exponential(score));
            total = _mm512_add_ps(total, weight);
            _mm256_storeu_si256((__m256i*)(weights + r * block.columns + column), narrow(weight));
        });
        factors[r] = 1.0f / _mm512_reduce_add_ps(total);
    }
    bool add = false;
    for (const Span& span : block.spans) {
        multiply(rows, width, round_up(span.length, LANES) / 2, (const uint32_t*)weights + span.local / 2, block.columns / 2, 1,
                 paired_values + span.column / 2 * width, width, mixed, width, add);
        add = true;
    }
    write_rows(problem, block, mixed, factors, out);
}

struct BackwardBuffers {
    Buffer<uint16_t> query, grad_out, slopes;
    Buffer<uint32_t> keys, values, paired_keys, paired_query, paired_grad_out, paired_weights, paired_slopes;
    Buffer<float> scores, weight_grads, query_grads, factors;
};

struct PackedTree {
    const uint32_t *turned_keys, *turned_values, *paired_keys;
    float *key_sums, *value_sums;
};

void backward_block(const Problem& problem, const Tree& tree, const Block& block, const Inputs& in, const Tensor& grad,
                    const Tensor& grad_q, const PackedTree& packed, BackwardBuffers& buffers) {
    const int64_t rows = problem.group() * block.rows, pairs = (rows + 1) / 2, width = problem.width;
    const uint32_t* query = copy_rows(rows, width, query_rows(block, in.q), buffers.query);
    const uint32_t* grad_out = copy_rows(rows, width, query_rows(block, grad), buffers.grad_out);
    uint32_t* paired_query = buffers.paired_query.at_least(pairs * width);
    uint32_t* paired_grad_out = buffers.paired_grad_out.at_least(pairs * width);
    pack_pairs(rows, width, query_rows(block, in.q), paired_query);
    pack_pairs(rows, width, query_rows(block, grad), paired_grad_out);
    float* scores = buffers.scores.at_least(2 * pairs * block.columns);
    float* weight_grads = buffers.weight_grads.at_least(2 * pairs * block.columns);
    float *query_grads = buffers.query_grads.at_least(rows * width), *factors = buffers.factors.at_least(4 * pairs);
    for (const Span& span : block.spans) {
        const int64_t columns = round_up(span.length, LANES);
        multiply(rows, columns, width / 2, query, width / 2, 1, packed.turned_keys + span.column, tree.columns, scores + span.local,
                 block.columns, false);
        multiply(rows, columns, width / 2, grad_out, width / 2, 1, packed.turned_values + span.column, tree.columns,
                 weight_grads + span.local, block.columns, false);
    }
    if (rows % 2) {  // the row that fills up the last pair
        std::fill_n(scores + rows * block.columns, block.columns, 0.0f);
        std::fill_n(weight_grads + rows * block.columns, block.columns, 0.0f);
        factors[2 * rows] = factors[2 * rows + 1] = 0.0f;
    }
    for (int64_t r = 0; r < rows; r++) {  // scores become exp(score - largest); 1 / their sum and the mean of the gradients are kept
        const int64_t position = block.position + r % block.rows;
        float* row = scores + r * block.columns;
        const float* row_grads = weight_grads + r * block.columns;
        const __m512 largest = _mm512_set1_ps(largest_score(block, position, problem.window, row));
        __m512 total = _mm512_setzero_ps(), mean = _mm512_setzero_ps();
        for_each_vector(block, position, problem.window, [&](int64_t column, __mmask16 seen) {
            const __m512 score = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + column), largest), _mm512_set1_ps(in.scale));
            const __m512 weight = _mm512_maskz_mov_ps(seen, exponential(score));
            total = _mm512_add_ps(total, weight);
            mean = _mm512_fmadd_ps(weight, _mm512_loadu_ps(row_grads + column), mean);
            _mm512_storeu_ps(row + column, weight);
        });
        const float factor = 1.0f / _mm512_reduce_add_ps(total);
        factors[2 * r] = factor;
        factors[2 * r + 1] = _mm512_reduce_add_ps(mean) * factor;
    }
    uint16_t* slopes = buffers.slopes.at_least(2 * pairs * block.columns);
    uint32_t* paired_weights = buffers.paired_weights.at_least(pairs * block.columns);
    uint32_t* paired_slopes = buffers.paired_slopes.at_least(pairs * block.columns);
    for (int64_t r = 0; r < 2 * pairs; r += 2)  // softmax and its gradient, two rows at a time
        for (int64_t column = 0; column < block.columns; column += LANES) {
            __m256i weights[2], row_slopes[2];
            for (int i = 0; i < 2; i++) {
                const int64_t at = (r + i) * block.columns + column;
                const __m512 weight = _mm512_mul_ps(_mm512_loadu_ps(scores + at), _mm512_set1_ps(factors[2 * (r + i)]));
                const __m512 away = _mm512_sub_ps(_mm512_loadu_ps(weight_grads + at), _mm512_set1_ps(factors[2 * (r + i) + 1]));
                weights[i] = narrow(weight);
                row_slopes[i] = narrow(_mm512_mul_ps(_mm512_mul_ps(weight, away), _mm512_set1_ps(in.scale)));
                _mm256_storeu_si256((__m256i*)(slopes + at), row_slopes[i]);
            }
            _mm512_storeu_si512(paired_weights + r / 2 * block.columns + column, pair_up(weights[0], weights[1]));
            _mm512_storeu_si512(paired_slopes + r / 2 * block.columns + column, pair_up(row_slopes[0], row_slopes[1]));
        }
    bool add = false;
    for (const Span& span : block.spans) {
        const int64_t columns = round_up(span.length, LANES);
        multiply(rows, width, columns / 2, (const uint32_t*)slopes + span.local / 2, block.columns / 2, 1,
                 packed.paired_keys + span.column / 2 * width, width, query_grads, width, add);
        multiply(columns, width, pairs, paired_slopes + span.local, 1, block.columns, paired_query, width,
                 packed.key_sums + span.column * width, width, true);
        multiply(columns, width, pairs, paired_weights + span.local, 1, block.columns, paired_grad_out, width,
                 packed.value_sums + span.column * width, width, true);
        add = true;
    }
    write_rows(problem, block, query_grads, nullptr, grad_q);
}

bool run_forward(const Problem& problem, const Inputs& in, const Tensor& out, int64_t threads) {
    const int64_t width = problem.width, parts = choose_parts(problem, threads);
    const std::vector<Task> tasks = plan_tasks(problem, parts);
    return run_parallel<ForwardBuffers>(int64_t(tasks.size()), threads, [&](int64_t number, ForwardBuffers& buffers) {
        const Task& task = tasks[number];
        const Tree& tree = problem.trees[task.tree];
        const TreeRows rows_of(problem, tree);
        uint32_t* turned_keys = buffers.keys.at_least(width / 2 * tree.columns);
        uint32_t* paired_values = buffers.values.at_least(tree.columns / 2 * width);
        pack_transposed(tree.columns, width, rows_of.of(in.k, task.kv_head), turned_keys);
        pack_pairs(tree.columns, width, rows_of.of(in.v, task.kv_head), paired_values);
        const std::vector<Block> blocks = cut_blocks(problem, tree, task.kv_head);
        for (int64_t b = task.part; b < int64_t(blocks.size()); b += parts)
            forward_block(problem, tree, blocks[b], in, out, turned_keys, paired_values, buffers);
    });
}

bool run_backward(const Problem& problem, const Inputs& in, const Tensor& grad, const Tensor& grad_q, const Tensor& grad_k,
                  const Tensor& grad_v, int64_t threads) {
    const int64_t width = problem.width, parts = choose_parts(problem, threads), each = problem.columns * width;
    const std::vector<Task> tasks = plan_tasks(problem, parts);
    const std::unique_ptr<float[]> sums(new float[2 * parts * problem.kv_heads * each]);  // of keys, then of values, by part and head
    auto sum_of = [&](int64_t which, int64_t part, int64_t head, int64_t column) {
        return sums.get() + ((which * parts + part) * problem.kv_heads + head) * each + column * width;
    };
    const bool done = run_parallel<BackwardBuffers>(int64_t(tasks.size()), threads, [&](int64_t number, BackwardBuffers& buffers) {
        const Task& task = tasks[number];
        const Tree& tree = problem.trees[task.tree];
        const TreeRows rows_of(problem, tree);
        uint32_t* turned_keys = buffers.keys.at_least(width / 2 * tree.columns);
        uint32_t* turned_values = buffers.values.at_least(width / 2 * tree.columns);
        uint32_t* paired_keys = buffers.paired_keys.at_least(tree.columns / 2 * width);
        pack_transposed(tree.columns, width, rows_of.of(in.k, task.kv_head), turned_keys);
        pack_transposed(tree.columns, width, rows_of.of(in.v, task.kv_head), turned_values);
        pack_pairs(tree.columns, width, rows_of.of(in.k, task.kv_head), paired_keys);
        float* key_sums = sum_of(0, task.part, task.kv_head, tree.column);
        float* value_sums = sum_of(1, task.part, task.kv_head, tree.column);
        std::fill_n(key_sums, tree.columns * width, 0.0f);
        std::fill_n(value_sums, tree.columns * width, 0.0f);
        const PackedTree packed{turned_keys, turned_values, paired_keys, key_sums, value_sums};
        const std::vector<Block> blocks = cut_blocks(problem, tree, task.kv_head);
        for (int64_t b = task.part; b < int64_t(blocks.size()); b += parts)
            backward_block(problem, tree, blocks[b], in, grad, grad_q, packed, buffers);
    });
    if (!done) return false;
    struct None {};
    const int64_t trees = int64_t(problem.trees.size());
    return run_parallel<None>(trees * problem.kv_heads, threads, [&](int64_t number, None&) {
        const int64_t head = number % problem.kv_heads;
        const Tree& tree = problem.trees[number / problem.kv_heads];
        const TreeRows rows_of(problem, tree);
        for (int64_t column = 0; column < tree.columns; column++) {
            const int64_t token = rows_of.tokens[column];
            if (token < 0) continue;
            for (int64_t which = 0; which < 2; which++)
                for (int64_t i = 0; i < width; i += LANES) {
                    __m512 total = _mm512_setzero_ps();
                    for (int64_t part = 0; part < parts; part++)
                        total = _mm512_add_ps(total, _mm512_loadu_ps(sum_of(which, part, head, tree.column + column) + i));
                    _mm256_storeu_si256((__m256i*)((which ? grad_v : grad_k).row(head, token) + i), narrow(total));
                }
        }
    });
}

}  // namespace

// sizes: heads, kv_heads, width, window. strides: (head, token) of every tensor, in their order. nodes: [count, 4] rows of a Forest.
// Both return 1 when there was no memory, else 0.
extern "C" {

int posttrain_forest_forward(const int64_t* sizes, float scale, const int64_t* nodes, int64_t count, uint16_t* q, uint16_t* k, uint16_t* v,
                             uint16_t* out, const int64_t* strides, int64_t threads) try {
    const Problem problem = read_problem(sizes, nodes, count);
    if (problem.trees.empty()) return 0;
    const Inputs in{{q, strides[0], strides[1]}, {k, strides[2], strides[3]}, {v, strides[4], strides[5]}, scale};
    return !run_forward(problem, in, {out, strides[6], strides[7]}, threads);
} catch (const std::bad_alloc&) {
    return 1;
}

int posttrain_forest_backward(const int64_t* sizes, float scale, const int64_t* nodes, int64_t count, uint16_t* grad, uint16_t* q,
                              uint16_t* k, uint16_t* v, uint16_t* grad_q, uint16_t* grad_k, uint16_t* grad_v, const int64_t* strides,
                              int64_t threads) try {
    const Problem problem = read_problem(sizes, nodes, count);
    if (problem.trees.empty()) return 0;
    const Inputs in{{q, strides[2], strides[3]}, {k, strides[4], strides[5]}, {v, strides[6], strides[7]}, scale};
    return !run_backward(problem, in, {grad, strides[0], strides[1]}, {grad_q, strides[8], strides[9]}, {grad_k, strides[10], strides[11]},
                         {grad_v, strides[12], strides[13]}, threads);
} catch (const std::bad_alloc&) {
    return 1;
}

}  // extern "C"
